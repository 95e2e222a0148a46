"""A comparison as text: an aligned table for the terminal, markdown for a page."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import Required, TypedDict

from ttune.comparison.equivalent import Equivalent
from ttune.comparison.result import GRID_BY_FRECHET, ComparisonResult
from ttune.comparison.untuned import Spent
from ttune.evaluation.numbers import number, ratio
from ttune.evaluation.table import Table
from ttune.tuning.methods.timetuner import TimeTuner

WIDTH = 120  # columns of a terminal that a table fits
LONGEST = 18  # characters of a label in a table; a longer one has a number, and a line below
HEADS = ("K", "sampler", "method", "RMSE", "/ best grid [95 %]", "F-teacher", "F-real", "= untuned", "evaluations")
WITHOUT_HEADS = ("K", "steps spent", "sampler", "spacing", "best by", "RMSE", "F-teacher", "F-real")
WITHOUT_HEADING = "No method, the steps are spent: the best untuned schedule of all samplers and spacings with K and with 2K steps"
RETURNED_HEADS = ("K", "sampler", "method", "returned", "seconds", "MB", "RMSE, own sampler", "F, own", "F, any")
RETURNED_HEADING = (
    "What ttune tune returns: an untuned schedule, and its RMSE, where the proposal is not better on its own validation x_T. Then the "
    "untuned steps of the same RMSE or F-teacher, of the row's own sampler and of the best of any"
)
HALF_HEADS = ("K : 2K", "sampler", "method", "RMSE", "F-teacher", "RMSE, any", "F-teacher, any")
HALF_HEADING = (
    "Half the steps: tuned at K over the best untuned grid at 2K, of the same sampler and of the better of any sampler "
    "(in brackets by how many standard errors the tuned one is ahead)"
)


class AgainstGrid(TypedDict, total=False):
    rmse_ratio: float | None
    rmse_interval: list[float] | None


class EquivalentEntry(TypedDict, total=False):
    steps: Required[float]
    bound: str


class ReturnedEntry(TypedDict):
    rmse: float


class ComparisonRow(TypedDict, total=False):
    """What a table shows of a row of :attr:`Comparison.rows`; ``ttune report`` checks what it reads against this type."""

    steps: Required[int]
    sampler: Required[str]
    label: Required[str]
    rmse: Required[float]
    frechet: Required[float]
    frechet_standard_error: Required[float]
    real: float | None
    real_standard_error: float | None
    against_grid: AgainstGrid
    equivalent_rmse_same_sampler: EquivalentEntry | None
    equivalent_rmse_best_sampler: EquivalentEntry | None
    equivalent_frechet_same_sampler: EquivalentEntry | None
    equivalent_frechet_best_sampler: EquivalentEntry | None
    proposed_outcome: str | None
    chosen: str
    kept: ReturnedEntry
    evaluations: int
    seconds: float
    peak_memory: float | None


def text_table(comparison: ComparisonResult) -> str:
    """Every row, aligned, then what was returned, no method, and half the steps, in :data:`WIDTH` columns; the lowest RMSE and Fréchet
    distance of a budget and sampler carry a *."""
    sentences = [line for sentence in comparison.headlines for line in _wrapped(sentence)]
    parts = [*sentences, *_wrapped(_heading(comparison)), "", rows_table(comparison.rows).text()]
    for heading, table in _further(comparison):
        parts += ["", *_wrapped(heading), table.text()]
    notes = (*label_lines(comparison.rows), *_limits(comparison), *_procedures(comparison), *_missing(comparison))
    return "\n".join([*parts, *(line for note in notes for line in _wrapped(note))])


def markdown_table(comparison: ComparisonResult) -> str:
    """The same as markdown."""
    parts = [*(f"- {line}" for line in comparison.headlines), "", _heading(comparison), "", rows_table(comparison.rows).markdown(), ""]
    for heading, table in _further(comparison):
        parts += [heading, "", table.markdown(), ""]
    notes = (*label_lines(comparison.rows), *_limits(comparison), *_procedures(comparison), *_missing(comparison))
    return "\n".join([*parts, *(f"- {line}" for line in notes), ""])


def _further(comparison: ComparisonResult) -> list[tuple[str, Table]]:
    """The tables after the first, each with its heading."""
    tables = [(WITHOUT_HEADING, without_table(comparison.without_method)), (RETURNED_HEADING, returned_table(comparison.rows))]
    tables.append((HALF_HEADING, halves_table(comparison.halves)))
    return [(heading, table) for heading, table in tables if table.rows]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line a row of :attr:`Comparison.rows`; the lowest RMSE and Fréchet distance of its steps and sampler carry a *."""
    best: dict[tuple[Any, ...], float] = {}
    for row in rows:
        for metric, value in (("rmse", row["rmse"]), ("frechet", row["frechet"])):
            key = (row["steps"], row["sampler"], metric)
            best[key] = min(best.get(key, value), value)
    shown = short_labels(rows)
    return Table(HEADS, [_line(row, best, shown) for row in rows], (1, 2))


