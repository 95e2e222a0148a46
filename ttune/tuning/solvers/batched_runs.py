"""Several runs of one sampler from the same starting points, their network calls put into one batch where they can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ttune.network.conditions import leaves, of_rows, repeated
from ttune.network.denoiser import Conditions, Denoiser, Evaluation
from ttune.network.guidance import ClassifierFree
from ttune.sampling.plan import Plan, Registers
from ttune.sampling.program import Program


@dataclass(frozen=True)
class Restart:
    """A run of ``plan`` from its evaluation ``first`` on, from ``registers``; ``outputs``: the network's there, where they are known."""

    plan: Plan
    registers: Registers
    first: int = 0
    outputs: Sequence[Tensor] | None = None

    def alone(self, denoiser: Denoiser, conditions: Conditions) -> Tensor:
        program = Program.make(self.plan, denoiser, self.registers["x"])
        return program.run(denoiser, self.registers, conditions, first=self.first, outputs=self.outputs)


def side_by_side(denoiser: Denoiser, restarts: Sequence[Restart], conditions: Conditions, limit: int) -> list[Tensor]:
    """x_0 of every run, in their order: what :meth:`Program.run` returns for each, up to the rounding of another batch size.

    At most ``limit`` at once; a call of the network that the memory does not hold is made in parts, as all calls of a denoiser.
    """
    limit = limit if _can_be_batched(denoiser) else 1
    done: list[Tensor] = []
    while len(done) < len(restarts):
        group = restarts[len(done) : len(done) + limit]
        done += [group[0].alone(denoiser, conditions)] if len(group) == 1 else _lockstep(denoiser, group, conditions)
    return done


def _can_be_batched(denoiser: Denoiser) -> bool:
    """Not where a null condition has rows of its own: there is one per sample of the original batch."""
    guidance = denoiser.guidance
    nulls = guidance.null.values() if isinstance(guidance, ClassifierFree) else ()
    held = (leaf for null in nulls for _, leaf in leaves(null))
    return not any(isinstance(null, Tensor) and null.ndim > 0 and null.shape[0] > 1 for null in held)


def _lockstep(denoiser: Denoiser, restarts: Sequence[Restart], conditions: Conditions) -> list[Tensor]:
    """Evaluation by evaluation; a run joins at its first."""
    states = [dict(restart.registers) for restart in restarts]
    for i, restart in enumerate(restarts):
        if restart.first == 0 and restart.plan.start is not None:
            states[i] = restart.plan.start(states[i], (), None, 0)
    for i in range(len(restarts[0].plan.steps)):
        known = {n: r.outputs for n, r in enumerate(restarts) if r.first == i and r.outputs is not None}
        waiting = [n for n, r in enumerate(restarts) if r.first <= i and n not in known]
        outputs = {**known, **_outputs(denoiser, restarts, states, waiting, i, conditions)}
        for n, found in outputs.items():
            states[n] = restarts[n].plan.advance(i, states[n], found)
    return [state["x"] for state in states]


def _outputs(
    denoiser: Denoiser, restarts: Sequence[Restart], states: Sequence[Registers], waiting: Sequence[int], i: int, conditions: Conditions
) -> dict[int, Sequence[Tensor]]:
    """The network's outputs at evaluation ``i`` of those runs, in as few calls as their networks allow."""
    found: dict[int, Sequence[Tensor]] = {}
    groups = _grouped(waiting, lambda n: restarts[n].plan.evaluations[i])
    for group in groups:
        xs = [states[n]["x"] for n in group]
        batch = len(xs[0])
        times = [_times_passed(restarts[n].plan, i, x) for n, x in zip(group, xs, strict=True)]
        times_over = partial(repeated, times=len(group))
        given = {k: of_rows(times_over, v, batch, denoiser.shared, k) for k, v in conditions.items()}
        together = denoiser.outputs(torch.cat(xs), torch.cat(times), given, restarts[group[0]].plan.evaluations[i])
        if len(groups) > 1:  # copies, for the next call may be written into the same memory
            together = [output.clone() for output in together]
        found |= {n: [o[j * batch : (j + 1) * batch] for o in together] for j, n in enumerate(group)}
    return found


def _grouped(runs: Sequence[int], evaluation: Callable[[int], Evaluation]) -> list[list[int]]:
    """Those whose call of the network is the same: where guidance depends on the place, another place may be another call."""
    groups: list[list[int]] = []
    for n in runs:
        like = next((group for group in groups if evaluation(group[0]).same_call(evaluation(n))), None)
        groups.append([n]) if like is None else like.append(n)
    return groups


def _times_passed(plan: Plan, i: int, x: Tensor) -> Tensor:
    """(B,) what the network is passed."""
    tau = plan.network_times[i] if plan.shifting is None else plan.shifting(i, x)
    if isinstance(tau, Tensor):
        return tau.expand(len(x)) if tau.ndim == 0 else tau
    return torch.full((len(x),), tau, dtype=torch.float64, device=x.device)
