"""The one sampling loop, on a plan that is bound to a batch size, a dtype and a device.

A :class:`Program` has made beforehand all that does not depend on the states: registers are slots of a list, and the times that the
network is given and the numbers of the noise are tensors. A step calls the network, looks at its output and calls ``linear_update_``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ttune.kernels import direct
from ttune.network.denoiser import Conditions, Denoiser
from ttune.samplers.folding import PREDICTION, START_DRAW
from ttune.sampling.memory import Memory, fresh, memory_for
from ttune.sampling.network_calls import Call, NetworkCalls
from ttune.sampling.plan import Plan, Registers, Step, learned_noise

Callback = Callable[[int, float, Tensor], Tensor | None]
Visit = Callable[[int, Registers, Sequence[Tensor]], None]
Slots = list[Any]  # the state, the network's outputs, then registers by their place in Program.names; None where there is none

_UPDATE = torch.ops.ttune.linear_update_.default
_BARE_UPDATE = _UPDATE._op  # without its wrapper in Python, which costs a tenth of a small update


class Update(NamedTuple):
    """An evaluation of the network, and the update after it. Registers are slots of a list."""

    call: Call
    terms: Callable[[Slots], Sequence[Tensor]]
    results: tuple[int, ...]
    renames: tuple[tuple[int, int], ...]  # (new slot, old slot)
    unused: tuple[int, ...]  # slots that nothing reads afterwards
    coeffs: Tensor
    clip: float | None
    draw: Tensor | None  # the number of the noise that the operator makes
    special: Special | None
    bound: direct.Update | None  # the update, past the dispatcher


@dataclass(frozen=True)
class Special:
    """What fills the registers of a bounded prediction and of noise with a learned variance."""

    step: Step
    outputs: int
    prediction: int  # slots
    noise: int
    renamed: bool
    draw: Tensor | None

    def __call__(self, r: Slots, seeds: Tensor | None) -> None:
        if self.step.bound is not None:
            bounded = self.step.bound(r[0], r[1 : 1 + self.outputs])
            # What bounds a prediction may write the next one into the same memory, as a network may.
            r[self.prediction] = bounded.clone() if self.renamed else bounded
        if self.step.log_variance is not None:
            assert seeds is not None
            assert self.draw is not None
            r[self.noise] = learned_noise(r[0], r[self.outputs], self.step.log_variance, seeds, self.draw)


@dataclass(frozen=True)
class Program:
    """``plan`` for states of one batch size, dtype and device. It holds nothing of a run: threads may share it."""

    plan: Plan
    names: tuple[str, ...]  # of the slots
    updates: tuple[Update, ...]
    evaluations: tuple[int, ...]  # of one sample: before every update, and in all
    spent: tuple[float, ...]  # the same, each at the cost of its network
    guided: bool
    stochastic: bool

    @staticmethod
    @torch.inference_mode(False)  # tensors made within it are of no use outside
    def make(plan: Plan, denoiser: Denoiser, x: Tensor) -> Program:
        """For states like ``x`` (B, ...)."""
        calls = [Call.make(plan, denoiser, i, x) for i in range(len(plan.steps))]
        outputs = [f"o{j}" for j in range(max(call.outputs for call in calls))]
        named = [name for step in plan.steps for name in (*step.terms, *step.outputs, *(name for pair in step.renames for name in pair))]
        names = tuple(dict.fromkeys(["x", *outputs, *named, "D", "noise", PREDICTION]))
        costs = [denoiser.cost(evaluation) for evaluation in plan.evaluations]
        shares = [cost * evaluation.share for cost, evaluation in zip(costs, plan.evaluations, strict=True)]
        return Program(
            plan,
            names,
            tuple(_update(plan, call, x, names) for call in calls),
            tuple(accumulate(costs, initial=0)),
            tuple(accumulate(shares, initial=0.0)),
            plan.guided,
            plan.stochastic,
        )

    def run(
        self,
        denoiser: Denoiser,
        registers: Registers,
        conditions: Conditions | None = None,
        *,
        first: int = 0,
        outputs: Sequence[Tensor] | None = None,
        seeds: Tensor | None = None,
        network_times: Tensor | None = None,
        visit: Visit | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """The final state, from stage ``first`` on (0: with what the sampler does before it). To be called under ``torch.no_grad``.

        ``outputs``, if given, spares the network call of that stage. ``network_times`` (n_evaluations, ...): instead
        of the schedule's, e.g. per sample.

        ``visit(i, registers, outputs)`` sees everything that stage i starts from, and may keep it; ``callback(i, time, x)`` sees
        the state after stage i and may return another, of its shape, dtype and device.
        """
        if self.stochastic and seeds is None:
            raise ValueError("seeds must be given for a stochastic sampler, one per sample, got None")
        conditions = denoiser.prepared(conditions, registers["x"]) if self.guided else conditions or {}
        # What was made elsewhere, or is seen elsewhere, may be anything.
        seen = first or outputs is not None or visit is not None or callback is not None or len(registers) > 1
        if first == 0 and self.plan.start is not None:
            registers = self.plan.start(registers, (), seeds, START_DRAW)
        r: Slots = list(map(registers.get, self.names))
        calls = NetworkCalls(self.plan, denoiser, conditions, r[0], network_times)
        memory = memory_for(r[0])
        operator = _UPDATE if memory is fresh else _BARE_UPDATE
        sizes = None if seen else _sizes(r[0], seeds)
        called = first
        if outputs is not None:
            called, r[1 : 1 + len(outputs)] = first + 1, outputs
        i = first
        try:
            for i in range(first, len(self.updates)):
                update = self.updates[i]
                if i >= called:
                    calls(update.call, r)
                    if not calls.plain:
                        sizes = None
                if visit is not None:
                    self._show(visit, i, r)
                _advance(update, r, seeds, memory, operator, sizes)
                if callback is not None:
                    replaced = callback(i, self.plan.steps[i].time, r[0])
                    if replaced is not None and replaced is not r[0]:
                        r[0] = _replaced(replaced, r[0])
        finally:
            counts = denoiser.__dict__  # past __setattr__, which looks whether to forget the programs
            counts["evaluations"] = denoiser.evaluations + calls.batch * (self.evaluations[i + 1] - self.evaluations[called])
            counts["spent"] = denoiser.spent + calls.batch * (self.spent[i + 1] - self.spent[called])
        calls.check()
        return r[0]

    def _show(self, visit: Visit, i: int, r: Slots) -> None:
        """Let ``visit`` see the registers, and the network's outputs in memory that it may keep: a network may write the next output
        into the same, or return the state itself."""
        after = 1 + self.updates[i].call.outputs
        r[1:after] = outputs = [output.clone() for output in r[1:after]]
        names = [name for slot, name in enumerate(self.names) if r[slot] is not None and not 0 < slot < after]
        visit(i, {name: r[self.names.index(name)] for name in names}, outputs)


def _sizes(x: Tensor, seeds: Tensor | None) -> tuple[int, int, int] | None:
    """What bound updates of states like ``x`` are given: elements, elements of a sample, address of the seeds. None where none may run."""
    if not direct.allowed(x):
        return None
    elements = x.numel()
    if seeds is None:
        return elements, elements, 0
    fits = type(seeds) is Tensor and seeds.dtype is torch.int64 and seeds.shape == x.shape[:1] and direct.plain(seeds)
    return (elements, elements // x.shape[0], seeds.data_ptr()) if fits else None


def _advance(
    update: Update,
    r: Slots,
    seeds: Tensor | None,
    memory: Memory,
    operator: Callable[..., None],
    sizes: tuple[int, int, int] | None,
) -> None:
    """Bring the registers from before ``update``, with the network's outputs there, to after it."""
    _, terms, results, renames, unused, coeffs, clip, draw, special, bound = update
    if special is not None:
        special(r, seeds)
    held = [r[old] for _, old in renames] if renames else None
    if results:
        made = []
        for slot in results:
            made.append(memory(r, slot))
        if bound is not None and sizes is not None:
            bound(*sizes, made, terms(r))
        else:
            operator(made, terms(r), coeffs, None, clip, None if draw is None else seeds, draw)
        for slot in results:
            r[slot] = made.pop(0)
    if held is not None:
        for (slot, old), tensor in zip(renames, held, strict=True):
            r[slot] = r[old] if tensor is None else tensor
    for slot in unused:
        r[slot] = None


