"""A comparison as text: an aligned table for the terminal, markdown for a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttune.atomic import write_atomically
from ttune.comparison.equivalent import Equivalent

if TYPE_CHECKING:
    from ttune.comparison.outcome import Comparison

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
    "guard kept",
    "evaluations",
    "seconds",
    "MB",
)


def text_table(comparison: Comparison) -> str:
    """Every row, aligned; the lowest RMSE and Fréchet distance of a budget and sampler carry a *."""
    lines = [HEADS, *_lines(comparison)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADS))]
    texts = [
        "  ".join(word.ljust(w) if i in (1, 2) else word.rjust(w) for i, (word, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    texts.insert(1, "-" * len(texts[0]))
    failed = [f"failed: {cell}: {reason}" for cell, reason in comparison.failed.items()]
    return "\n".join([_heading(comparison), *(text.rstrip() for text in texts), *failed, "", *_half_lines(comparison)])


def markdown_table(comparison: Comparison) -> str:
    """The same as markdown."""
    rows = [" | ".join(line) for line in (HEADS, ("---:",) * len(HEADS), *_lines(comparison))]
    failed = [f"- failed: {cell}: {reason}" for cell, reason in comparison.failed.items()]
    halves = [f"- {line}" for line in _half_lines(comparison)]
    return "\n".join([_heading(comparison), "", *(f"| {row} |" for row in rows), "", *failed, *halves, ""])


def write_text(comparison: Comparison, path: Path) -> list[Path]:
    """``path`` with .txt and .md in place of its ending."""
    files = {path.with_suffix(".txt"): text_table(comparison) + "\n", path.with_suffix(".md"): markdown_table(comparison)}
    for file, text in files.items():
        write_atomically(file, text.encode())
    return list(files)


def _heading(comparison: Comparison) -> str:
    teacher = ", ".join(f"{k} {v}" for k, v in comparison.teacher.items())
    return (
        f"{comparison.model}: {comparison.n:,} held-out x_T, teacher {teacher}; F = Fréchet distance ({comparison.features}). "
        f"Figures are of what a method proposes, whether or not its guard kept it. '= untuned': steps of the best untuned grid "
        f"for the same error."
    )


def _lines(comparison: Comparison) -> list[tuple[str, ...]]:
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
        row["label"],
        f"{star('rmse')}{row['rmse']:.4f}",
        "" if not interval else f"{against['rmse_ratio']:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]",
        f"{star('frechet')}{row['frechet']:.4g} ± {row['frechet_standard_error']:.2g}",
        "-" if row["real"] is None else f"{row['real']:.2f} ± {row['real_standard_error']:.2f}",
        *(_equivalent(row[f"equivalent_{metric}_{which}"]) for metric in ("rmse", "frechet") for which in ("same_sampler", "best_sampler")),
        row.get("chosen", ""),
        f"{row['evaluations']:,}" if "evaluations" in row else "",
        f"{row['seconds']:.0f}" if "seconds" in row else "",
        "" if peak is None else f"{peak / 1e6:.0f}",
    )


def _equivalent(found: dict[str, Any] | None) -> str:
    return "-" if found is None else str(Equivalent(found["steps"], found["bound"]))


def _half_lines(comparison: Comparison) -> list[str]:
    """Half the steps: a line per tuned cell for which there are untuned figures at twice its steps."""
    lines = []
    for half in comparison.halves:
        parts = [f"{name.replace('_', ' ')}: {_half(half[name])}" for name in ("same_sampler", "best_sampler")]
        lines.append(
            f"{half['label']}, {half['sampler']}: {half['steps']} tuned against {2 * half['steps']} untuned steps, {'; '.join(parts)}"
        )
    return lines


def _half(entry: dict[str, Any]) -> str:
    def ratio(metric: str) -> str:
        value = entry[f"{metric}_ratio"]
        return "-" if value is None else f"{value:.2f} (lead {entry[f'{metric}_lead']:+.1f} s.e.)"

    return f"RMSE x {ratio('rmse')}, Fréchet x {ratio('frechet')}"


__all__: Sequence[str] = ["markdown_table", "text_table", "write_text"]
