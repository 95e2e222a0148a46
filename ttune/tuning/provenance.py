"""What a tuned schedule remembers of its tuning besides the figures of the decision: how it went, and what it went from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ttune.schedule.schedule import Schedule
from ttune.tuning.methods.method import Found

LONGEST = 200  # points of a line that a plot still shows apart; endpoint takes 30 by default, an evolution's rounds are fewer


def provenance(start: Schedule, found: Found) -> dict[str, Any]:
    """For ``tuned``, in plain values.

    "history": RMSE to the teacher on the tuning x_T per accepted iteration, by start: {name: {"at": iterations, "values": [...]}}.
    "start": the settings of the schedule that was to be improved; "best_untuned": those of the best untuned grid and its name
    ("given" is the start itself), or None where no grids were tried.
    """
    best = found.grids[0] if found.grids else None
    return {
        "history": compact(found.history),
        "start": start.settings(),
        "best_untuned": None if best is None else {"name": best.name, "schedule": best.schedule.settings()},
    }


def compact(history: Mapping[str, Sequence[float]]) -> dict[str, dict[str, list[float]]]:
    """Five digits of at most :data:`LONGEST` values a line, the first and the last among them."""
    lines = {}
    for name, values in history.items():
        at = np.unique(np.linspace(0, len(values) - 1, min(len(values), LONGEST)).round().astype(int)) if len(values) else []
        lines[str(name)] = {"at": [int(i) for i in at], "values": [float(f"{values[i]:.5g}") for i in at]}
    return lines
