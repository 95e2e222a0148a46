"""The figures of an evaluation that a table of methods has no room for, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ttune.evaluation.numbers import number
from ttune.evaluation.table import ReportRow


def print_metrics(rows: Sequence[ReportRow]) -> str:
    """A text table of every figure that has an interval or no column in :func:`ttune.evaluation.print_table`; empty if there is none.

    One line a figure: method, figure by its full name, value, 95 % interval by splitting, number of samples and real images.
    """
    lines = [line for row in rows for line in _lines(row)]
    if not lines:
        return ""
    heads = ("method", "figure", "value", "95 % interval", "against")
    widths = [max(len(line[i]) for line in [heads, *lines]) for i in range(len(heads))]
    texts = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in [heads, *lines]]
    texts.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(texts)


def _lines(row: ReportRow) -> list[tuple[str, str, str, str, str]]:
    name = row["name"]
    found: list[tuple[str, str, str, str, str]] = []
    if entry := row.get("frechet"):
        found.append((name, entry.get("name", ""), number(entry["value"]), _between(entry.get("interval")), _against(entry)))
    if entry := row.get("kernel"):
        found.append((name, entry["name"], number(entry["value"], ".6f"), _between(entry["interval"], ".6f"), _against(entry)))
    if entry := row.get("precision_recall"):
        for figure in ("precision", "recall"):
            title = f"{figure} ({entry['features']}, k = {entry['neighbours']})"
            found.append((name, title, number(entry[figure]), _between(entry[f"{figure}_interval"]), _against(entry)))
    if (value := row.get("rmse_to_teacher")) is not None and "rmse_interval" in row:
        title = f"RMSE ({row['rmse_space']})" if "rmse_space" in row else "RMSE"
        found.append((name, title, number(value), _between(row["rmse_interval"]), "the teacher's samples"))
    if entry := row.get("psnr_to_teacher"):
        value = "-" if entry["value"] is None else f"{number(entry['value'], '.2f')} dB"
        found.append((name, "PSNR", value, _between(entry["interval"], ".2f"), "the teacher's samples"))
    return found


def _between(interval: Mapping[str, Any] | None, spec: str = ".4f") -> str:
    return "-" if interval is None else f"[{number(interval['low'], spec)}, {number(interval['high'], spec)}]"


def _against(entry: Mapping[str, Any]) -> str:
    count = entry.get("reference_n")
    return f"{entry.get('reference', '')} ({'unknown' if count is None else f'{count:,}'})"
