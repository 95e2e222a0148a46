"""Ratios of a result of ``kernels`` as a picture: a row for every case and rival, a dot for every shape and dtype."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

TEXT, PLOT, ROW, TOP = 300, 640, 18, 30  # pixels: the words' width and the plot's, the height of a row and what is above the first
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def ratio_plot(results: Sequence[Mapping[str, Any]]) -> str:
    """An SVG. ``results``: records with "case", "shape", "dtype" and "ratios", at least one ratio among them. On a logarithmic axis:
    left of 1 ttune is the faster; a bar is a target, and a ratio beyond it is a hollow dot."""
    rows: dict[tuple[str, str], list[tuple[float, float | None, str]]] = {}
    for result in results:
        place = f"{'x'.join(map(str, result['shape']))} {result['dtype']}"
        for ratio in result["ratios"]:
            row = rows.setdefault((result["case"], f"{ratio['subject']} / {ratio['rival']}"), [])
            row.append((ratio["value"]["median"], ratio["at_most"], place))
    every = [value for row in rows.values() for value, _, _ in row] + [1.0]
    ticks = [t for t in TICKS if min(every) / 2.5 < t < 2.5 * max(every)]
    low, high = math.log(min(*every, ticks[0])), math.log(max(*every, ticks[-1]))
    x = lambda value: TEXT + PLOT * (math.log(value) - low) / (high - low)  # noqa: E731
    bottom = TOP + ROW * len(rows)
    parts = []
    for tick in ticks:
        strong = ' stroke-width="2"' if tick == 1 else ""
        parts.append(f'<path d="M{x(tick):.1f} {TOP - 8}V{bottom}" stroke="#8886"{strong}/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{TOP - 14}" text-anchor="middle">{tick:g}</text>')
    for i, ((case, ratio), row) in enumerate(rows.items()):
        y = TOP + ROW * (i + 0.5)
        parts.append(f'<text x="{TEXT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(f"{case}: {ratio}")}</text>')
        for target in dict.fromkeys(at_most for _, at_most, _ in row if at_most is not None):
            parts.append(f'<path d="M{x(target):.1f} {y - 7:.1f}v14" stroke="#c4420c" stroke-width="2"/>')
        for value, at_most, place in row:
            missed = at_most is not None and value > at_most
            fill = 'fill="none" stroke="#c4420c"' if missed else 'fill="#1668b8" fill-opacity=".7"'
            said = escape(f"{value:.2f} at {place}{', target missed' if missed else ''}")
            parts.append(f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="4" {fill}><title>{said}</title></circle>')
    width = TEXT + PLOT + 20
    return (
        f'<div class="wide"><svg width="{width}" height="{bottom + 8}" viewBox="0 0 {width} {bottom + 8}" role="img" font-size="12" '
        f'fill="currentColor"><title>Times over those of others, by case</title>{"".join(parts)}</svg></div>'
        "<p>Times over those of others: left of 1 ttune is the faster. Bars are targets; what misses its target is hollow.</p>"
    )
