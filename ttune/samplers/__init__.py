"""Samplers: functions from a schedule to a tableau. To add one, write the function and name it here.

A builder's keyword-only parameters are the sampler's options, ``Schedule.build(..., options={"order": 3})``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

from ttune.samplers.ddim import ddim, ddpm
from ttune.samplers.dpmpp_2m import dpmpp_2m
from ttune.samplers.euler import euler
from ttune.samplers.tableau import Row, Stage, Start, Tableau

if TYPE_CHECKING:
    from ttune.schedule import Schedule

SAMPLERS: dict[str, Callable[..., Tableau]] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "euler": euler,
    "dpmpp_2m": dpmpp_2m,
}


def build_tableau(schedule: Schedule) -> Tableau:
    """The tableau of ``schedule.sampler`` with ``schedule.options``; ValueError for an option that it does not have."""
    builder = SAMPLERS[schedule.sampler]
    accepted = [p.name for p in inspect.signature(builder).parameters.values() if p.kind is p.KEYWORD_ONLY]
    unknown = [name for name in schedule.options if name not in accepted]
    if unknown:
        raise ValueError(f"options of the sampler {schedule.sampler!r} must be among {accepted}, got {unknown}")
    return builder(schedule, **schedule.options)


__all__ = ["SAMPLERS", "Row", "Stage", "Start", "Tableau", "build_tableau"]
