"""What a comparison found, in one plain sentence for every number of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ttune.comparison.equivalent import equivalent_steps

Curve = Callable[[str], Mapping[int, float]]  # a figure's name -> steps -> the lowest of it, untuned, over all samplers


def headlines(rows: Sequence[Mapping[str, Any]], curve: Curve) -> list[str]:
    """Of every number of steps the tuned row with the lowest RMSE: how many untuned steps it is worth, and how near to real images."""
    lines = []
    for steps in dict.fromkeys(row["steps"] for row in rows):
        tuned = [row for row in rows if row["steps"] == steps and "method" in row]
        if tuned:
            best = min(tuned, key=lambda row: row["rmse"])
            near = [_near(best["rmse"], "the teacher", "RMSE", curve("rmse"), steps)]
            near += [] if best.get("real") is None else [_near(best["real"], "real images", "F", curve("real"), steps)]
            lines.append(f"{steps} tuned steps ({best['label']}, {best['sampler']}): {', '.join(line for line in near if line)}.")
    return lines


def _near(value: float, target: str, metric: str, curve: Mapping[int, float], steps: int) -> str:
    """How many untuned steps, with the best of all samplers, are as near; with the figures."""
    found = equivalent_steps(value, curve)
    if found is None:
        return f"{metric} to {target} {value:.3g}"
    same = f"; {curve[steps]:.3g} with {steps} untuned" if steps in curve else ""
    figures = f"({metric} {value:.3g}{same})"
    if found.bound == ">":
        lowest = f", the lowest untuned {min(curve.values()):.3g}"
        return f"nearer to {target} than any untuned schedule up to {max(curve)} steps ({metric} {value:.3g}{lowest})"
    if found.bound == "<":
        return f"farther from {target} than {min(curve)} untuned ones of the best sampler {figures}"
    return f"as near to {target} as {found.steps:.1f} untuned ones of the best sampler {figures}"
