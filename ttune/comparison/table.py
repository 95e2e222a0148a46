"""A comparison as text: an aligned table for the terminal, markdown for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import Required, TypedDict

from ttune.comparison.equivalent import Equivalent
from ttune.comparison.result import ComparisonResult
from ttune.evaluation.numbers import number, ratio
from ttune.evaluation.table import Table
from ttune.tuning.methods.timetuner import TimeTuner

HEADS = (
    "K",
    "sampler",
    "method",
    "RMSE",
    "of best grid [95 %]",
    "F-teacher",
    "F-real",
    "= untuned (RMSE)",
    "any sampler",
    "= untuned (F)",
    "any sampler",
    "returned",
    "evaluations",
    "seconds",
    "MB",
)
HALF_HEADS = ("K : 2K", "sampler", "method", "RMSE", "F-teacher", "RMSE, any sampler", "F-teacher, any sampler")
HALF_HEADING = (
    "Half the steps: tuned at K over the best untuned grid at 2K, of the same sampler and of the better of all samplers "
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
    """Every row, aligned, then half the steps; the lowest RMSE and Fréchet distance of a budget and sampler carry a *."""
    parts = [_heading(comparison), rows_table(comparison.rows).text()]
    if comparison.halves:
        parts += ["", HALF_HEADING, halves_table(comparison.halves).text()]
    return "\n".join([*parts, *_procedures(comparison), *_missing(comparison)])


def markdown_table(comparison: ComparisonResult) -> str:
    """The same as markdown."""
    parts = [_heading(comparison), "", rows_table(comparison.rows).markdown(), ""]
    if comparison.halves:
        parts += [HALF_HEADING, "", halves_table(comparison.halves).markdown(), ""]
    return "\n".join([*parts, *(f"- {line}" for line in (*_procedures(comparison), *_missing(comparison))), ""])


def rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line a row of :attr:`Comparison.rows`; the lowest RMSE and Fréchet distance of its steps and sampler carry a *."""
    lowest: dict[tuple[Any, ...], float] = {}
    for row in rows:
        for metric, value in (("rmse", row["rmse"]), ("frechet", row["frechet"])):
            key = (row["steps"], row["sampler"], metric)
            lowest[key] = min(lowest.get(key, value), value)
    return Table(HEADS, [_line(row, lowest) for row in rows], (1, 2))


def halves_table(halves: Sequence[Mapping[str, Any]]) -> Table:
    """Half the steps: a line per tuned cell for which there are untuned figures at twice its steps."""
    lines = [
        (
            f"{half['steps']} : {2 * half['steps']}",
            half["sampler"],
            half["label"],
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
        f"Figures are of what a method proposes; 'returned' is what ttune tune returns: an untuned schedule, and its RMSE, where the "
        f"proposal is not better on its own validation x_T. '= untuned': steps of the best untuned grid for the same error; "
        f"any sampler: of {', '.join((*comparison.samplers, *comparison.untuned_samplers))}."
    )


def _line(row: Mapping[str, Any], lowest: Mapping[tuple[Any, ...], float]) -> tuple[str, ...]:
    rmse, distance = row["rmse"], row["frechet"]
    best = {metric: "*" if row[metric] == lowest[row["steps"], row["sampler"], metric] else "" for metric in ("rmse", "frechet")}
    against, real, real_error, peak = row.get("against_grid"), row.get("real"), row.get("real_standard_error"), row.get("peak_memory")
    interval = (against or {}).get("rmse_interval")
    return (
        str(row["steps"]),
        row["sampler"],
        f"{row['label']} (untuned)" if row.get("proposed_outcome") in ("untuned", "start") else row["label"],
        f"{best['rmse']}{number(rmse, digits=3)}",
        "" if not against or not interval else ratio(against["rmse_ratio"], interval[0], interval[-1]),
        f"{best['frechet']}{distance:.4g} ± {row['frechet_standard_error']:.2g}",
        "-" if real is None else f"{number(real, '.2f')} ± {number(real_error, '.2f')}",
        _equivalent(row.get("equivalent_rmse_same_sampler")),
        _equivalent(row.get("equivalent_rmse_best_sampler")),
        _equivalent(row.get("equivalent_frechet_same_sampler")),
        _equivalent(row.get("equivalent_frechet_best_sampler")),
        _returned(row),
        f"{row['evaluations']:,}" if "evaluations" in row else "",
        f"{row['seconds']:.0f}" if "seconds" in row else "",
        "" if peak is None else f"{peak / 1e6:.0f}",
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
