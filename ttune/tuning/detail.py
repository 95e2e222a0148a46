"""Detail: two numbers, level and slope, by which the network is passed lower times than the steps have, searched for any tuned schedule.

A network that is passed a lower time takes less noise out, and fine detail stays. People set it by hand ("detail" sliders); here
it is searched by a loss on the same x_T for all trials, so that their differences are the schedules'.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ttune.schedule.schedule import Schedule

FIRST_STEP = 0.03  # of level and slope; 2 to 4 % lower was best on the bundled model at 4 and 5 steps
LAST_STEP = 0.005
TRIALS = 15


def detailed(schedule: Schedule, level: float, slope: float, *, whole: bool = False) -> Schedule:
    """:meth:`ttune.Schedule.with_detail`, rounded to ``whole`` network times where the network knows no others."""
    made = schedule.with_detail(level, slope)
    if not whole:
        return made
    return made.replace(network_times=made.network_times.round(), coefficients=made.coefficients, tuned=made.tuned, model=made.model)


@dataclass
class DetailSearch:
    """A compass search in (level, slope) from (0, 0): a step in each direction, the first that is better is taken, else half the step.

    ``trials``: [level, slope, loss] in their order, plain values. A search that is given those of an interrupted one repeats none of them.
    """

    trials: list[list[float]] = field(default_factory=list)
    most: int = TRIALS

    def run(self, loss: Callable[[float, float], float], remember: Callable[[list[list[float]]], Any]) -> tuple[float, float]:
        """The best level and slope; ``remember`` is called with all trials after each new one."""
        known = {(level, slope): value for level, slope, value in self.trials}
        best, step = (0.0, 0.0), FIRST_STEP

        def measured(point: tuple[float, float]) -> float:
            if point not in known:
                known[point] = loss(*point)
                self.trials.append([*point, known[point]])
                remember(self.trials)
            return known[point]

        measured(best)
        while step >= LAST_STEP:
            for direction in ((1, 0), (0, 2), (-1, 0), (0, -2)):
                point = (round(best[0] + step * direction[0], 6), round(best[1] + step * direction[1], 6))
                if point not in known and len(known) >= self.most:
                    return best
                if measured(point) < known[best]:
                    best = point
                    break
            else:
                step /= 2
        return best


def as_detail(detail: object) -> str | tuple[float, float] | None:
    """ "auto", a level and a slope (two numbers, or "LEVEL,SLOPE" as the command line has them), or None; ValueError for anything else."""
    if detail is None:
        return None
    if detail == "auto":
        return "auto"
    pair = detail.split(",") if isinstance(detail, str) else list(detail) if isinstance(detail, (tuple, list)) else []
    try:
        level, slope = map(float, pair)
    except (TypeError, ValueError):
        level = slope = math.nan
    if not math.isfinite(level) or not math.isfinite(slope):
        raise ValueError(f"detail must be 'auto', a level and a slope such as (0.03, 0.06), or None, got {detail!r}")
    return level, slope
