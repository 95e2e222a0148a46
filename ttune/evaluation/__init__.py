"""Measuring samples: feature extractors, distances between sets of images, paired errors, and the report of a comparison."""

from ttune.evaluation.cached_samples import CachedSamples, Candidate
from ttune.evaluation.evaluate import Real, evaluate
from ttune.evaluation.features.efficientnet import efficientnet_lite0
from ttune.evaluation.features.extractor import FeatureExtractor, lenet64, lenet64_train_statistics
from ttune.evaluation.features.feature_statistics import FeatureStatistics, StatisticsBuilder
from ttune.evaluation.features.inception import INCEPTION, inception
from ttune.evaluation.features.pooled_pixels import pooled_pixels
from ttune.evaluation.images.references import open_reference
from ttune.evaluation.metrics.confidence import SplitInterval, split_interval
from ttune.evaluation.metrics.frechet import (
    RatioInterval,
    fid,
    frechet_distance,
    frechet_standard_error,
    metric_name,
    paired_interval,
    rmse_to,
)
from ttune.evaluation.metrics.kid import kernel_distance, kernel_metric_name
from ttune.evaluation.metrics.precision_recall import Manifold, PrecisionRecall, precision_recall
from ttune.evaluation.pictures import image_grid, save_grid, write_picture
from ttune.evaluation.report_rows import FrechetEntry, ReportRow, print_metrics, print_table, write_report

__all__ = [
    "INCEPTION",
    "CachedSamples",
    "Candidate",
    "FeatureExtractor",
    "FeatureStatistics",
    "FrechetEntry",
    "Manifold",
    "PrecisionRecall",
    "RatioInterval",
    "Real",
    "ReportRow",
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
