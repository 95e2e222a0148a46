"""What a few-step sampler is tuned to reach: an accurate solution from the same x_T."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttune.network.conditions import digest
from ttune.network.denoiser import Conditions, Denoiser
from ttune.sampling.nonfinite import stop_unless_finite
from ttune.sampling.plan import Plan, Registers
from ttune.sampling.program import Program
from ttune.sampling.sample import sample, start_state
from ttune.schedule.schedule import GRIDS, Schedule
from ttune.tuning.problem import Problem

# 2M on the log-SNR grid: on the bundled model 128 steps are 0.001 RMSE from 256 (reported by every tuning).
TEACHER_STEPS = 128
# How far a resumed run's network may be from the checkpoint's: of the teacher's sample, root mean square. Rounding on another machine is
# far below it, another network far above.
SAME_FUNCTION = 0.02

Seen = Callable[[float, float, Sequence[Tensor]], None]  # (time, network time, the network's outputs) of one evaluation


class Teacher:
    """A schedule of many steps for the same denoiser, or a function.

    A function is called as ``f(x_T)`` and returns x_0 at the student's last time; the methods that follow a
    whole trajectory call ``f(x_T, t)`` and expect the state at time t. ``remember`` keeps every x_0 for the next call from the
    same x_T and conditions: for several tunings of one model. What is remembered costs, and counts, no evaluations again.
    """

    def __init__(self, source: Schedule | Callable[..., Tensor], *, remember: bool = False) -> None:
        if not isinstance(source, Schedule) and not callable(source):
            raise TypeError(f"teacher must be a Schedule or a callable x_T -> x_0, got {type(source).__name__}")
        self.source = source
        self._remembered: dict[str, Tensor] | None = {} if remember else None
        self._whole: Teacher | None = None

    @property
    def remembers(self) -> bool:
        return self._remembered is not None

    @staticmethod
    def default(student: Schedule, steps: int = TEACHER_STEPS, *, remember: bool = False) -> Teacher:
        """2M on the log-SNR grid from T, with network times as solver times, ending where the student ends."""
        noise = student.noise
        # Where the log-SNR is infinite at T (flow matching), the grid starts a hair below.
        start = None if np.isfinite(noise.half_log_snr(noise.t_max)) else 0.999 * noise.t_max
        # Not Schedule.build: a teacher may have more steps than a short model was trained on.
        grid = GRIDS["log_snr"](noise, noise.t_max if start is None else start, steps, "zero")
        times = np.append(grid[grid > student.times[-1]], student.times[-1])
        return Teacher(Schedule(noise, "dpmpp_2m", times), remember=remember)

    def on_whole_times(self) -> Teacher:
        """This teacher at the whole times next to its own, for networks that know no others: fewer steps, where two fall together.

        The same one on every call, with what it remembers. Functions, and schedules with network times of their own,
        stay as they are.
        """
        source = self.source
        if not isinstance(source, Schedule) or source != source.replace(network_times=None) or (source.network_times % 1 == 0).all():
            return self
        if self._whole is None:
            whole = np.unique(np.round(source.times[:-1]))[::-1]
            times = np.append(whole[whole > source.times[-1]], source.times[-1])
            self._whole = Teacher(source.replace(times=times), remember=self._remembered is not None)
        return self._whole

    def endpoint(self, denoiser: Denoiser, x_T: Tensor, conditions: Conditions) -> Tensor:
        """x_0 (B, ...) from x_T (B, ...)."""
        if self._remembered is None:
            return self._endpoint(denoiser, x_T, conditions)
        key = digest(x_T, conditions)
        if key not in self._remembered:
            self._remembered[key] = self._endpoint(denoiser, x_T, conditions)
        return self._remembered[key]

    def learn(self, chunks: Iterable[tuple[Tensor, Conditions]], x_0: Tensor) -> None:
        """Remember that this teacher arrives at the rows of ``x_0`` (n, ...) from the x_T of ``chunks``, as an earlier process found.

        A teacher that does not remember forgets it at once."""
        if self._remembered is None:
            return
        first = 0
        for x_T, conditions in chunks:
            self._remembered[digest(x_T, conditions)] = _checked(x_0[first : first + len(x_T)], x_T)
            first += len(x_T)

    def _endpoint(self, denoiser: Denoiser, x_T: Tensor, conditions: Conditions) -> Tensor:
        if isinstance(self.source, Schedule):
            x_0 = sample(denoiser, self.source, x_T, conditions=conditions)
            if not self.source.tableau().stochastic:  # of a stochastic one there are no seeds to go the same way again
                stop_unless_finite(x_0, denoiser, self.source, start_state(self.source, x_T), conditions)
            return _checked(x_0, x_T)
        with torch.no_grad():
            return _checked(self.source(x_T.clone()), x_T)

    def trajectory(
        self, denoiser: Denoiser, x_T: Tensor, conditions: Conditions, times: Sequence[float], seen: Seen | None = None
    ) -> list[Tensor]:
        """The states (B, ...) at decreasing ``times``, whose last is the student's last one; at times before the
        teacher's own start, x_T as it would start there.

        ``seen(time, tau, outputs)`` is called with the network's outputs of every evaluation, if there are any.
        """
        if not isinstance(self.source, Schedule):
            with torch.no_grad():
                return [_checked(self.source(x_T.clone(), t), x_T) for t in times]
        if len(self.source.network_times) != self.source.steps:
            raise ValueError(f"teacher: a path needs a sampler with one evaluation a step, {self.source.sampler!r} has more")
        if self.source.coefficients is not None or self.source.shift is not None or self.source.variants:
            raise ValueError("teacher: a path needs a schedule without coefficients, shift or variants, which belong to its own steps")
        inner = [t for t in times if t < self.source.times[0]]
        merged = np.unique(np.concatenate([self.source.times, inner]))[::-1]
        own = dict(zip(self.source.tableau().times.tolist(), self.source.network_times.tolist(), strict=True))
        schedule = self.source.replace(times=merged)
        # The teacher has its own network times; at the times in between, the solver times.
        schedule = schedule.replace(
            network_times=[own.get(t, c) for t, c in zip(merged[:-1].tolist(), schedule.network_times, strict=True)]
        )
        start = float(merged[0])
        wanted = {t: x_T * schedule.noise.start_scale(t) for t in map(float, times) if t > start} | {start: start_state(schedule, x_T)}
        keep = {float(t) for t in times}

        def remember(i: int, _time: float, x: Tensor) -> None:
            if float(merged[i + 1]) in keep:
                wanted[float(merged[i + 1])] = x

        def visit(i: int, _registers: Registers, outputs: Sequence[Tensor]) -> None:
            if seen is not None:
                seen(float(merged[i]), float(schedule.network_times[i]), outputs)

        with torch.no_grad():
            program = Program.make(Plan.make(denoiser, schedule, x_T.device), denoiser, x_T)
            program.run(denoiser, {"x": wanted[start]}, conditions, callback=remember, visit=visit)
        return [wanted[float(t)] for t in times]

    def identity(self) -> dict[str, Any]:
        """What makes this teacher another than others, for a fingerprint."""
        if not isinstance(self.source, Schedule):
            return self.describe()
        return self.describe() | self.source.settings()

    def describe(self) -> dict[str, Any]:
        if isinstance(self.source, Schedule):
            return {"sampler": self.source.sampler, "steps": self.source.steps}
        return {"function": getattr(self.source, "__qualname__", type(self.source).__name__)}


def _checked(x: Tensor, x_T: Tensor) -> Tensor:
    """``x`` in the dtype of ``x_T`` and memory of its own: a function may write the next x_0 where this one is."""
    if not isinstance(x, Tensor) or x.shape != x_T.shape:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"teacher must return the shape of x_T, {tuple(x_T.shape)}, got {got}")
    if not torch.isfinite(x).all():
        raise FloatingPointError("the teacher, or the network on its way, returned NaN or infinity")
    return x.to(x_T.dtype, copy=True)


def check_same_function(problem: Problem, teacher: Teacher) -> None:
    """ValueError if the teacher's first sample is not roughly the one that the checkpoint remembers.

    For modules the digest of their weights says so, exactly, and a teacher that is a function does not use the network. The
    evaluations were paid for before the interruption, and are not counted.
    """
    denoiser, schedule = problem.denoiser, teacher.source
    if denoiser.modules() or not isinstance(schedule, Schedule) or schedule.tableau().stochastic:
        return
    counted = denoiser.evaluations, denoiser.spent

    def difference(first: Problem) -> float:
        x_0 = sample(denoiser, schedule, first.x_T, conditions=first.conditions)
        return float((x_0 - first.target).double().norm() / first.target.double().norm())

    found = problem.by_first(1, difference)
    denoiser.evaluations, denoiser.spent = counted
    if not found <= SAME_FUNCTION:
        raise ValueError(
            "resume: the network is another function than that of the checkpoint: the teacher's first sample must be within "
            f"{SAME_FUNCTION:.0%} of the one remembered, is {found:.1%} away; give the same network, or start without resume"
        )