def _update(plan: Plan, call: Call, x: Tensor, names: tuple[str, ...]) -> Update:
    step, slot = plan.steps[call.number], names.index
    filled = {"x", *names[1 : 1 + call.outputs], *step.outputs, PREDICTION, "noise"}
    if call.number:
        filled |= _held(plan.steps[call.number - 1])
    number = plan.first_draw + call.number if step.stochastic else None
    draw = None if number is None else torch.full((), number, dtype=torch.int64, device=x.device)
    special = bound = None
    if step.bound is not None or step.log_variance is not None:
        renamed = any(old == PREDICTION for _, old in step.renames)
        special = Special(step, call.outputs, slot(PREDICTION), slot("noise"), renamed, draw)
    else:
        filled -= {PREDICTION, "noise"}
        bound = direct.bound_update(step.coeffs, len(step.terms), step.clip, x.dtype, number)
    return Update(
        call,
        _picker([slot(name) for name in step.terms]),
        tuple(map(slot, step.outputs)),
        tuple((slot(new), slot(old)) for new, old in step.renames),
        tuple(sorted(map(slot, filled - _held(step)))),
        step.coeffs,
        step.clip,
        None if step.log_variance is not None else draw,
        special,
        bound,
    )


def _held(step: Step) -> set[str]:
    """What a step hands to the next one."""
    return {*step.outputs, *(new for new, _ in step.renames)} - {"D"}


def _picker(slots: Sequence[int]) -> Callable[[Slots], Sequence[Tensor]]:
    """These of the registers."""
    if len(slots) > 1:
        return itemgetter(*slots)
    return lambda r: [r[slot] for slot in slots]


def _replaced(state: Tensor, x: Tensor) -> Tensor:
    """The state that a callback returned in place of ``x``, in memory of its own: a callback may use the same again."""
    if not isinstance(state, Tensor):
        raise TypeError(f"callback must return None or a state, got {type(state).__name__}")
    if state.shape != x.shape:
        raise ValueError(f"callback must return None or a state of shape {tuple(x.shape)}, got {tuple(state.shape)}")
    if (state.dtype, state.device) != (x.dtype, x.device):
        raise ValueError(f"callback must return None or a state in {x.dtype} on {x.device}, got {state.dtype} on {state.device}")
    return state.clone()
