"""The steps of a sampling.

A :class:`Plan` is a tableau folded with a denoiser: prediction type, guidance and clipping become part of each
stage's coefficients, so that every stage is one call of the network and one call of ``linear_update``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttune import ops
from ttune.network.denoiser import Conditions, Denoiser, Evaluation
from ttune.samplers import Tableau
from ttune.samplers.folding import PREDICTION, Block, Rows, block, fold
from ttune.samplers.points import Point
from ttune.sampling.per_sample_time import Shifting
from ttune.schedule.schedule import Schedule

Registers = Mapping[str, Tensor]


@dataclass(frozen=True)
class Bound:
    """D as a tensor of its own, bounded by a function that is not linear."""

    row: Tensor  # (1, 1 + outputs): x, then the network's outputs
    function: Callable[[Tensor], Tensor]

    @staticmethod
    def make(row: Sequence[float], function: Callable[[Tensor], Tensor], device: torch.device | str) -> Bound:
        return Bound(torch.tensor([row], dtype=torch.float64, device=device), function)

    def __call__(self, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        terms = [x, *outputs[: self.row.shape[-1] - 1]]
        return self.function(ops.linear_update(terms, self.row)[0])


@dataclass(frozen=True)
class Step:
    """One stage, ready for tensors: ``outputs`` = coeffs @ ``terms``, plus fresh noise where the stage asks for it.

    ``terms`` names the registers in the order of the columns, the network's outputs being "o0", "o1", ...;
    ``renames`` are registers that the next stage finds under another name, at no cost.
    """

    time: float
    terms: tuple[str, ...]
    outputs: tuple[str, ...]
    coeffs: Tensor  # (len(outputs), columns): terms, then the clamped x_0 prediction, then noise
    clip: float | None
    stochastic: bool
    renames: tuple[tuple[str, str], ...]  # (new name, old name)
    bound: Bound | None = None
    log_variance: tuple[float, float] | None = None

    @staticmethod
    def make(
        block: Block,
        time: float,
        clip: float | None,
        device: torch.device | str,
        bound: Bound | None = None,
        log_variance: tuple[float, float] | None = None,
    ) -> Step:
        coeffs = torch.from_numpy(block.coeffs).to(device)
        if log_variance is None:
            return Step(time, block.terms, block.outputs, coeffs, clip, block.stochastic, block.renames, bound)
        # Noise of a learned variance is a tensor like others: its column moves to the terms, before that of the clamped D.
        order = [*range(len(block.terms)), coeffs.shape[-1] - 1, *range(len(block.terms), coeffs.shape[-1] - 1)]
        return Step(time, (*block.terms, "noise"), block.outputs, coeffs[..., order], clip, True, block.renames, bound, log_variance)

    def __call__(
        self,
        registers: Registers,
        outputs: Sequence[Tensor],
        seeds: Tensor | None = None,
        draw: int | Tensor = 0,
    ) -> dict[str, Tensor]:
        """The registers after this stage, given those before it and the network's outputs there. ``draw``: the number of its noise."""
        known = {**registers, **{f"o{j}": o for j, o in enumerate(outputs)}}
        if self.stochastic and seeds is None:
            raise ValueError("seeds must be given for a stochastic sampler, one per sample, got None")
        if self.bound is not None:
            known[PREDICTION] = self.bound(registers["x"], outputs)
        inside = self.stochastic and self.log_variance is None  # noise made by the operator itself
        if self.log_variance is not None and seeds is not None:
            known["noise"] = learned_noise(known["x"], outputs[-1], self.log_variance, seeds, draw)
        terms = [known[name] for name in self.terms]
        if not self.outputs:  # the bounded prediction itself, under another name
            results: list[Tensor] = []
        elif inside or not torch.is_grad_enabled():
            # Without a gradient to record, the in-place operator spares the trip through autograd.
            results = [torch.empty_like(known["x"]) for _ in self.outputs]
            seeds = seeds if inside else None
            ops.linear_update_(results, terms, self.coeffs, None, self.clip, seeds, draw)
        else:
            results = ops.linear_update(terms, self.coeffs, None, self.clip)
        made = dict(zip(self.outputs, results, strict=True))
        # What bounds a prediction may write the next one into the same memory, as a network may.
        renamed = {new: known[old].clone() if old == PREDICTION else known[old] if old in known else made[old] for new, old in self.renames}
        made.pop("D", None)
        return made | renamed


