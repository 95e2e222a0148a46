"""A schedule as the steps of a sampling loop over NumPy arrays. The twin of ttune/plan.py, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttune.folding import Block, block, fold
from ttune.numpy.operators import linear_update_
from ttune.prediction import PREDICTION_TYPES, data_row
from ttune.schedule import Schedule

Array = NDArray[Any]


@dataclass(frozen=True)
class Step:
    """One network evaluation and the update after it, for arrays.

    The network is told ``conditioning`` where the state stands at ``time``. Calling the step with the registers and the
    network's outputs (one, or with and without the condition) gives the registers after it: ``block.outputs`` =
    ``block.coeffs`` @ (``block.terms``, clamped x_0 prediction, noise), see :class:`ttune.folding.Block`.
    """

    index: int
    time: float
    conditioning: float
    clip: float | None
    block: Block

    def __call__(
        self, registers: Mapping[str, Array], outputs: Sequence[Array], seeds: Array | Sequence[int] | None = None
    ) -> dict[str, Array]:
        """The registers after this step; "x" is the state. ``seeds``: one int64 per sample, for stochastic samplers."""
        if self.block.stochastic and seeds is None:
            raise ValueError("seeds must be given for a stochastic sampler, one per sample, got None")
        known = dict(registers) | {f"o{j}": output for j, output in enumerate(outputs)}
        made = {name: np.empty_like(known["x"]) for name in self.block.outputs}
        terms = [known[name] for name in self.block.terms]
        noise = {"seeds": seeds, "draw": self.index} if self.block.stochastic else {}
        linear_update_(list(made.values()), terms, self.block.coeffs, clip=self.clip, **noise)
        kept = {new: (known | made)[old] for new, old in self.block.renames}
        return {name: array for name, array in made.items() if name != "D"} | kept


def steps(
    schedule: Schedule,
    prediction_type: str = "epsilon",
    *,
    guidance_scale: float | None = None,
    clip_sample: float | None = None,
    clip_epsilon: str = "recompute",
) -> tuple[Step, ...]:
    """The steps of ``schedule`` for a network that predicts ``prediction_type``, as :class:`ttune.Denoiser` would fold
    them. A whole sampling loop, for a network that predicts epsilon:

        registers = {"x": x_T}
        for step in steps(schedule):
            registers = step(registers, [network(registers["x"], step.conditioning)])
        x_0 = registers["x"]

    ``guidance_scale``: classifier-free guidance; the outputs are then [with the condition, without it]. ``clip_sample``
    clamps the x_0 prediction; ``clip_epsilon``: "recompute" epsilon from the clamped prediction, or "keep" the network's.
    The loop begins at ``schedule.noise.start_scale(schedule.positions[0])`` times x_T, which is 1 for variance-preserving
    models. ValueError: settings that the schedule was not tuned for, or that are none of those.
    """
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type must be one of {sorted(PREDICTION_TYPES)}, got {prediction_type!r}")
    if clip_sample is not None and not 0 < clip_sample < float("inf"):
        raise ValueError(f"clip_sample must be a positive number or None, got {clip_sample}")
    if clip_epsilon not in ("recompute", "keep"):
        raise ValueError(f"clip_epsilon must be 'recompute' or 'keep', got {clip_epsilon!r}")
    given = {
        "prediction_type": prediction_type,
        "guidance_scale": guidance_scale,
        "clip_sample": clip_sample,
        "clip_epsilon": clip_epsilon,
    }
    for name, value in given.items():
        if name in schedule.model and schedule.model[name] != value:
            raise ValueError(f"{name} must be what the schedule was tuned for, {schedule.model[name]!r}, got {value!r}")
    made = []
    for i, (stage, conditioning) in enumerate(zip(schedule.tableau().stages, schedule.conditioning.tolist(), strict=True)):
        row = data_row(prediction_type, stage.alpha, stage.sigma, guidance_scale)
        rows = fold(stage, row, clip_sample is not None, clip_epsilon)
        made.append(Step(i, stage.time, conditioning, clip_sample, block(rows)))
    return tuple(made)
