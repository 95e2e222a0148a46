"""Samplers: functions from a schedule to a tableau. To add one, write the function and name it here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ttune.samplers.ddim import ddim, ddpm
from ttune.samplers.dpmpp_2m import dpmpp_2m
from ttune.samplers.euler import euler
from ttune.samplers.tableau import Row, Stage, Tableau

if TYPE_CHECKING:
    from ttune.schedule import Schedule

SAMPLERS: dict[str, Callable[[Schedule], Tableau]] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "euler": euler,
    "dpmpp_2m": dpmpp_2m,
}

__all__ = ["SAMPLERS", "Row", "Stage", "Tableau"]
