"""Cheap tuning: every told time by itself, for one update from the teacher's own path back to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ttune.tuning.methods.trajectory import Trajectory


@dataclass(frozen=True)
class Local(Trajectory):
    """One told time per evaluation: an update from a state of the teacher's path should arrive where the teacher does.

    Unlike in :class:`~ttune.tuning.methods.trajectory.Trajectory` no evaluation makes up for the errors of those before it: what a
    multistep sampler remembers comes from the teacher's path too.
    """

    name: ClassVar[str] = "local"
    on_path: ClassVar[bool] = True
