"""TS-DPM (Li et al. 2024, arXiv 2305.15583): no training, a table of settings to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from ttune.network.denoiser import Denoiser
from ttune.schedule.schedule import Schedule
from ttune.schedule.time_shift import Shift
from ttune.tuning.methods.method import Found, Task, best_of
from ttune.tuning.starting_points import Data


@dataclass(frozen=True)
class Shifted:
    """While sampling, the network is passed, for every sample, the time that its variance belongs to
    (:class:`ttune.schedule.time_shift.Shift`). Window, cutoff and variance of the data are the best on the tuning x_T, by RMSE, as the
    paper's own table was made (by FID).

    ``windows`` and ``cutoffs`` are fractions of the largest time. ``data_variances``: 0 is the paper's level, sigma^2; with
    ``measured`` that of the teacher's samples is tried too, with which a state on the true path keeps the solver's time.
    Settings that shift the same evaluations are tried once.
    """

    windows: Sequence[float] = (0.01, 0.02, 0.04, 0.08, 0.16)
    cutoffs: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.6)
    data_variances: Sequence[float] = (0.0,)
    measured: bool = True

    name: ClassVar[str] = "shifted"
    shared: ClassVar[bool] = True  # several ranks may tune together

    def __post_init__(self) -> None:
        for name, values in (("windows", self.windows), ("cutoffs", self.cutoffs)):
            if not values or not all(0 < value <= 1 for value in values):
                raise ValueError(f"{name} must be at least one fraction of the largest time in (0, 1], got {list(values)}")
        if not (self.measured or self.data_variances) or not all(0 <= value < float("inf") for value in self.data_variances):
            raise ValueError(f"data_variances must be numbers >= 0, at least one unless measured, got {list(self.data_variances)}")

    @property
    def changes(self) -> tuple[str, ...]:
        return ("shift",)

    def check(self, denoiser: Denoiser, schedule: Schedule, data: Data | None) -> None:
        if not self._tries(schedule, 0.5):  # any variance in place of the measured one
            cutoffs = [cutoff * schedule.noise.t_max for cutoff in self.cutoffs]
            raise ValueError(
                f"schedule: no evaluation after the first is above a cutoff where its level of noise belongs to one time; the "
                f"cutoffs are {cutoffs}, the evaluations are at {schedule.tableau().times.tolist()}"
            )

    def settings(self) -> dict[str, Any]:
        return {"shifted": asdict(self)}

    def run(self, task: Task) -> Found:
        (variances,) = task.problem.per_sample(lambda batch: [batch.target.double().flatten(1).var(1).cpu().numpy()])
        return best_of(task, self._tries(task.start, float(variances.mean())))

    def _tries(self, schedule: Schedule, measured: float) -> dict[str, Schedule]:
        """The schedules to try, by what their shifts do."""
        tries: dict[str, Schedule] = {}
        seen: list[tuple[list[bool], float, float]] = []
        times, T = schedule.tableau().times.tolist(), schedule.noise.t_max
        for variance in [*self.data_variances, *([measured] if self.measured else [])]:
            for window in self.windows:
                for cutoff in self.cutoffs:
                    shift = Shift(window * T, cutoff * T, variance)
                    does = (shift.shifted(times, schedule.first), window, shift.data_variance)
                    if does in seen or not any(does[0]):
                        continue
                    seen.append(does)
                    try:
                        tries[f"window {window:g}, cutoff {cutoff:g}, variance {variance:g}"] = schedule.replace(shift=shift)
                    except ValueError:  # this level of noise belongs to several times
                        continue
        return tries
