"""A comparison as text: an aligned table for the terminal, markdown for a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ttune.comparison.equivalent import Equivalent
from ttune.comparison.result import ComparisonResult
from ttune.evaluation.numbers import number
from ttune.storage.atomic_write import write_atomically
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


def text_table(comparison: ComparisonResult) -> str:
    """Every row, aligned, then half the steps; the lowest RMSE and Fréchet distance of a budget and sampler carry a *."""
    parts = [_heading(comparison), _aligned([HEADS, *_lines(comparison)], left=(1, 2))]
    halves = _half_lines(comparison)
    if halves:
        parts += ["", HALF_HEADING, _aligned([HALF_HEADS, *halves], left=(1, 2))]
    return "\n".join([*parts, *_procedures(comparison), *_missing(comparison)])


def markdown_table(comparison: ComparisonResult) -> str:
    """The same as markdown."""
    parts = [_heading(comparison), "", *_piped([HEADS, *_lines(comparison)]), ""]
    halves = _half_lines(comparison)
    if halves:
        parts += [HALF_HEADING, "", *_piped([HALF_HEADS, *halves]), ""]
    return "\n".join([*parts, *(f"- {line}" for line in (*_procedures(comparison), *_missing(comparison))), ""])


def _aligned(lines: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join(word.ljust(width) if i in left else word.rjust(width) for i, (word, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    return "\n".join([texts[0].rstrip(), "-" * len(texts[0]), *(text.rstrip() for text in texts[1:])])


def _piped(lines: Sequence[Sequence[str]]) -> list[str]:
    rows = [lines[0], ["---:"] * len(lines[0]), *lines[1:]]
    return [f"| {' | '.join(word.replace('|', '/') for word in row)} |" for row in rows]


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


def write_text(comparison: ComparisonResult, path: Path) -> list[Path]:
    """``path`` with .txt and .md in place of its ending."""
    files = {path.with_suffix(".txt"): text_table(comparison) + "\n", path.with_suffix(".md"): markdown_table(comparison)}
    for file, text in files.items():
        write_atomically(file, text.encode())
    return list(files)


def _heading(comparison: ComparisonResult) -> str:
    teacher = ", ".join(f"{k} {v}" for k, v in comparison.teacher.items())
    return (
        f"{comparison.model}: {comparison.n:,} held-out x_T, teacher {teacher}; F = Fréchet distance ({comparison.features}). "
        f"Figures are of what a method proposes; 'returned' is what ttune tune returns: an untuned schedule, and its RMSE, where the "
        f"proposal is not better on its own held-out x_T. '= untuned': steps of the best untuned grid for the same error; "
        f"any sampler: of {', '.join((*comparison.samplers, *comparison.references))}."
    )


def _lines(comparison: ComparisonResult) -> list[tuple[str, ...]]:
    lowest: dict[tuple[Any, ...], float] = {}
    for row in comparison.rows:
        for metric in ("rmse", "frechet"):
            key = (row["steps"], row["sampler"], metric)
            lowest[key] = min(lowest.get(key, row[metric]), row[metric])
    return [_line(row, lowest) for row in comparison.rows]


def _line(row: dict[str, Any], lowest: dict[tuple[Any, ...], float]) -> tuple[str, ...]:
    def star(metric: str) -> str:
        return "*" if row[metric] == lowest[row["steps"], row["sampler"], metric] else ""

    against = row.get("against_grid") or {}
    interval = against.get("rmse_interval")
    peak = row.get("peak_memory")
    return (
        str(row["steps"]),
        row["sampler"],
        f"{row['label']} (untuned)" if row.get("proposed_outcome") in ("untuned", "start") else row["label"],
        f"{star('rmse')}{number(row['rmse'], digits=3)}",
        "" if not interval else "{} [{}, {}]".format(*(number(v, ".3f") for v in (against["rmse_ratio"], *interval))),
        f"{star('frechet')}{row['frechet']:.4g} ± {row['frechet_standard_error']:.2g}",
        "-" if row["real"] is None else f"{number(row['real'], '.2f')} ± {number(row['real_standard_error'], '.2f')}",
        *(_equivalent(row[f"equivalent_{metric}_{which}"]) for metric in ("rmse", "frechet") for which in ("same_sampler", "best_sampler")),
        _kept(row),
        f"{row['evaluations']:,}" if "evaluations" in row else "",
        f"{row['seconds']:.0f}" if "seconds" in row else "",
        "" if peak is None else f"{peak / 1e6:.0f}",
    )


def _kept(row: dict[str, Any]) -> str:
    """What a tuning returns; with its RMSE where that is not what was proposed first."""
    if "kept" not in row:
        return ""
    return row["chosen"] if row["kept"]["rmse"] == row["rmse"] else f"{row['chosen']}, {number(row['kept']['rmse'], digits=3)}"


def _equivalent(found: dict[str, Any] | None) -> str:
    return "-" if found is None else str(Equivalent(found["steps"], found["bound"]))


def _half_lines(comparison: ComparisonResult) -> list[tuple[str, ...]]:
    """Half the steps: a line per tuned cell for which there are untuned figures at twice its steps."""
    return [
        (
            f"{half['steps']} : {2 * half['steps']}",
            half["sampler"],
            half["label"],
            *(_ratio(half[which], metric) for which in ("same_sampler", "best_sampler") for metric in ("rmse", "frechet")),
        )
        for half in comparison.halves
    ]


def _ratio(entry: dict[str, Any], metric: str) -> str:
    value = entry[f"{metric}_ratio"]
    return "-" if value is None else f"{number(value, '.2f')} ({entry[f'{metric}_lead']:+.1f})"


__all__: Sequence[str] = ["markdown_table", "text_table", "write_text"]
