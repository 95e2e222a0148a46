"""A plan as a function that torch.compile traces whole: one graph for all steps, and one entry per sampling.

Updates are arithmetic here, which a compiler fuses with the last kernel of the network. Steps that differ in numbers only are one function
of them, so that the network is traced and compiled once (``torch.compiler.nested_compile_region``), or they are all apart, with constants
in place of numbers. Noise stays an operator (:mod:`ttune.kernels.philox`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ttune import ops
from ttune.network.conditions import digest
from ttune.network.denoiser import Conditions, Denoiser
from ttune.network.guidance import ClassifierFree, Halves
from ttune.samplers.folding import PREDICTION, START_DRAW
from ttune.sampling.plan import Plan, Step

_NAMES = count()
Function = Callable[..., Any]
Rows = Sequence[Sequence[Any]]  # coefficients: floats, or tensors without dimensions


@dataclass(frozen=True)
class Held:
    """How conditions hold their tensors, and their other leaves: part of a graph. Tensors are passed to it."""

    leaves: tuple[tuple[Any] | None, ...]  # None for a tensor
    spec: pytree.TreeSpec
    tensors: tuple[Tensor, ...]
    key: Hashable  # all of it but the tensors' numbers and shapes

    @staticmethod
    def of(conditions: Conditions) -> Held:
        halves = (conditions.null, conditions.both) if isinstance(conditions, Halves) else None
        leaves, spec = pytree.tree_flatten((dict(conditions), halves))
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        others = tuple((each.dtype, each.device) if isinstance(each, Tensor) else digest(each) for each in leaves)
        return Held(tuple(None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves), spec, tensors, (repr(spec), others))

    def restored(self, tensors: Iterator[Tensor]) -> Conditions:
        leaves = [next(tensors) if leaf is None else leaf[0] for leaf in self.leaves]
        conditions, halves = pytree.tree_unflatten(leaves, self.spec)
        return conditions if halves is None else Halves(conditions, *halves)


NOTHING = Held.of({})


class Passed:
    """Conditions that are passed as they are, in place of their tensors, in a graph that others make."""

    def restored(self, tensors: Iterator[Any]) -> Conditions:
        return next(tensors)


@dataclass(frozen=True)
class Trace:
    """``plan`` for ``denoiser``, states like ``x`` and conditions held as ``held``."""

    plan: Plan
    denoiser: Denoiser
    held: Held | Passed
    dtype: torch.dtype  # of the arithmetic

    def function(self, region: Callable[[Function], Function] | None, device: torch.device) -> Function:
        """x_0 from a state (B, ...), the tensors of the conditions, and seeds where there is noise. ``region`` is applied to every
        function of a step; None: all steps apart."""
        plan, dtype, evaluations = self.plan, self.dtype, range(len(self.plan.steps))
        numbers: Any = [self._numbers(i) for i in evaluations]
        indices = torch.arange(len(evaluations), device=device)
        if region is None:
            steps = [self._step(i) for i in evaluations]
        else:
            kinds: dict[Hashable, Function] = {}
            for i in evaluations:
                if self._kind(i) not in kinds:
                    kinds[self._kind(i)] = region(own_code(self._step(i)))
            steps = [kinds[self._kind(i)] for i in evaluations]
            # A tensor for each: a view of one costs an entry of the compiled region .8 us more.
            numbers = [torch.tensor(row, dtype=dtype, device=device) for row in numbers]

        def run(x: Tensor, tensors: Sequence[Tensor], seeds: Tensor | None) -> Tensor:
            registers = {"x": x} if plan.start is None else plan.start({"x": x}, (), seeds, START_DRAW)
            for i, step in enumerate(plan.steps):
                x = registers["x"]
                own = [] if plan.shifting is None else [indices[i]]
                if step.stochastic and seeds is not None:
                    own.append(ops.philox_normal(tuple(x.shape[1:]), seeds, plan.first_draw + i, dtype))
                known = [registers[name] for name in _given(step)]
                made = dict(zip(_returned(step), steps[i](x, numbers[i], *own, *known, *tensors), strict=True))
                renamed = {new: registers[old] if old in registers else made[old] for new, old in step.renames}
                registers = {name: made[name] for name in step.outputs if name != "D"} | renamed
            return registers["x"]

        return run

    def _kind(self, i: int) -> Hashable:
        """Steps of one kind are one function of their numbers."""
        step, evaluation, guidance = self.plan.steps[i], self.plan.evaluations[i], self.denoiser.guidance
        linear = type(guidance) is ClassifierFree and not guidance.rescale
        scale = evaluation.scale is None if linear else evaluation.scale
        special = step.bound is not None, step.log_variance is not None
        return id(evaluation.network), scale, step.terms, step.outputs, step.renames, step.clip, step.stochastic, special

    def _numbers(self, i: int) -> list[float]:
        """The time that the network is passed, the coefficients, the row of a bounded prediction, and the ends of a log-variance."""
        step = self.plan.steps[i]
        row = [] if step.bound is None else step.bound.row.flatten().tolist()
        return [self.plan.network_times[i], *step.coeffs.flatten().tolist(), *row, *(step.log_variance or ())]

    def _step(self, i: int) -> Function:
        """Evaluation ``i`` and its update: from (x, numbers, index for a shift, noise, registers, tensors of the conditions) what
        :func:`_returned` names."""
        step, denoiser, held, dtype = self.plan.steps[i], self.denoiser, self.held, self.dtype
        evaluation = dataclasses.replace(self.plan.evaluations[i], row=(), index=None, time=None)
        outputs, shifting = len(self.plan.evaluations[i].row) - 1, self.plan.shifting
        rows, columns = len(step.outputs), step.coeffs.shape[-1]

        def advance(x: Tensor, numbers: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
            given = iter(tensors)
            scalars = list(numbers.unbind()) if isinstance(numbers, Tensor) else numbers
            tau = scalars[0].expand(x.shape[0]) if isinstance(numbers, Tensor) else scalars[0]
            tau = tau if shifting is None else shifting(next(given), x)
            unit = next(given) if step.stochastic else None
            known: dict[str, Tensor] = {name: next(given) for name in _given(step)} | {"x": x}
            found = denoiser.evaluate(x, tau, held.restored(given), evaluation)
            known |= {f"o{j}": output for j, output in enumerate(found)}
            coeffs = [scalars[1 + columns * r : 1 + columns * (r + 1)] for r in range(rows)]
            rest = scalars[1 + rows * columns :]
            if step.bound is not None:
                row, rest = rest[: 1 + outputs], rest[1 + outputs :]
                (prediction,) = _combined([term.to(dtype) for term in (x, *found[:outputs])], [row], None, None)
                known[PREDICTION] = step.bound.function(prediction.to(x.dtype)).clone()
            if step.log_variance is not None and unit is not None:
                low, high = rest[:2]
                share = (found[-1].to(dtype) + 1) / 2
                known["noise"], unit = (torch.exp(0.5 * (low + share * (high - low))) * unit).to(x.dtype), None
            results = _combined([known[name].to(dtype) for name in step.terms], coeffs, step.clip, unit)
            known |= dict(zip(step.outputs, (result.to(x.dtype) for result in results), strict=True))
            return tuple(known[name] for name in _returned(step))

        return advance


def own_code(function: Function) -> Function:
    """The same function with a code object of its own, by which torch.compile knows graphs and regions; it gives up at the ninth graph
    of one. Of another name, for code objects of one content are equal."""
    code = function.__code__.replace(co_name=f"{function.__name__}_{next(_NAMES)}")
    return FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)


def _given(step: Step) -> list[str]:
    """The retained registers that ``step`` reads."""
    return [name for name in step.terms if name not in ("x", PREDICTION, "noise") and not (name[0] == "o" and name[1:].isdigit())]


def _returned(step: Step) -> list[str]:
    """The registers that ``step`` makes and the next one may read."""
    sources = [old for _, old in step.renames]
    return [*(name for name in step.outputs if name != "D" or "D" in sources), *([PREDICTION] if PREDICTION in sources else [])]


def _combined(terms: Sequence[Tensor], rows: Rows, clip: float | None, noise: Tensor | None) -> list[Tensor]:
    """:func:`ttune.ops.linear_update` of terms in the dtype of the arithmetic, as arithmetic; ``noise`` is the last column."""
    results: list[Tensor] = []
    for row in rows:
        columns, weights = [*terms], [*row]
        if clip is not None and results:
            columns.append(results[0])
        elif clip is not None:
            del weights[len(terms)]  # the first row comes before what it is clamped to
        columns += [] if noise is None else [noise]
        value = weights[0] * columns[0]
        for weight, column in zip(weights[1:], columns[1:], strict=True):
            value = value + weight * column
        results.append(value if clip is None or results else value.clamp(-clip, clip))
    return results
