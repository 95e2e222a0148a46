"""Measuring samples: feature extractors, Fréchet distances, paired errors, and the report of a comparison."""

from ttune.evaluation.features import INCEPTION, FeatureExtractor, inception, lenet64, lenet64_train_statistics
from ttune.evaluation.fid import (
    RatioInterval,
    fid,
    frechet_distance,
    frechet_standard_error,
    metric_name,
    paired_interval,
    rmse_to,
)
from ttune.evaluation.report import FrechetEntry, ReportRow, image_grid, print_table, save_grid, write_picture, write_report
from ttune.evaluation.statistics import FeatureStatistics, StatisticsBuilder

__all__ = [
    "INCEPTION",
    "FeatureExtractor",
    "FeatureStatistics",
    "FrechetEntry",
    "RatioInterval",
    "ReportRow",
    "StatisticsBuilder",
    "fid",
    "frechet_distance",
    "frechet_standard_error",
    "image_grid",
    "inception",
    "lenet64",
    "lenet64_train_statistics",
    "metric_name",
    "paired_interval",
    "print_table",
    "rmse_to",
    "save_grid",
    "write_picture",
    "write_report",
]
