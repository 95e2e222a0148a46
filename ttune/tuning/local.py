"""Cheap tuning: every told time by itself, for one update from the teacher's own path back to it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from ttune.denoiser import Denoiser
from ttune.schedule import Schedule
from ttune.tuning.method import Found, Task, one_by_one, refuse_integer_time, told_first
from ttune.tuning.points import Data
from ttune.tuning.trajectory import tune_along_trajectory


@dataclass(frozen=True)
class Local:
    """One told time per evaluation: an update from a state of the teacher's path should arrive where the teacher does.

    Unlike :class:`~ttune.tuning.trajectory.Trajectory` no evaluation makes up for the errors of those before it: what a
    multistep sampler remembers comes from the teacher's path too.
    """

    name: ClassVar[str] = "local"
    shared: ClassVar[bool] = True  # several ranks may tune together

    @property
    def changes(self) -> tuple[str, ...]:
        return ("conditioning",)

    def check(self, denoiser: Denoiser, schedule: Schedule, data: Data | None) -> None:
        refuse_integer_time(denoiser)

    def settings(self) -> dict[str, Any]:
        return {}

    def run(self, task: Task) -> Found:
        told = partial(told_first, task.start)
        tau = one_by_one(
            task, self.name, lambda done: tune_along_trajectory(task.problem, task.start, task.teacher, done, on_path=True), told
        )
        return Found([told(tau)])
