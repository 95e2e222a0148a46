"""The one sampling loop.

A :class:`Plan` is a tableau folded with a denoiser: prediction type, guidance and clipping become part of each
stage's coefficients, so that every stage is one call of the network and one call of ``linear_update``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttune import ops
from ttune.denoiser import Conditions, Denoiser
from ttune.folding import START_DRAW, Block, Rows, block, fold
from ttune.samplers import Tableau
from ttune.schedule import Schedule

Registers = Mapping[str, Tensor]
Callback = Callable[[int, float, Tensor], Tensor | None]


@dataclass(frozen=True)
class Step:
    """One stage, ready for tensors: ``outputs`` = coeffs @ ``terms``, plus fresh noise where the stage asks for it.

    ``terms`` names the registers in the order of the columns, the network's outputs being "o0", "o1", ...;
    ``renames`` are registers that the next stage finds under another name, at no cost. A step made of several stages
    (:func:`ttune.folding.uniform_block`) has a table of coefficients.
    """

    time: float
    terms: tuple[str, ...]
    outputs: tuple[str, ...]
    coeffs: Tensor  # (len(outputs), columns): terms, then the clamped x_0 prediction, then noise; (K, ...) for a table
    clip: float | None
    stochastic: bool
    renames: tuple[tuple[str, str], ...]  # (new name, old name)

    @staticmethod
    def make(block: Block, time: float, clip: float | None, device: torch.device | str) -> Step:
        coeffs = torch.from_numpy(block.coeffs).to(device)
        return Step(time, block.terms, block.outputs, coeffs, clip, block.stochastic, block.renames)

    def __call__(
        self,
        registers: Registers,
        outputs: Sequence[Tensor],
        seeds: Tensor | None = None,
        draw: int | Tensor = 0,
        step: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The registers after this stage, given those before it and the network's outputs there.

        ``draw``: the number of its noise; ``step``: which block of a table.
        """
        known = dict(registers) | {f"o{j}": o for j, o in enumerate(outputs)}
        terms = [known[name] for name in self.terms]
        if self.stochastic and seeds is None:
            raise ValueError("seeds must be given for a stochastic sampler, one per sample, got None")
        if self.stochastic or not torch.is_grad_enabled():
            # Without a gradient to record, the in-place operator spares the trip through autograd.
            results = [torch.empty_like(known["x"]) for _ in self.outputs]
            seeds = seeds if self.stochastic else None
            ops.linear_update_(results, terms, self.coeffs, step, self.clip, seeds, draw)
        else:
            results = ops.linear_update(terms, self.coeffs, step, self.clip)
        made = dict(zip(self.outputs, results, strict=True))
        kept = {new: (made | known)[old] for new, old in self.renames}
        return {name: tensor for name, tensor in made.items() if name != "D"} | kept


@dataclass(frozen=True)
class Plan:
    """The steps of a schedule for one denoiser, and what the network is told at each."""

    steps: tuple[Step, ...]
    conditioning: tuple[float, ...]
    start: Step | None = None  # before the first evaluation

    @staticmethod
    def make(denoiser: Denoiser, schedule: Schedule, device: torch.device | str = "cpu") -> Plan:
        """Fold ``denoiser`` into the tableau of ``schedule``; the coefficients go to ``device`` once, in float64."""
        tableau = schedule.tableau()
        stages = tableau.stages
        blocks = (block(rows) for rows in folded(denoiser, schedule))
        steps = tuple(Step.make(block, stage.time, denoiser.clip_sample, device) for block, stage in zip(blocks, stages, strict=True))
        return Plan(steps, tuple(schedule.conditioning.tolist()), start_step(tableau, device))

    def advance(self, i: int, registers: Registers, outputs: Sequence[Tensor], seeds: Tensor | None = None) -> dict[str, Tensor]:
        """The registers after stage ``i``, given those before it and the network's outputs there."""
        return self.steps[i](registers, outputs, seeds, draw=i)

    def run(
        self,
        denoiser: Denoiser,
        registers: Registers,
        conditions: Conditions | None = None,
        *,
        first: int = 0,
        outputs: Sequence[Tensor] | None = None,
        seeds: Tensor | None = None,
        visit: Callable[[int, Registers, Sequence[Tensor]], None] | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """The final state, from stage ``first`` on (0: with what the sampler does before it).

        ``outputs``, if given, spares the network call of that stage.

        ``visit(i, registers, outputs)`` sees everything that stage i starts from; ``callback(i, time, x)`` sees
        the state after stage i and may return another.
        """
        if first == 0 and self.start is not None:
            registers = self.start(registers, (), seeds, START_DRAW)
        for i in range(first, len(self.steps)):
            if outputs is None:
                outputs = denoiser.outputs(registers["x"], self.conditioning[i], conditions)
            if visit is not None:
                visit(i, registers, outputs)
            registers = self.advance(i, registers, outputs, seeds)
            outputs = None
            if callback is not None:
                replaced = callback(i, self.steps[i].time, registers["x"])
                if replaced is not None:
                    registers = {**registers, "x": replaced}
        return registers["x"]


def start_step(tableau: Tableau, device: torch.device | str) -> Step | None:
    """What the sampler does to the state before its first evaluation, if anything."""
    if tableau.start is None:
        return None
    return Step.make(block({"x": tableau.start.update}), tableau.stages[0].time, None, device)


def folded(denoiser: Denoiser, schedule: Schedule) -> list[Rows]:
    """Every stage of the schedule's tableau over (x, outputs of ``denoiser``, retained, clamped D, noise)."""
    clips = denoiser.clip_sample is not None
    return [fold(stage, denoiser.data_row(stage.alpha, stage.sigma), clips, denoiser.clip_epsilon) for stage in schedule.tableau().stages]
