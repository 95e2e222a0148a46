"""Runs of a network in which every module's output is watched: what it depends on, and its values at every step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from ttune.freezing.dependence import Dependence, same_bits
from ttune.freezing.rows import Path, leaves, spelled, take_apart
from ttune.network.conditions import of_rows
from ttune.network.denoiser import Denoiser, Evaluation
from ttune.network.stitched import Stitched
from ttune.network.variants import Variants
from ttune.samplers.points import Point
from ttune.sampling.plan import evaluations_of
from ttune.schedule.schedule import Schedule

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # of embedding_lookup
# Marks of dependence; arguments of the network and then modules have the bits that follow.
_MOVING, _TIME, _FIRST = 1, 2, 2


@dataclass(frozen=True)
class Target:
    """The network, the module in it that is looked into, and how it is run."""

    network: Callable[..., Any]
    module: nn.Module
    run: Callable[[Tensor, Tensor, dict[str, Any]], Any]
    shape: tuple[int, ...]  # of the state that ``run`` takes, with the batch
    dtype: torch.dtype
    time_dtype: torch.dtype
    device: torch.device

    @staticmethod
    def of(
        network: Any,
        schedule: Schedule | Sequence[float],
        module: nn.Module | None,
        sample_shape: Sequence[int] | None,
        batch: int,
        time_dtype: torch.dtype | None,
    ) -> Target:
        function = network.network if isinstance(network, Denoiser) else network
        if isinstance(function, (Stitched, Variants)):
            kind = type(function).__name__
            raise ValueError(f"network must be one network, got a ttune.{kind}: freeze each of its networks by itself, at its own times")
        if not callable(function):
            raise TypeError(f"network must be callable as network(x, t, **conditions), got {type(function).__name__}")
        inside: Any = module if module is not None else function
        if not isinstance(inside, nn.Module):
            raise TypeError(
                f"module must be the nn.Module to freeze, since network is a {type(function).__name__}; got {type(inside).__name__}"
            )
        shape = network.sample_shape if sample_shape is None and isinstance(network, Denoiser) else sample_shape
        if shape is None:
            raise ValueError("sample_shape must be given: the shape of one state without the batch, got None")
        weights = [p for p in (*inside.parameters(), *inside.buffers()) if p.is_floating_point()]
        dtype = weights[0].dtype if weights else torch.float32
        natural = torch.float64 if dtype == torch.float64 else torch.float32
        if isinstance(network, Denoiser):
            if time_dtype not in (None, natural):
                raise ValueError(f"time_dtype must be what the denoiser passes its network, {natural}, got {time_dtype}")
            evaluation = _evaluation(network, schedule)
            run: Callable[..., Any] = lambda x, t, conditions: network.evaluate(x, t, conditions, evaluation)  # noqa: E731
        else:
            run = lambda x, t, conditions: function(x, t, **conditions)  # noqa: E731
        device = weights[0].device if weights else torch.device("cpu")
        return Target(function, inside, run, (batch, *shape), dtype, time_dtype or natural, device)

    def state(self, seed: int, extra: int = 0) -> Tensor:
        shape = (self.shape[0] + extra, *self.shape[1:])
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(self.device, self.dtype)

    def time(self, t: float, extra: int = 0) -> Tensor:
        return torch.full((self.shape[0] + extra,), t, dtype=torch.float64).to(self.time_dtype).to(self.device)


def _evaluation(denoiser: Denoiser, schedule: Schedule | Sequence[float]) -> Evaluation:
    """One evaluation that calls the network as all of them do."""
    if isinstance(schedule, Schedule):
        evaluations = evaluations_of(denoiser, schedule)
    else:
        noise = denoiser.noise
        evaluations = [denoiser.evaluation(i, Point(t, float(noise.alpha(t)), float(noise.sigma(t)))) for i, t in enumerate(schedule)]
    guided = [evaluation.scale is not None for evaluation in evaluations]
    if len(set(guided)) > 1:
        raise ValueError(
            "guidance must be at work at all steps or at none, since it doubles the batch that the network sees, "
            f"got {sum(guided)} guided steps of {len(guided)}"
        )
    return evaluations[0]


@dataclass
class ObservedCall:
    """What a module returned: ``rows[leaf]`` per step. ``why_not``: the reason it cannot be frozen, or ""."""

    name: str
    bit: int
    template: Any = None
    rows: list[list[Tensor]] = field(default_factory=list)
    depends: int = 0  # on arguments of the network
    reads: int = 0  # on modules, directly
    batched: list[bool] = field(default_factory=list)
    written: bool = False
    passes: bool = False  # returns memory that it was given
    why_not: str = ""


class Runs:
    """The runs of the network and what was seen in them."""

    def __init__(self, target: Target, conditions: dict[str, Any], varying: tuple[str, ...], max_table_bytes: int | None) -> None:
        self.target, self.conditions, self.varying, self.limit = target, conditions, varying, max_table_bytes
        self.parameters = tuple(inspect.signature(target.module.forward).parameters)
        self.seen: dict[nn.Module, ObservedCall] = {}
        self.keys: list[Tensor] = []
        self.read = 0  # marks of modules that the network's output depends on
        self.time: Path = ()
        self.state: Path = ()
        self.fixed: dict[Path, tuple[int, Tensor]] = {}
        self.arguments: dict[Path, Any] = {}
        self.state_shape: tuple[int, ...] = ()
        self.one_batch = ""
        self._names = {m: name for name, m in target.module.named_modules() if m is not target.module}

    def step(self, t: float) -> None:
        """The next step, with the same state at every step."""
        marks, current = Dependence(), {}
        first = not self.keys
        x, time = self.target.state(seed=0), self.target.time(t)
        marks.mark(x, _MOVING)
        marks.mark(time, _TIME)
        for value in tensors_of([self.conditions[name] for name in self.varying]):
            marks.mark(value, _MOVING)
        output = self._run(x, time, self.conditions, marks, current)
        if not marks.of(tensors_of(output)) & _MOVING:
            raise ValueError("network must return something that depends on its state; what it returned does not")
        self.read |= marks.of(tensors_of(output))
        for module, (template, rows, _) in current.items():
            seen = self.seen[module]
            if first:
                seen.template, seen.rows = template, [[row] for row in rows]
            elif not seen.rows or not same_structure(seen.template, template) or len(rows) != len(seen.rows):
                seen.why_not = seen.why_not or "it was not called at all steps, or returned something else"
            else:
                for column, row in zip(seen.rows, rows, strict=True):  # one copy of rows that are equal
                    column.append(next((old for old in (column[0], column[-1]) if same_bits(old, row)), row))
        for module, seen in self.seen.items():
            if module not in current:
                seen.why_not = seen.why_not or "it was not called at all steps"

    def other_state(self, t: float) -> Any:
        """The last step with another state (and other values of what varies): rows must not move. Returns the network's output."""
        current: dict[nn.Module, Any] = {}
        conditions = {k: neighbours(v) if k in self.varying else v for k, v in self.conditions.items()}
        output = self._run(self.target.state(seed=1), self.target.time(t), conditions, None, current)
        for module, seen in self.seen.items():
            if not seen.why_not:
                rows = current[module][1] if module in current else []
                moved = len(rows) != len(seen.rows) or any(not same_bits(c[-1], row) for c, row in zip(seen.rows, rows, strict=True))
                seen.why_not = "its output moves with the state" if moved else ""
        return output

    def other_batch(self, t: float) -> None:
        """With one sample more: which outputs have the batch as their first dimension."""
        current: dict[nn.Module, Any] = {}
        batch = self.target.shape[0]
        conditions = {k: of_rows(lambda value: torch.cat([value, value[:1]]), v, batch) for k, v in self.conditions.items()}
        try:
            self._run(self.target.state(seed=0, extra=1), self.target.time(t, extra=1), conditions, None, current)
        except Exception as error:  # whatever a network may raise: it then serves one batch size only
            self.one_batch = f"the network did not run with {batch + 1} samples ({type(error).__name__}: {error})"
        size = self.state_shape[0]
        for module, seen in self.seen.items():
            if seen.why_not:
                continue
            longer = current[module][1] if module in current else []
            for i, column in enumerate(seen.rows):
                shape = tuple(column[0].shape)
                follows = shape[:1] == (size,)
                if len(longer) == len(seen.rows):
                    other = tuple(longer[i].shape)
                    follows = follows and other == (size * (batch + 1) // batch, *shape[1:])
                    if not follows and other != shape:
                        self.one_batch = self.one_batch or f"{seen.name} returns {shape}, with one sample more {other}"
                seen.batched.append(follows)

    def _run(self, x: Tensor, t: Tensor, conditions: dict[str, Any], marks: Dependence | None, current: dict[nn.Module, Any]) -> Any:
        """One run with hooks on all modules. ``current``: module -> (template, rows, [(output, its version)])."""
        entered = []

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            entered.append(None)
            if len(entered) > 1:
                raise ValueError("network must call the module once per call, it was called twice (guidance with batched=False does)")
            if marks is not None:
                self._enter(args, kwargs, marks)

        def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            # The copies that are made here are no part of the network.
            with _disable_current_modes():
                self._leave(module, (args, kwargs), output, marks, current)

        handles = [self.target.module.register_forward_pre_hook(enter, with_kwargs=True)]
        handles += [m.register_forward_hook(leave, with_kwargs=True) for m in self._names]
        try:
            if marks is None:
                output = self.target.run(x, t, conditions)
            else:
                with marks:
                    output = self.target.run(x, t, conditions)
        finally:
            for handle in handles:
                handle.remove()
        if not entered:
            raise ValueError("network must call the module, it did not; give the one that it calls as module=")
        for module, (_, _, originals) in current.items():
            self.seen[module].written |= any(original._version != version for original, version in originals)
        return output

    def _enter(self, args: tuple[Any, ...], kwargs: dict[str, Any], marks: Dependence) -> None:
        """Find state, time and fixed conditions among the arguments; mark each fixed one by a bit of its own."""
        given = dict(leaves(dict(zip(self.parameters, args, strict=False)) | kwargs))
        tensors = {path: value for path, value in given.items() if isinstance(value, Tensor)}
        bits = {path: marks.of(value) for path, value in tensors.items()}
        timely = [path for path in tensors if bits[path] & _TIME]
        if len(timely) != 1:
            raise ValueError(f"network must receive the time in one argument, got {[spelled(path) for path in timely] or 'none'}")
        moving = [path for path in tensors if bits[path] & _MOVING and tensors[path].ndim > 0]
        if not moving:
            raise ValueError(f"network must receive the state as a tensor, got {[spelled(path) for path in tensors]}")
        time = tensors[timely[0]].reshape(-1)
        if not same_bits(time, time[:1].expand(len(time))):
            raise ValueError(f"{spelled(timely[0])} must be the same time for all samples while freezing, got {time.tolist()}")
        self.keys.append(time[0].clone())
        self.time, self.state, self.arguments = timely[0], moving[0], given
        self.state_shape = tuple(tensors[moving[0]].shape)
        for path, value in tensors.items():
            if not bits[path]:
                bit = self.fixed[path][0] if path in self.fixed else self._bit()
                self.fixed[path] = (bit, value)
                marks.mark(value, marks.of(value) | bit)

    def _leave(self, module: nn.Module, given: Any, output: Any, marks: Dependence | None, current: dict[nn.Module, Any]) -> None:
        if module not in self.seen:
            self.seen[module] = ObservedCall(self._names[module], self._bit())
            if self.keys[1:]:
                self.seen[module].why_not = "it was not called at all steps"
        seen, tensors = self.seen[module], []
        try:
            template = take_apart(output, tensors)
        except TypeError as error:
            seen.why_not = seen.why_not or f"its output: {error}"
            return
        received = {value.untyped_storage()._cdata for value in tensors_of(given)}
        passed = [tensor.untyped_storage()._cdata in received for tensor in tensors]
        if marks is not None:
            bits = marks.of(tensors)
            arguments = _TIME | _MOVING | sum(bit for bit, _ in self.fixed.values())
            seen.depends |= bits & arguments
            if bits & _MOVING:
                seen.why_not = seen.why_not or "it depends on the state"
            else:  # from here on its output carries the mark of this module instead of those of its inputs
                seen.reads |= bits & ~arguments & ~seen.bit
                for tensor, same in zip(tensors, passed, strict=True):
                    marks.mark(tensor, marks.of(tensor) & (-1 if same else arguments) | seen.bit)
        if not tensors or any(tensor.dtype not in DTYPES for tensor in tensors):
            seen.why_not = seen.why_not or "its output is no floating-point tensor"
        if seen.why_not:
            return
        if module in current:
            _, rows, originals = current[module]
            if len(rows) != len(tensors) or not all(map(same_bits, rows, tensors)):
                seen.why_not = "it is called more than once and returns different values"
            originals += [(tensor, tensor._version) for tensor in tensors]
            return
        seen.passes |= all(passed)
        current[module] = (template, [tensor.clone() for tensor in tensors], [(tensor, tensor._version) for tensor in tensors])

    def _bit(self) -> int:
        return 1 << (_FIRST + len(self.fixed) + len(self.seen))


def tensors_of(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    try:
        take_apart(value, found)
    except TypeError:
        found = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return found


def same_structure(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


def neighbours(value: Any) -> Any:
    """Other valid values: those of the neighbouring sample."""
    return value.roll(1, 0) if isinstance(value, Tensor) and value.ndim > 0 else value
