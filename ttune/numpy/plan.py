"""A schedule as the steps of a sampling loop over NumPy arrays. The twin of ttune/sampling/plan.py, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttune.numpy.operators import linear_update, linear_update_
from ttune.samplers.folding import START_DRAW, Block, block, fold
from ttune.samplers.prediction import data_row, prediction_type_named
from ttune.schedule.schedule import Schedule

Array = NDArray[Any]
Registers = Mapping[str, Array]
Seeds = Array | Sequence[int]

_NAMES = ("name", "parameter_shapes", "weights")  # of the model that a schedule was tuned for: they say nothing about the rows


@dataclass(frozen=True)
class Step:
    """The update after one network evaluation: ``block.outputs`` = ``block.coeffs`` @ (``block.terms``, the clamped x_0
    prediction, noise), see :class:`ttune.samplers.folding.Block`.

    ``time``: the state's. ``network_times``: what the network gets there. ``draw``: the number of the step's noise.
    """

    time: float
    network_times: float
    clip: float | None
    draw: int
    block: Block

    def __call__(self, registers: Registers, outputs: Sequence[Array], seeds: Seeds | None = None) -> dict[str, Array]:
        """The registers after this step, given those before it ("x" is the state) and the network's outputs there.

        ``seeds``: one int64 per sample, for stochastic samplers. The arrays given are not written to. ValueError where there are not as
        many outputs as the step has (two where it is guided), or two in one memory: a network's own buffer must be copied.
        """
        self._check(outputs)
        if self.block.stochastic and seeds is None:
            raise ValueError("seeds must be given for a stochastic sampler, one per sample, got None")
        # In the state's dtype, whatever the network answers in.
        known = dict(registers) | {f"o{j}": np.asarray(output, registers["x"].dtype) for j, output in enumerate(outputs)}
        made = {name: np.empty_like(known["x"]) for name in self.block.outputs}
        terms = [known[name] for name in self.block.terms]
        noise = {"seeds": seeds, "draw": self.draw} if self.block.stochastic else {}
        linear_update_(list(made.values()), terms, self.block.coeffs, clip=self.clip, **noise)
        renamed = {new: (made | known)[old] for new, old in self.block.renames}
        return {name: array for name, array in made.items() if name != "D"} | renamed

    def _check(self, outputs: Sequence[Array]) -> None:
        used = [int(name[1:]) for name in self.block.terms if name[:1] == "o" and name[1:].isdigit()]
        if used and len(outputs) != max(used) + 1:
            raise ValueError(f"outputs must be {max(used) + 1}, by the guidance_scale of the plan, got {len(outputs)}")
        if len(used) == 2 and _same_memory(*outputs):
            raise ValueError("outputs must be two arrays, got one memory twice: copy what a network returns in a buffer of its own")


def _same_memory(a: Array, b: Array) -> bool:
    return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.size > 0 and a.ctypes.data == b.ctypes.data


@dataclass(frozen=True)
class Plan:
    """A schedule for a network of known kind, ready for arrays. A whole sampling loop:

        plan = Plan.make(schedule, prediction_type="epsilon")
        registers = plan.start(x_T)
        for step in plan.steps:
            registers = step(registers, [network(registers["x"], step.network_times)])
        x_0 = registers["x"]

    The same as :func:`ttune.sample`, to rounding. Stochastic samplers get ``seeds`` in ``start`` and in every step.
    """

    steps: tuple[Step, ...]
    start_scale: float
    first: Step | None  # what the sampler does before its first evaluation

    @staticmethod
    def make(
        schedule: Schedule,
        prediction_type: str = "epsilon",
        *,
        guidance_scale: float | None = None,
        clip_sample: float | None = None,
        clip_epsilon: str = "recompute",
    ) -> Plan:
        """Fold what the network predicts into the schedule's tableau, as :class:`ttune.Denoiser` would.

        ``guidance_scale``: classifier-free guidance; a step's outputs are then [with the condition, without it], unless
        it is 1. ``clip_sample`` clamps the x_0 prediction; ``clip_epsilon``: "recompute" epsilon from the clamped
        prediction, or "keep" the network's.
        ValueError: settings that there are not, or that the schedule was not tuned for; a schedule with a shift.
        """
        prediction_type = prediction_type_named(prediction_type)
        settings = {
            "prediction_type": prediction_type,
            "guidance_scale": guidance_scale,
            "clip_sample": clip_sample,
            "clip_epsilon": clip_epsilon,
        }
        _check_settings(schedule, settings)
        tableau = schedule.tableau()
        if any(stage.log_variance is not None for stage in tableau.stages):
            raise ValueError(f"schedule must not need a learned variance, got the sampler {schedule.sampler!r}")
        steps = []
        for i, stage in enumerate(tableau.stages):
            row = data_row(prediction_type, stage.alpha, stage.sigma, guidance_scale)
            rows = fold(stage, row, clip_sample is not None, clip_epsilon)
            steps.append(Step(stage.time, float(schedule.network_times[i]), clip_sample, schedule.first + i, block(rows)))
        first = None
        if tableau.start is not None:
            first = Step(steps[0].time, steps[0].network_times, None, START_DRAW, block({"x": tableau.start.update}))
        return Plan(tuple(steps), schedule.noise.start_scale(schedule.times[0]), first)

    def start(self, x_T: Array, seeds: Seeds | None = None) -> dict[str, Array]:
        """The registers before the first evaluation, for a state ``x_T`` (B, ...) at the largest time."""
        # A copy: a network that writes into what it is given must not write into the caller's x_T.
        x = np.array(x_T) if self.start_scale == 1.0 else linear_update([x_T], [[self.start_scale]])[0]
        return {"x": x} if self.first is None else self.first({"x": x}, [], seeds)


def _check_settings(schedule: Schedule, settings: Mapping[str, Any]) -> None:
    """ValueError for settings that there are not, or that the schedule was not tuned for, and for schedules of other loops."""
    guidance_scale, clip_sample, clip_epsilon = (settings[name] for name in ("guidance_scale", "clip_sample", "clip_epsilon"))
    if guidance_scale is not None and not abs(guidance_scale) < float("inf"):
        raise ValueError(f"guidance_scale must be a finite number or None, got {guidance_scale}")
    if clip_sample is not None and not 0 < clip_sample < float("inf"):
        raise ValueError(f"clip_sample must be a positive number or None, got {clip_sample}")
    if clip_epsilon not in ("recompute", "keep"):
        raise ValueError(f"clip_epsilon must be 'recompute' or 'keep', got {clip_epsilon!r}")
    for name, value in settings.items():
        if schedule.model.get(name, value) != value:
            raise ValueError(f"{name} must be what the schedule was tuned for, {schedule.model[name]!r}, got {value!r}")
    # Guidance by intervals or a classifier, rescaling and thresholds are not in the rows.
    for name, value in schedule.model.items():
        if name not in (*settings, *_NAMES) and value is not None:
            raise ValueError(f"schedule must be tuned without what ttune.numpy has not, got {name} = {value!r}")
    if schedule.shift is not None:
        raise ValueError(f"schedule must tell all samples the same time here, it has {schedule.shift}; use ttune.sample")
    if schedule.variants:
        raise ValueError(f"schedule must not choose variants of a network, which ttune.numpy has not, got {list(schedule.variants)}")
