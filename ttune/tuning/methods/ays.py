"""Align Your Steps (Sabour et al. 2024, arXiv 2404.14507): steps that were optimised for a few published models, for any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ttune.messages.names import meant
from ttune.network.denoiser import Denoiser
from ttune.noise.grids import AYS_TABLES
from ttune.noise.schedules import NoiseSchedule
from ttune.schedule.schedule import Schedule
from ttune.tuning.methods.method import Found, Task, best_of
from ttune.tuning.starting_points import Data

# Of log(sigma / alpha) at the largest time: a table is stretched to the ends of the schedule, by no more than this at the upper
# one. EDM's 80 is .7 from DeepFloyd's 160 and fits; VE's usual 50 is 1.2 from all tables and does not.
MAX_STRETCH = 1.0


@dataclass(frozen=True)
class AlignYourSteps:
    """A published table, its logarithm interpolated linearly to the schedule's number of steps.

    ``table`` is one of :data:`ttune.noise.grids.AYS_TABLES`; without it, those that begin nearest to this noise schedule's largest
    sigma / alpha (Stable Diffusion 1.5 and SDXL begin at the same one) are tried on the tuning x_T and the best is taken.
    """

    table: str | None = None

    name: ClassVar[str] = "ays"
    shared: ClassVar[bool] = True  # several ranks may tune together

    def __post_init__(self) -> None:
        if self.table is not None and self.table not in AYS_TABLES:
            raise ValueError(f"table must be one of {list(AYS_TABLES)}, got {self.table!r}{meant(self.table, AYS_TABLES)}")

    @property
    def changes(self) -> tuple[str, ...]:
        return ("times",)

    def check(self, denoiser: Denoiser, schedule: Schedule, data: Data | None) -> None:
        self._schedules(schedule, whole=False)

    def settings(self) -> dict[str, Any]:
        return {"table": self.table}

    def run(self, task: Task) -> Found:
        schedules = self._schedules(task.start, whole=task.problem.denoiser.integer_time)
        return Found(list(schedules.values())) if len(schedules) == 1 else best_of(task, schedules)

    def _schedules(self, like: Schedule, *, whole: bool) -> dict[str, Schedule]:
        final = "zero" if like.times[-1] == like.noise.t_clean else "min"
        tables = [self.table] if self.table is not None else fitting_tables(like.noise)
        made: dict[str, Schedule] = {}
        for table in tables:
            grid = Schedule.build(like.noise, like.sampler, like.steps, table, final=final).times
            made[table] = like.replace(times=np.round(grid) if whole else grid)
        return made


def fitting_tables(noise: NoiseSchedule) -> list[str]:
    """The tables that begin nearest to the largest sigma / alpha of ``noise``; ValueError if that is too far from all of them."""
    with np.errstate(divide="ignore"):
        largest = float(-noise.half_log_snr(noise.t_max))
    stretch = {name: abs(largest - float(np.log(table[0]))) for name, table in AYS_TABLES.items()}
    nearest = min(stretch.values())
    if not nearest <= MAX_STRETCH:
        begins = ", ".join(f"{name} at {table[0]:g}" for name, table in AYS_TABLES.items())
        raise ValueError(
            f"method 'ays': no published table fits this noise schedule, whose largest sigma / alpha is {np.exp(largest):.4g} "
            f"({begins}); name one (AlignYourSteps(table=...)) to stretch it all the same"
        )
    return [name for name, far in stretch.items() if far <= nearest + 1e-6]