def returned_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What each tuning returned, its seconds and memory, and untuned steps by other figures and samplers."""
    shown = short_labels(rows)
    return Table(RETURNED_HEADS, [_returned_line(row, shown) for row in rows if "kept" in row], (1, 2, 3))


def without_table(found: Sequence[Spent]) -> Table:
    """A line per schedule of :attr:`Comparison.without_method`."""
    lines = [
        (
            str(entry["steps"]),
            str(entry["spent"]),
            entry["sampler"],
            entry["grid"],
            entry["by"],
            number(entry["rmse"], digits=3),
            *_distances(entry),
        )
        for entry in found
    ]
    return Table(WITHOUT_HEADS, lines, (2, 3, 4))


def short_labels(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What a table calls each label: itself, or for a long one its first word and a number."""
    labels = list(dict.fromkeys(row["label"] for row in rows))
    own = {GRID_BY_FRECHET: "best grid by F"}
    long = [label for label in labels if len(label) > LONGEST and label not in own]
    return {
        label: own.get(label, f"{re.split('[@:=]', label)[0][:12]} ({long.index(label) + 1})" if label in long else label)
        for label in labels
    }


def label_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The whole of every label that a table shortens, one line each."""
    return [f"{short}: {label}" for label, short in short_labels(rows).items() if short != label and label != GRID_BY_FRECHET]


def _limits(comparison: ComparisonResult) -> list[str]:
    """How many evaluations the methods were given, and which know no such limit."""
    limits = {limit for limit in comparison.limits.values() if limit is not None}
    if not limits:
        return []
    free = [label for label, limit in comparison.limits.items() if limit is None]
    others = f"; without a limit: {', '.join(free)}" if free else ""
    return [f"At most {max(limits):,} evaluations a tuning, without those of the teacher's samples{others}."]


def halves_table(halves: Sequence[Mapping[str, Any]]) -> Table:
    """Half the steps: a line per tuned cell for which there are untuned figures at twice its steps."""
    shown = short_labels(halves)
    lines = [
        (
            f"{half['steps']} : {2 * half['steps']}",
            half["sampler"],
            shown[half["label"]],
            *(_ratio(half[which], metric) for which in ("same_sampler", "best_sampler") for metric in ("rmse", "frechet")),
        )
        for half in halves
    ]
    return Table(HALF_HEADS, lines, (1, 2))


def _procedures(comparison: ComparisonResult) -> list[str]:
    """Which of TimeTuner's procedures a row is of, one line a label."""
    found: dict[str, str] = {}
    for cell, record in comparison.records.items():
        settings = record.get("settings", {})
        if settings.get("method") == TimeTuner.name:
            tuner = TimeTuner(**settings[TimeTuner.name])
            kind = "reroll=True, as released" if tuner.reroll else "reroll=False, not the released procedure, which is reroll=True"
            found[cell.label] = f"{cell.label}: TimeTuner, {tuner.procedure}, {kind}"
    return list(found.values())


