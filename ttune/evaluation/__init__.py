"""Measuring samples: feature extractors, distances between sets of images, paired errors, and the report of a comparison."""

from ttune.evaluation.confidence import SplitInterval, split_interval
from ttune.evaluation.efficientnet import efficientnet_lite0
from ttune.evaluation.evaluation import Real, evaluate
from ttune.evaluation.features import FeatureExtractor, lenet64, lenet64_train_statistics
from ttune.evaluation.fid import (
    RatioInterval,
    fid,
    frechet_distance,
    frechet_standard_error,
    metric_name,
    paired_interval,
    rmse_to,
)
from ttune.evaluation.inception import INCEPTION, inception
from ttune.evaluation.kid import kernel_distance, kernel_metric_name
from ttune.evaluation.metrics_table import print_metrics
from ttune.evaluation.pixels import pooled_pixels
from ttune.evaluation.precision_recall import Manifold, PrecisionRecall, precision_recall
from ttune.evaluation.references import open_reference
from ttune.evaluation.report import FrechetEntry, ReportRow, image_grid, print_table, save_grid, write_picture, write_report
from ttune.evaluation.sampled import Candidate, Samples
from ttune.evaluation.statistics import FeatureStatistics, StatisticsBuilder

__all__ = [
    "INCEPTION",
    "Candidate",
    "FeatureExtractor",
    "FeatureStatistics",
    "FrechetEntry",
    "Manifold",
    "PrecisionRecall",
    "RatioInterval",
    "Real",
    "ReportRow",
    "Samples",
    "SplitInterval",
    "StatisticsBuilder",
    "efficientnet_lite0",
    "evaluate",
    "fid",
    "frechet_distance",
    "frechet_standard_error",
    "image_grid",
    "inception",
    "kernel_distance",
    "kernel_metric_name",
    "lenet64",
    "lenet64_train_statistics",
    "metric_name",
    "open_reference",
    "paired_interval",
    "pooled_pixels",
    "precision_recall",
    "print_metrics",
    "print_table",
    "rmse_to",
    "save_grid",
    "split_interval",
    "write_picture",
    "write_report",
]
