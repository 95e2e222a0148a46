"""A schedule as a vector, which optimisers move."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from ttune.noise.schedules import Float64
from ttune.schedule.schedule import Schedule

HALVINGS = 20  # of a step that leads to no schedule


class Vector(ABC):
    """``start_vector`` (P,) is where an optimiser begins."""

    start_vector: Float64

    @property
    def free(self) -> np.ndarray:
        """Indices of the components that may move."""
        return np.arange(len(self.start_vector))

    def project(self, theta: Float64) -> Float64:
        """The nearest vector that is allowed."""
        return theta

    @abstractmethod
    def schedule(self, theta: Float64) -> Schedule:
        """The schedule of a projected vector. ValueError where none belongs to ``theta``."""

    def moved(self, theta: Float64, step: Float64) -> Float64:
        """``theta`` minus ``step`` of its free components, or half of it, and so on, until a schedule belongs to it."""
        for _ in range(HALVINGS):
            trial = theta.copy()
            trial[self.free] -= step
            trial = self.project(trial)
            try:
                self.schedule(trial)
            except ValueError:
                step = step / 2
                continue
            return trial
        return theta
