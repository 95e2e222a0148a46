"""The rows of an evaluation: what is known of each, the two tables that show them, and the JSON file that keeps them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from typing_extensions import Required, TypedDict

from ttune.evaluation.metrics.frechet import metric_name
from ttune.evaluation.numbers import NONE, between, number, with_error
from ttune.evaluation.table import Table
from ttune.storage.atomic_write import write_atomically

# What ``ttune report`` reads is checked against these types: a field may be missing, another type is refused, unknown fields are left out.


class IntervalEntry(TypedDict, total=False):
    """95 %, by splitting the samples."""

    low: Required[float | None]
    high: Required[float | None]
    standard_error: float | None
    splits: int


class AgainstImages(TypedDict, total=False):
    features: Required[str]
    n: int | None  # generated images
    features_sha256: str | None  # of the weights that made the features: a name alone may be anybody's
    reference: str  # the real images
    reference_n: int | None


class FrechetEntry(AgainstImages, total=False):
    """A Fréchet or kernel distance to real images, by the name that its features allow ("FID" for Inception's only)."""

    value: Required[float | None]
    standard_error: float | None
    name: str
    interval: IntervalEntry | None


class KernelEntry(FrechetEntry, total=False):
    subsets: int
    subset_size: int


class PrecisionRecallEntry(AgainstImages, total=False):
    precision: Required[float | None]
    recall: Required[float | None]
    neighbours: Required[int]
    precision_interval: IntervalEntry | None
    recall_interval: IntervalEntry | None


class FeatureMetricEntry(AgainstImages, total=False):
    """One of ttune.evaluation.metrics.registry.FEATURE_METRICS."""

    value: Required[float | None]
    interval: IntervalEntry | None


class PsnrEntry(TypedDict, total=False):
    value: Required[float | None]
    identical: int  # images that are the teacher's own, whose PSNR is infinite
    interval: IntervalEntry | None


class ReportRow(TypedDict, total=False):
    """One schedule in a table; what is None or missing is not known."""

    name: Required[str]
    sampler: str | None
    method: str | None
    steps: int | None
    rmse_to_teacher: float | None
    frechet: FrechetEntry | None
    frechet_to_teacher: float | None
    network_evaluations: int | None
    seconds: float | None
    tuning: Mapping[str, float]  # what the tuning cost, by purpose
    kernel: KernelEntry
    precision_recall: PrecisionRecallEntry
    others: Mapping[str, FeatureMetricEntry]
    rmse_interval: IntervalEntry | None
    rmse_space: str  # "latents" where the RMSE is not of pictures
    psnr_to_teacher: PsnrEntry


def figures_table(rows: Sequence[ReportRow]) -> Table:
    """A line a schedule: steps, RMSE to the teacher (in the samples' units), Fréchet distance to real images with its standard error,
    Fréchet distance to the teacher's images, network evaluations, seconds; the notes name features and units.

    Raises:
        ValueError: Fréchet distances in different features, which no table may compare.
    """
    heads = ("method", "steps", "RMSE to teacher", "Fréchet to real", "Fréchet to teacher", "network evaluations", "seconds")
    lines = [
        (
            row["name"],
            number(row.get("steps"), "d"),
            number(row.get("rmse_to_teacher")),
            with_error(entry["value"], entry.get("standard_error")) if (entry := row.get("frechet")) else NONE,
            number(row.get("frechet_to_teacher"), ".3f"),
            number(row.get("network_evaluations"), ",d"),
            number(row.get("seconds"), ".1f"),
        )
        for row in rows
    ]
    spaces = sorted({space for row in rows if (space := row.get("rmse_space"))})
    notes = [*_features_note(rows), *([f"RMSE here: of {' and '.join(spaces)}"] if spaces else [])]
    return Table(heads, lines, notes=notes)


def _features_note(rows: Sequence[ReportRow]) -> list[str]:
    entries = [entry for row in rows if (entry := row.get("frechet"))]
    if not entries:
        return []
    names = {entry["features"] for entry in entries}
    if len(names) > 1:
        raise ValueError(f"rows: Fréchet distances of one table must be in the same features, got {sorted(names)}")
    counts = sorted({n for entry in entries if (n := entry.get("n")) is not None})
    if len(counts) > 1:
        size = f", n from {counts[0]:,} to {counts[-1]:,}: biased at small n, compare equal n only"
    else:
        size = f", n = {counts[0]:,}" if counts else ""
    return [f"Fréchet here: {metric_name(names.pop())}{size}"]


def details_table(rows: Sequence[ReportRow]) -> Table | None:
    """A line for every figure that has an interval or no column in :func:`figures_table`; None if there is none: method, figure by its
    full name, value, 95 % interval by splitting, and what it is against, with the number of real images."""
    lines = [line for row in rows for line in _details(row)]
    return Table(("method", "figure", "value", "95 % interval", "against"), lines, range(5)) if lines else None


def _details(row: ReportRow) -> list[tuple[str, str, str, str, str]]:
    name, teachers = row["name"], "the teacher's samples"
    found: list[tuple[str, str, str, str, str]] = []
    for entry, spec in ((row.get("frechet"), ".4f"), (row.get("kernel"), ".6f")):
        if entry:
            value = number(entry["value"], spec)
            found.append((name, entry.get("name") or entry["features"], value, _interval(entry.get("interval"), spec), _against(entry)))
    if entry := row.get("precision_recall"):
        for figure, interval in (("precision", entry.get("precision_interval")), ("recall", entry.get("recall_interval"))):
            title = f"{figure} ({entry['features']}, k = {entry['neighbours']})"
            found.append((name, title, number(entry[figure]), _interval(interval), _against(entry)))
    for metric, entry in row.get("others", {}).items():
        title = f"{metric} ({entry['features']})"
        found.append((name, title, number(entry["value"]), _interval(entry.get("interval")), _against(entry)))
    if (value := row.get("rmse_to_teacher")) is not None and "rmse_interval" in row:
        title = f"RMSE ({row['rmse_space']})" if "rmse_space" in row else "RMSE"
        found.append((name, title, number(value), _interval(row["rmse_interval"]), teachers))
    if entry := row.get("psnr_to_teacher"):
        value = NONE if entry["value"] is None else f"{number(entry['value'], '.2f')} dB"
        found.append((name, "PSNR", value, _interval(entry.get("interval"), ".2f"), teachers))
    return found


def _interval(interval: IntervalEntry | None, spec: str = ".4f") -> str:
    return NONE if interval is None else between(interval["low"], interval["high"], spec)


def _against(entry: AgainstImages) -> str:
    count = entry.get("reference_n")
    return f"{entry.get('reference', '')} ({'unknown' if count is None else f'{count:,}'})"


def print_table(rows: Sequence[ReportRow]) -> str:
    """:func:`figures_table` as text, its notes above it."""
    table = figures_table(rows)
    return "\n".join([*table.notes, table.text()])


def print_metrics(rows: Sequence[ReportRow]) -> str:
    """:func:`details_table` as text; empty if there is none."""
    table = details_table(rows)
    return "" if table is None else table.text()


def write_report(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write ``data`` as JSON (UTF-8, indented) in one piece: a reader sees the old file or the new one.

    NumPy numbers and arrays become numbers and lists.

    Raises:
        ValueError: NaN or an infinity somewhere in ``data``, for which JSON has no word.
        TypeError: a value that JSON cannot hold.
    """

    def plain(value: object) -> object:
        if isinstance(value, (np.generic, np.ndarray)):
            return value.tolist()
        raise TypeError(f"data: must hold JSON values or NumPy numbers and arrays, got {type(value).__name__}")

    try:
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=plain)
    except ValueError as error:
        raise ValueError(f"data: must be finite to be written as JSON, got NaN or an infinity ({error})") from error
    write_atomically(path, (text + "\n").encode())
