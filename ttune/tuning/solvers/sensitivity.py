"""How everything that a sampler is made of depends on the parameters: a matter of float64 numbers, central differences of the tableau, no
network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ttune.network.denoiser import Denoiser
from ttune.noise.schedules import Float64
from ttune.samplers.folding import PREDICTION
from ttune.sampling.plan import Registers, evaluations_of, folded
from ttune.schedule.schedule import Schedule

STEP = 1e-5  # of the central differences in float64: their error is of the order of its square


class ScheduleVector(Protocol):
    """Schedules as vectors; the numbers named in ``free`` may move: :class:`ttune.tuning.solvers.parameters.Parameters`, and others."""

    @property
    def free(self) -> np.ndarray: ...

    def project(self, theta: Float64) -> Float64:
        """The nearest vector that is allowed."""
        ...

    def schedule(self, theta: Float64) -> Schedule:
        """ValueError where no schedule belongs to ``theta``."""
        ...


@dataclass(frozen=True)
class Sensitivity:
    """A number, or several, that the sampler is made of, and its derivative in the free parameters: (...) and (P, ...)."""

    value: Tensor
    slope: Tensor

    def of_each(self, copies: Tensor) -> Tensor:
        """(B, ...) for copies (B, P) of the parameters' changes: as if every sample had its own."""
        return self.value + torch.tensordot(copies, self.slope, 1)


@dataclass(frozen=True)
class StageRows:
    """One stage's rows over named registers, as functions of the parameters, and the row of D for a threshold function."""

    names: tuple[str, ...]  # columns: "x", "o0", ..., retained, "D" (clamped), "prediction"
    outputs: tuple[str, ...]
    rows: Sensitivity  # (R, C)
    prediction: Sensitivity  # (1 + outputs,): of x and the network's outputs

    def __call__(self, denoiser: Denoiser, registers: Registers, outputs: Sequence[Tensor], copies: Tensor) -> dict[str, Tensor]:
        """The registers after this stage, every sample with its own copy of the parameters (B, P)."""
        known = dict(registers) | {f"o{j}": o for j, o in enumerate(outputs)}
        if PREDICTION in self.names:
            assert denoiser.threshold is not None
            terms = [registers["x"], *outputs][: self.prediction.value.shape[0]]
            known[PREDICTION] = denoiser.threshold(_combined(self.prediction.of_each(copies), terms))
        table = self.rows.of_each(copies)
        made: dict[str, Tensor] = {}
        for r, name in enumerate(self.outputs):
            used = [c for c, column in enumerate(self.names) if column in known]
            made[name] = _combined(table[:, r, used], [known[self.names[c]] for c in used])
            if name == "D":  # the first row, where the denoiser clips: what later rows use is the clamped prediction
                assert denoiser.clip_sample is not None
                known["D"] = made["D"] = made["D"].clamp(-denoiser.clip_sample, denoiser.clip_sample)
        return {name: tensor for name, tensor in made.items() if name != "D"}


@dataclass(frozen=True)
class QuadraticModel:
    """A schedule and its derivatives, ready for tensors."""

    stages: tuple[StageRows, ...]
    network_times: Sensitivity  # (n_evaluations,)
    start_scale: Sensitivity  # ()

    @staticmethod
    def make(denoiser: Denoiser, parameters: ScheduleVector, theta: Float64, device: torch.device) -> QuadraticModel:
        base = _numbers(denoiser, parameters.schedule(theta))
        slopes = [_slope(denoiser, parameters, theta, j, base) for j in parameters.free]

        def sensitivity(key: str, shape: tuple[int, ...], index: Mapping[tuple[object, ...], int]) -> Sensitivity:
            value, slope = np.zeros(shape), np.zeros((len(slopes), *shape))
            for place, flat in index.items():
                value.reshape(-1)[flat] = base.get((key, *place), 0.0)
                slope.reshape(len(slopes), -1)[:, flat] = [s.get((key, *place), 0.0) for s in slopes]
            return Sensitivity(torch.from_numpy(value).to(device), torch.from_numpy(slope).to(device))

        keys = dict.fromkeys(key for numbers in (base, *slopes) for key in numbers)
        count = sum(key[0] == "network_time" for key in keys)
        stages = []
        for i in range(count):
            rows = [key for key in keys if key[0] == f"row {i}"]
            outputs = tuple(dict.fromkeys(str(key[1]) for key in rows))
            names = tuple(dict.fromkeys(str(key[2]) for key in rows))
            index: dict[tuple[object, ...], int] = {(o, n): r * len(names) + c for r, o in enumerate(outputs) for c, n in enumerate(names)}
            width = sum(key[0] == f"prediction {i}" for key in keys)
            stages.append(
                StageRows(
                    names,
                    outputs,
                    sensitivity(f"row {i}", (len(outputs), len(names)), index),
                    sensitivity(f"prediction {i}", (width,), {(c,): c for c in range(width)}),
                )
            )
        return QuadraticModel(
            tuple(stages),
            sensitivity("network_time", (count,), {(i,): i for i in range(count)}),
            sensitivity("start", (), {(): 0}),
        )


def _combined(coefficients: Tensor, terms: Sequence[Tensor]) -> Tensor:
    """sum_c coefficients[:, c] terms[c], in the terms' dtype: coefficients (B, C), terms (B, ...)."""
    shape = (-1, *(1 for _ in terms[0].shape[1:]))
    weights = coefficients.to(terms[0].dtype).unbind(1)
    return sum((weight.reshape(shape) * term for weight, term in zip(weights, terms, strict=True)), torch.zeros_like(terms[0]))


Numbers = Mapping[tuple[object, ...], float]


def _numbers(denoiser: Denoiser, schedule: Schedule) -> Numbers:
    """Everything about a run that depends on the schedule, by name."""
    evaluations = evaluations_of(denoiser, schedule)
    numbers: dict[tuple[object, ...], float] = {("start",): schedule.noise.start_scale(schedule.times[0])}
    for i, (evaluation, rows) in enumerate(zip(evaluations, folded(denoiser, schedule, evaluations), strict=True)):
        numbers["network_time", i] = float(schedule.network_times[i])
        numbers |= {(f"prediction {i}", c): value for c, value in enumerate(evaluation.row)}
        numbers |= {(f"row {i}", name, column): value for name, row in rows.items() for column, value in row.items()}
    return numbers


def _slope(denoiser: Denoiser, parameters: ScheduleVector, theta: Float64, j: int, base: Numbers) -> Numbers:
    """The derivative of every number in parameter ``j``: a central difference, one-sided where a bound stops it."""
    sides: list[tuple[float, Numbers]] = []
    for h in (STEP, -STEP):
        moved = theta.copy()
        moved[j] += h
        if np.array_equal(parameters.project(moved), moved):
            try:
                schedule = parameters.schedule(moved)
            except ValueError:
                continue
            sides.append((h, _numbers(denoiser, schedule)))
    keys = {key for _, numbers in sides for key in numbers} | set(base)
    slope = {}
    for key in keys:
        each = [(numbers.get(key, 0.0) - base.get(key, 0.0)) / h for h, numbers in sides]
        # A network time that a bound holds does not move on one side; the other side is its slope.
        stuck = key[0] == "network_time" and len(each) == 2 and 0.0 in each
        slope[key] = sum(each) if stuck else sum(each) / max(len(each), 1)
    return {key: value for key, value in slope.items() if value != 0.0}
