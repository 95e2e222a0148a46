"""Where on its way a sampling went wrong that ends in NaN or infinity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ttune.network.denoiser import Conditions, Denoiser
from ttune.sampling.plan import Plan, Registers
from ttune.sampling.program import Program
from ttune.schedule.schedule import Schedule


class _Met(Exception):
    """An evaluation that is not finite, with a description."""


def stop_unless_finite(
    x_0: Tensor, denoiser: Denoiser, schedule: Schedule, start: Tensor, conditions: Conditions | None = None, seeds: Tensor | None = None
) -> Tensor:
    """``x_0`` as it is, if all of it is finite; else FloatingPointError, which names the evaluation and what to do.

    ``start`` (B, ...): the state at the schedule's first time that ``x_0`` was made from. Looking at every evaluation would make
    the host wait for the device at each of them, so it is sampled once more, and looked at then.
    """
    if torch.isfinite(x_0).all():
        return x_0
    found = first_not_finite(
        Program.make(Plan.make(denoiser, schedule, start.device), denoiser, start), denoiser, {"x": start}, conditions, seeds
    )
    raise FloatingPointError(f"the network returned NaN or infinity on the way through {schedule.sampler}, {schedule.steps} steps: {found}")


@torch.no_grad()
def first_not_finite(
    program: Program, denoiser: Denoiser, registers: Registers, conditions: Conditions | None, seeds: Tensor | None
) -> str:
    """Where a run of ``program`` from ``registers`` first meets NaN or infinity, in words; the run is not counted."""
    before = denoiser.evaluations, denoiser.spent
    plan, start = program.plan, registers["x"]
    last = len(plan.steps) - 1

    def visit(i: int, registers: Registers, outputs: Sequence[Tensor]) -> None:
        bad = [x for x in (registers["x"], *outputs) if not torch.isfinite(x).all()]
        if bad:
            rows = (~torch.isfinite(bad[0])).reshape(len(bad[0]), -1).any(1).nonzero().flatten().tolist()
            times = f"t = {plan.steps[i].time:g}, network time {plan.network_times[i]:g}"
            what = "the state before it is" if bad[0] is registers["x"] else "the network's output is"
            whose = f"of {len(rows)} of {len(start)} samples (first: {rows[0]})"
            raise _Met(f"at evaluation {i} of 0 to {last} ({times}) {what} not finite, {whose}")

    try:
        program.run(denoiser, registers, conditions, seeds=seeds, visit=visit)
        found = "every evaluation is finite: it is the last step, or the network does not say the same twice"
    except _Met as met:
        found = str(met)
    finally:
        denoiser.evaluations, denoiser.spent = before
    dtype = str(start.dtype).removeprefix("torch.")
    hint = "" if start.dtype in (torch.float32, torch.float64) else f"; {dtype} overflows early: try float32"
    return f"{found}{hint}"