@dataclass(frozen=True)
class Plan:
    """The steps of a schedule for one denoiser, what each evaluation is, and the network times."""

    steps: tuple[Step, ...]
    network_times: tuple[float, ...]
    evaluations: tuple[Evaluation, ...]
    start: Step | None = None  # before the first evaluation
    first_draw: int = 0
    shifting: Shifting | None = None  # of the network times, per sample
    start_scale: float = 1.0  # of x_T, for the state at the first time

    @staticmethod
    def make(denoiser: Denoiser, schedule: Schedule, device: torch.device | str = "cpu") -> Plan:
        """Fold ``denoiser`` into the tableau of ``schedule``; the coefficients go to ``device`` once, in float64."""
        tableau = schedule.tableau()
        evaluations = evaluations_of(denoiser, schedule)
        rows = folded(denoiser, schedule, evaluations)
        steps = []
        for stage, evaluation, row in zip(tableau.stages, evaluations, rows, strict=True):
            bound = None if denoiser.threshold is None else Bound.make(evaluation.row, denoiser.threshold, device)
            steps.append(Step.make(block(row), stage.time, denoiser.clip_sample, device, bound, stage.log_variance))
        shifting = Shifting.make(schedule, device, whole=denoiser.integer_time)
        network_times = tuple(schedule.network_times.tolist())
        scale = schedule.noise.start_scale(schedule.times[0])
        return Plan(tuple(steps), network_times, tuple(evaluations), start_step(tableau, device), schedule.first, shifting, scale)

    @property
    def stochastic(self) -> bool:
        return any(step.stochastic for step in (*self.steps, *([] if self.start is None else [self.start])))

    @property
    def guided(self) -> bool:
        return any(evaluation.scale is not None for evaluation in self.evaluations)

    def cost(self, denoiser: Denoiser) -> tuple[int, float]:
        """Evaluations of the network for one sample, and the same with each at the cost of its network."""
        costs = [denoiser.cost(evaluation) for evaluation in self.evaluations]
        return sum(costs), sum(cost * evaluation.share for cost, evaluation in zip(costs, self.evaluations, strict=True))

    def outputs(
        self, denoiser: Denoiser, i: int, x: Tensor, conditions: Conditions | None, tau: float | Tensor | None = None
    ) -> list[Tensor]:
        """The network's outputs at evaluation ``i``, at the schedule's network time or at ``tau``."""
        if tau is None:
            tau = self.network_times[i] if self.shifting is None else self.shifting(i, x)
        return denoiser.outputs(x, tau, conditions, self.evaluations[i])

    def advance(self, i: int, registers: Registers, outputs: Sequence[Tensor], seeds: Tensor | None = None) -> dict[str, Tensor]:
        """The registers after stage ``i``, given those before it and the network's outputs there."""
        return self.steps[i](registers, outputs, seeds, draw=self.first_draw + i)


def learned_noise(x: Tensor, variance: Tensor, log_variance: tuple[float, float], seeds: Tensor, draw: int | Tensor) -> Tensor:
    """Noise whose log-variance the network chose between the two ends, -1 meaning the low one (Nichol and Dhariwal 2021, eq. 15)."""
    low, high = log_variance
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    share = (variance.to(dtype) + 1) / 2
    unit = ops.philox_normal(tuple(x.shape[1:]), seeds, draw, dtype)
    return (torch.exp(0.5 * (low + share * (high - low))) * unit).to(x.dtype)


def start_step(tableau: Tableau, device: torch.device | str) -> Step | None:
    """What the sampler does to the state before its first evaluation, if anything."""
    if tableau.start is None:
        return None
    return Step.make(block({"x": tableau.start.update}), tableau.stages[0].time, None, device)


def evaluations_of(denoiser: Denoiser, schedule: Schedule) -> list[Evaluation]:
    """What each evaluation of the schedule is for ``denoiser``."""
    stages = schedule.tableau().stages
    if denoiser.guidance is not None:
        denoiser.guidance.check_length(schedule.first + len(stages))
    variants = schedule.variants or [0] * len(stages)
    return [
        denoiser.evaluation(schedule.first + i, Point(stage.time, stage.alpha, stage.sigma), variant)
        for i, (stage, variant) in enumerate(zip(stages, variants, strict=True))
    ]


def folded(denoiser: Denoiser, schedule: Schedule, evaluations: Sequence[Evaluation] | None = None) -> list[Rows]:
    """Every stage of the schedule's tableau over (x, outputs of ``denoiser``, retained, clamped D, noise)."""
    stages = schedule.tableau().stages
    evaluations = evaluations or evaluations_of(denoiser, schedule)
    clips, separate = denoiser.clip_sample is not None, denoiser.threshold is not None
    for i, stage in enumerate(stages):
        if stage.log_variance is not None and not denoiser.learned_variance:
            raise ValueError(f"evaluation {i} of {schedule.sampler!r} needs a denoiser with learned_variance=True")
    return [
        fold(stage, evaluation.row, clips, denoiser.clip_epsilon, separate=separate)
        for stage, evaluation in zip(stages, evaluations, strict=True)
    ]