def _missing(comparison: ComparisonResult) -> list[str]:
    """Why a cell has no row, one line a method and reason."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for kind, cells in (("not tuned", comparison.refused), ("failed", comparison.failed)):
        for cell, reason in cells.items():
            reasons.setdefault((kind, cell.label, " ".join(reason.split())), []).append(f"{cell.sampler} {cell.steps}")
    return [f"{kind}: {label} ({', '.join(where)}): {reason}" for (kind, label, reason), where in reasons.items()]


def _heading(comparison: ComparisonResult) -> str:
    teacher = ", ".join(f"{k} {v}" for k, v in comparison.teacher.items())
    return (
        f"{comparison.model}: {comparison.n:,} test x_T, teacher {teacher}; F = Fréchet distance ({comparison.features}). "
        f"Figures are of what a method proposes; evaluations are those of its tuning. '= untuned': steps of the best untuned grid of "
        f"{', '.join((*comparison.samplers, *comparison.untuned_samplers))} with the same RMSE."
    )


def _line(row: Mapping[str, Any], lowest: Mapping[tuple[Any, ...], float], shown: Mapping[str, str]) -> tuple[str, ...]:
    label = shown[row["label"]]
    best = {metric: "*" if row[metric] == lowest[row["steps"], row["sampler"], metric] else "" for metric in ("rmse", "frechet")}
    against = row.get("against_grid")
    interval = (against or {}).get("rmse_interval")
    distance, real = _distances(row)
    return (
        str(row["steps"]),
        row["sampler"],
        f"{label} (untuned)" if row.get("proposed_outcome") in ("untuned", "start") else label,
        f"{best['rmse']}{number(row['rmse'], digits=3)}",
        "" if not against or not interval else ratio(against["rmse_ratio"], interval[0], interval[-1]),
        f"{best['frechet']}{distance}",
        real,
        _equivalent(row.get("equivalent_rmse_best_sampler")),
        f"{row['evaluations']:,}" if "evaluations" in row else "",
    )


def _distances(row: Mapping[str, Any]) -> tuple[str, str]:
    """The Fréchet distances to the teacher's samples and to real images, with their errors."""
    real, error = row.get("real"), row.get("real_standard_error")
    to_real = "-" if real is None else f"{number(real, '.2f')} ± {number(error, '.2f')}"
    return f"{row['frechet']:.4g} ± {row['frechet_standard_error']:.2g}", to_real


def _returned_line(row: Mapping[str, Any], shown: Mapping[str, str]) -> tuple[str, ...]:
    peak = row.get("peak_memory")
    return (
        str(row["steps"]),
        row["sampler"],
        shown[row["label"]],
        _returned(row),
        f"{row['seconds']:.0f}" if "seconds" in row else "",
        "" if peak is None else f"{peak / 1e6:.0f}",
        _equivalent(row.get("equivalent_rmse_same_sampler")),
        _equivalent(row.get("equivalent_frechet_same_sampler")),
        _equivalent(row.get("equivalent_frechet_best_sampler")),
    )


def _returned(row: Mapping[str, Any]) -> str:
    """What a tuning returns; with its RMSE where that is not what was proposed first."""
    returned, chosen = row.get("kept"), row.get("chosen", "")
    return chosen if returned is None or returned["rmse"] == row["rmse"] else f"{chosen}, {number(returned['rmse'], digits=3)}"


def _equivalent(found: EquivalentEntry | None) -> str:
    return "-" if found is None else str(Equivalent(found["steps"], found.get("bound", "")))


def _ratio(entry: dict[str, Any], metric: str) -> str:
    value = entry[f"{metric}_ratio"]
    return "-" if value is None else f"{number(value, '.2f')} ({entry[f'{metric}_lead']:+.1f})"
