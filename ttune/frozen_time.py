"""``freeze_time``: what a network computes from the time and fixed conditions alone, as rows of tables.

The times of a tuned schedule are K fixed numbers. A module whose output depends on them and on conditions that do not change,
but not on the state, has K outputs; here they are computed once and looked up. In a DiT that spares a third of the weights.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ttune.denoiser import Denoiser
from ttune.dependence import Dependence, same_bits
from ttune.frozen_rows import Clock, Path, Rows, Table, leaves, spelled, take_apart
from ttune.schedule import Schedule

_KEEP = ("memory", "offload", "release")
_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # of embedding_lookup
# Marks of dependence; arguments of the network and then modules have the bits that follow.
_MOVING, _TIME, _FIRST = 1, 2, 2


@dataclass(frozen=True)
class FrozenModule:
    """``rows``: K, or 1 if the output is the same at all steps; 0 if only other frozen modules read it. Sizes in bytes;
    ``weights`` without those that modules outside share."""

    name: str
    rows: int
    weights: int
    table: int


@dataclass(frozen=True)
class FreezeReport:
    """What was frozen. ``weights``: bytes that the network no longer needs, of ``network`` before; ``tables``: bytes it needs instead."""

    modules: tuple[FrozenModule, ...]
    steps: int
    network: int
    weights: int
    tables: int

    def __str__(self) -> str:
        groups: dict[tuple[str, int], list[FrozenModule]] = {}
        for module in self.modules:
            groups.setdefault((re.sub(r"\d+", "*", module.name), module.rows), []).append(module)
        lines = [f"{len(self.modules)} modules frozen at {self.steps} steps"]
        for (pattern, rows), group in groups.items():
            name = group[0].name if len(group) == 1 else f"{pattern} ({len(group)} modules)"
            sizes = f"{_size(sum(m.weights for m in group)):>10} -> {_size(sum(m.table for m in group)):>10}"
            kept = "unread" if rows == 0 else "1 row" if rows == 1 else f"{rows} rows"
            lines.append(f"  {name:60} {sizes}   {kept}")
        share = 100 * self.weights / max(self.network, 1)
        lines.append(f"  {_size(self.weights)} of weights ({share:.1f} % of {_size(self.network)}) -> {_size(self.tables)} of tables")
        return "\n".join(lines)


class FrozenTime(nn.Module):
    """A network that was frozen in place: call it like the network, or go on using the network itself.

    ``report`` says what was frozen; :meth:`undo` puts the modules back.
    """

    def __init__(self, network: Callable[..., Any], module: nn.Module, report: FreezeReport, keep: str) -> None:
        super().__init__()
        self.network = network
        self.report = report
        self.keep = keep
        self._module = (module,)  # in a tuple, lest the module be registered twice
        self._replaced: list[tuple[nn.Module, str, nn.Module | None]] = []
        self._moved: list[tuple[Tensor, Tensor, torch.device]] = []
        self._forward: Callable[..., Any] | None = None
        self._undone = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network returns."""
        return self.network(*args, **kwargs)

    def undo(self) -> None:
        """Put the modules back, with the weights they had, bit for bit, and on their devices.

        RuntimeError if they were released (``keep="release"``), or are back already.
        """
        if self._undone:
            raise RuntimeError("undo: the modules are back already")
        if any(original is None for _, _, original in self._replaced):
            raise RuntimeError('undo: the weights were released (keep="release"); load the network again')
        for parent, name, original in self._replaced:
            parent._modules[name] = original
        for tensor, shared, device in self._moved:
            tensor.data = shared.to(device)
        (module,) = self._module
        if self._forward is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = self._forward
        for holder in (module, self.network, self):
            if isinstance(holder, nn.Module):
                holder.__dict__.pop("unfrozen_shapes", None)
        self._replaced, self._moved, self._undone = [], [], True

    def _put(self, clock: Clock, rows: Mapping[nn.Module, Rows]) -> None:
        (module,) = self._module
        for parent in list(module.modules()):
            for name, child in list(parent._modules.items()):
                if child in rows:
                    self._replaced.append((parent, name, child))
                    parent._modules[name] = rows[child]
        self._forward = module.__dict__.get("forward")  # some libraries have set one before
        module.__dict__["forward"] = clock.run

    def _keep_weights(self, spared: Sequence[Tensor]) -> None:
        if self.keep == "release":
            self._replaced = [(parent, name, None) for parent, name, _ in self._replaced]
        elif self.keep == "offload":
            for tensor in spared:
                self._moved.append((tensor, tensor.data.cpu(), tensor.device))
                tensor.data = self._moved[-1][1]


def freeze_time(
    network: Callable[..., Any] | Denoiser,
    schedule: Schedule | Sequence[float],
    conditions: Mapping[str, Any] | None = None,
    *,
    module: nn.Module | None = None,
    sample_shape: Sequence[int] | None = None,
    batch: int = 1,
    varying: Sequence[str] = (),
    keep: str = "memory",
    time_dtype: torch.dtype | None = None,
    max_table_bytes: int | None = None,
    verify: bool = True,
    progress: bool = True,
) -> FrozenTime:
    """Replace, in place, every module that does not depend on the state by a table of what it returns at the steps of ``schedule``.

    The network is run once per step (and twice or three times more), following which of its tensors depend on the state;
    a module qualifies if none of its outputs does and they keep every bit when the state changes. Outputs of the network stay the
    same bit for bit at the same batch layout. The step is recognised from the time in the call, on the device: no
    synchronisation, one graph for all steps under torch.compile (freeze first, then compile). A time or condition that the rows were
    not made for gives NaN; in eager mode on the CPU, a ValueError that names it.

    Args:
        network: an nn.Module called as network(x, t, **conditions), a function around one (then name the ``module``), or a
            :class:`ttune.Denoiser`, whose network is then called as it calls it: with guidance on the doubled batch. For guidance
            of your own, freeze the network with ``batch=2 * B`` and the conditions of both halves.
        schedule: whose ``conditioning`` are the K times; or the times themselves.
        conditions: keyword arguments of the network that stay as they are from now on. Rows that depend on them are stored
            per sample, unless the samples' are equal bit for bit.
        module: the nn.Module to look into, where ``network`` is not one. Its own call is where times and conditions are
            recognised, so a function may rescale the time on the way.
        sample_shape: of one state, without the batch; a Denoiser may know it. Later calls have the same shape.
        batch: B of the calls to come. Another one is possible where no row belongs to a sample (equal up to rounding), else a ValueError.
        varying: names of ``conditions`` that will change from call to call: example values, treated like the state.
        keep: "memory" keeps the replaced modules as they are, "offload" moves their weights to the CPU, "release" lets go of them
            (then there is no undo).
        time_dtype: of the times that the network will receive; float32, or float64 for a float64 network, unless given.
        max_table_bytes: a module whose tables need more stays as it is (those within it may still be frozen).
        verify: run the frozen network once, at the last step: the same bits as before, or RuntimeError and all is undone.
        progress: show a bar.

    Frozen weights get no gradients. One frozen network serves one thread at a time. ValueError: modules in training mode,
    a network that is compiled or frozen already, several time arguments, times that coincide in their dtype but have different rows.
    """
    target = _Target.of(network, module, sample_shape, batch, time_dtype)
    times = schedule.conditioning.tolist() if isinstance(schedule, Schedule) else [float(t) for t in schedule]
    conditions = dict(conditions or {})
    _check(target, times, conditions, varying, keep, batch)
    runs = _Runs(target, conditions, tuple(varying), max_table_bytes)
    extra = 3 if verify else 2
    with torch.no_grad(), tqdm(total=len(times) + extra, desc="freezing", disable=not progress, leave=False) as bar:
        for t in times:
            runs.step(t)
            bar.update()
        expected = runs.other_state(times[-1])
        bar.update()
        runs.other_batch(times[-1])
        bar.update()
        frozen = _frozen(target, runs, keep)
        if verify:
            _verify(target, runs, frozen, times[-1], expected)
        bar.update(extra - 2)
    frozen._keep_weights(_spared(target.module, [m for _, _, m in frozen._replaced if m is not None]))
    return frozen


# ---------------------------------------------------------------------------------------------------------- the network


@dataclass(frozen=True)
class _Target:
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
        network: Any, module: nn.Module | None, sample_shape: Sequence[int] | None, batch: int, time_dtype: torch.dtype | None
    ) -> _Target:
        function = network.network if isinstance(network, Denoiser) else network
        if not callable(function):
            raise TypeError(f"network must be callable as network(x, t, **conditions), got {type(function).__name__}")
        module = module if module is not None else function
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"module must be the nn.Module to freeze, since network is a {type(function).__name__}; got {type(module).__name__}"
            )
        shape = network.sample_shape if sample_shape is None and isinstance(network, Denoiser) else sample_shape
        if shape is None:
            raise ValueError("sample_shape must be given: the shape of one state without the batch, got None")
        weights = [p for p in (*module.parameters(), *module.buffers()) if p.is_floating_point()]
        dtype = weights[0].dtype if weights else torch.float32
        natural = torch.float64 if dtype == torch.float64 else torch.float32
        if isinstance(network, Denoiser):
            if time_dtype not in (None, natural):
                raise ValueError(f"time_dtype must be what the denoiser tells its network, {natural}, got {time_dtype}")
            run: Callable[..., Any] = network.evaluate
        else:
            run = lambda x, t, conditions: function(x, t, **conditions)  # noqa: E731
        device = weights[0].device if weights else torch.device("cpu")
        return _Target(function, module, run, (batch, *shape), dtype, time_dtype or natural, device)

    def state(self, seed: int, extra: int = 0) -> Tensor:
        shape = (self.shape[0] + extra, *self.shape[1:])
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(self.device, self.dtype)

    def time(self, t: float, extra: int = 0) -> Tensor:
        return torch.full((self.shape[0] + extra,), t, dtype=torch.float64).to(self.time_dtype).to(self.device)


def _check(target: _Target, times: Sequence[float], conditions: Mapping[str, Any], varying: Sequence[str], keep: str, batch: int) -> None:
    if keep not in _KEEP:
        raise ValueError(f"keep must be one of {_KEEP}, got {keep!r}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if not times or not np.isfinite(times).all():
        raise ValueError(f"schedule must have at least one time, all finite, got {list(times)}")
    unknown = [name for name in varying if name not in conditions]
    if unknown:
        raise ValueError(f"varying must name conditions, of {sorted(conditions)}, got {unknown}")
    if not target.time_dtype.is_floating_point and any(t != int(t) for t in times):
        raise ValueError(f"schedule must have whole times for time_dtype {target.time_dtype}, got {list(times)}")
    if hasattr(target.module, "_orig_mod"):
        raise ValueError("network must be frozen before it is compiled: freeze_time(network), then torch.compile(network)")
    if "unfrozen_shapes" in target.module.__dict__:
        raise ValueError("network is frozen already: undo() that first")
    training = [name or "the network" for name, m in target.module.named_modules() if m.training]
    if training:
        raise ValueError(f"network must be in eval mode, got {len(training)} modules in training mode, the first: {training[0]}")


# ----------------------------------------------------------------------------------------------------------- observation


@dataclass
class _Seen:
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


class _Runs:
    """The runs of the network and what was seen in them."""

    def __init__(self, target: _Target, conditions: dict[str, Any], varying: tuple[str, ...], max_table_bytes: int | None) -> None:
        self.target, self.conditions, self.varying, self.limit = target, conditions, varying, max_table_bytes
        self.parameters = tuple(inspect.signature(target.module.forward).parameters)
        self.seen: dict[nn.Module, _Seen] = {}
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
        for name in self.varying:
            for _, value in leaves(self.conditions[name]):
                if isinstance(value, Tensor):
                    marks.mark(value, _MOVING)
        output = self._run(x, time, self.conditions, marks, current)
        if not marks.of(_tensors(output)) & _MOVING:
            raise ValueError("network must return something that depends on its state; what it returned does not")
        self.read |= marks.of(_tensors(output))
        for module, (template, rows, _) in current.items():
            seen = self.seen[module]
            if first:
                seen.template, seen.rows = template, [[row] for row in rows]
            elif not seen.rows or not _same_structure(seen.template, template) or len(rows) != len(seen.rows):
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
        conditions = {k: _rolled(v) if k in self.varying else v for k, v in self.conditions.items()}
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
        conditions = {k: _longer(v, batch) for k, v in self.conditions.items()}
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
                follows = bool(shape) and shape[0] == size
                if len(longer) == len(seen.rows) and follows:
                    follows = tuple(longer[i].shape) == (size * (batch + 1) // batch, *shape[1:])
                    if not follows and tuple(longer[i].shape) != shape:
                        self.one_batch = self.one_batch or f"{seen.name} returns {shape}, with one sample more {tuple(longer[i].shape)}"
                elif len(longer) == len(seen.rows) and tuple(longer[i].shape) != shape:
                    self.one_batch = self.one_batch or f"{seen.name} returns {shape}, with one sample more {tuple(longer[i].shape)}"
                seen.batched.append(follows)

    def _run(self, x: Tensor, t: Tensor, conditions: dict[str, Any], marks: Dependence | None, current: dict[nn.Module, Any]) -> Any:
        """One run with hooks on all modules. ``current``: module -> (template, rows, [(output, its version)])."""
        entered = []

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            entered.append(None)
            if len(entered) > 1:
                raise ValueError("network must call the module once per call, it was called twice; freeze a module that is called once")
            if marks is not None:
                self._enter(args, kwargs, marks)

        def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            # The copies that are made here are no part of the network.
            with torch.utils._python_dispatch._disable_current_modes():
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
            self.seen[module] = _Seen(self._names[module], self._bit())
            if self.keys[1:]:
                self.seen[module].why_not = "it was not called at all steps"
        seen, tensors = self.seen[module], []
        try:
            template = take_apart(output, tensors)
        except TypeError as error:
            seen.why_not = seen.why_not or f"its output: {error}"
            return
        if marks is not None:
            bits = marks.of(tensors)
            arguments = _TIME | _MOVING | sum(bit for bit, _ in self.fixed.values())
            seen.depends |= bits & arguments
            if bits & _MOVING:
                seen.why_not = seen.why_not or "it depends on the state"
            else:  # from here on its output stands for all that it was made from
                seen.reads |= bits & ~arguments & ~seen.bit
                for tensor in tensors:
                    marks.mark(tensor, marks.of(tensor) & arguments | seen.bit)
        if not tensors or any(tensor.dtype not in _DTYPES for tensor in tensors):
            seen.why_not = seen.why_not or "its output is no floating-point tensor"
        if seen.why_not:
            return
        if module in current:
            _, rows, originals = current[module]
            if len(rows) != len(tensors) or not all(map(same_bits, rows, tensors)):
                seen.why_not = "it is called more than once and returns different values"
            originals += [(tensor, tensor._version) for tensor in tensors]
            return
        received = {value.untyped_storage()._cdata for value in _tensors(given)}
        seen.passes |= all(tensor.untyped_storage()._cdata in received for tensor in tensors)
        current[module] = (template, [tensor.clone() for tensor in tensors], [(tensor, tensor._version) for tensor in tensors])

    def _bit(self) -> int:
        return 1 << (_FIRST + len(self.fixed) + len(self.seen))


# ------------------------------------------------------------------------------------------------------------ the tables


def _frozen(target: _Target, runs: _Runs, keep: str) -> FrozenTime:
    """Choose the modules, put rows in their places."""
    seen = runs.seen
    chosen = {m: seen[m] for m in _outermost(target.module, lambda m: m in seen and _qualifies(seen[m], runs.limit))}
    read = runs.read
    while True:
        read = _closure(runs.read, [s for m, s in seen.items() if m not in chosen])
        # A function without weights is as cheap as the lookup of its result, unless nobody needs it any more.
        cheap = [m for m, s in chosen.items() if read & s.bit and _steps(s) > 1 and not _weights([m])]
        if not cheap:
            break
        chosen = {m: s for m, s in chosen.items() if m not in cheap}
    if not chosen:
        raise ValueError("network must have modules that depend on the time or on fixed conditions alone, none was found")
    keys = torch.stack(runs.keys)
    _check_keys(keys, chosen)
    tables = {m: [_table(s, i, runs, bool(read & s.bit)) for i in range(len(s.rows))] for m, s in chosen.items()}
    if all(table.rows.shape[0] == 1 for ts in tables.values() for table in ts if table.read):
        # No row would know of an unknown time.
        tables = {m: [_per_step(table, len(keys)) for table in ts] for m, ts in tables.items()}
    one_batch = runs.one_batch
    for m, ts in tables.items():
        if any(table.read and table.batched and table.rows.shape[1] > 1 for table in ts):
            one_batch = one_batch or f"rows of {chosen[m].name} belong to samples"
    depends = 0
    for s in chosen.values():
        depends |= s.depends
    clock = Clock(
        target.module.forward,
        runs.parameters,
        keys,
        runs.time,
        runs.state,
        runs.state_shape,
        {path: value for path, (bit, value) in runs.fixed.items() if bit & depends},
        {path: value for path, value in runs.arguments.items() if not isinstance(value, Tensor)},
        frozenset(runs.arguments),
        one_batch,
    )
    rows = {m: Rows(clock, seen[m].template, ts).eval() for m, ts in tables.items()}
    shapes = _shapes(target.module), _shapes(target.network)
    report = _report(target.module, chosen, tables, len(keys))
    frozen = FrozenTime(target.network, target.module, report, keep).eval()
    frozen._put(clock, rows)
    target.module.__dict__["unfrozen_shapes"] = shapes[0]
    if isinstance(target.network, nn.Module):
        target.network.__dict__["unfrozen_shapes"] = frozen.__dict__["unfrozen_shapes"] = shapes[1]
    return frozen


def _verify(target: _Target, runs: _Runs, frozen: FrozenTime, t: float, expected: Any) -> None:
    conditions = {k: _rolled(v) if k in runs.varying else v for k, v in runs.conditions.items()}
    try:
        output = target.run(target.state(seed=1), target.time(t), conditions)
    except Exception as error:
        frozen.undo()
        raise RuntimeError(f"the network does not run without the modules that were frozen, all is undone: {error}") from error
    if not all(map(same_bits, _tensors(output), _tensors(expected))):
        difference = max(float((a - b).abs().max()) for a, b in zip(_tensors(output), _tensors(expected), strict=True))
        frozen.undo()
        raise RuntimeError(
            f"the frozen network must return the same bits as before, its output differs by up to {difference:.3g} (is the network random, or "
            "does it keep a state from call to call?); all is undone. verify=False accepts it"
        )


def _qualifies(seen: _Seen, limit: int | None) -> bool:
    if seen.why_not or seen.passes:
        return False
    return limit is None or sum(sum(r.numel() * r.element_size() for r in _distinct(column)) for column in seen.rows) <= limit


def _outermost(module: nn.Module, qualifies: Callable[[nn.Module], bool]) -> Iterator[nn.Module]:
    for child in module.children():
        if qualifies(child):
            yield child
        else:
            yield from _outermost(child, qualifies)


def _closure(read: int, nodes: Sequence[_Seen]) -> int:
    """All modules that are read, through those that stay."""
    while True:
        more = read
        for seen in nodes:
            if more & seen.bit:
                more |= seen.reads
        if more == read:
            return read
        read = more


def _distinct(column: Sequence[Tensor]) -> list[Tensor]:
    return list({id(row): row for row in column}.values())


def _steps(seen: _Seen) -> int:
    return max(len(_distinct(column)) for column in seen.rows)


def _table(seen: _Seen, i: int, runs: _Runs, read: bool) -> Table:
    column, batched = seen.rows[i], seen.batched[i]
    constant = len(_distinct(column)) == 1 and len(column) > 1
    used = column[:1] if constant else column
    if batched and all(same_bits(row, row[:1].expand_as(row)) for row in _distinct(used)):
        used = [row[:1] for row in used]
    return Table(torch.stack(used), batched, read, seen.written)


def _per_step(table: Table, steps: int) -> Table:
    return Table(table.rows.expand(steps, *table.rows.shape[1:]), table.batched, table.read, table.written)


def _check_keys(keys: Tensor, chosen: Mapping[nn.Module, _Seen]) -> None:
    values = keys.tolist()
    for j, value in enumerate(values):
        i = values.index(value)
        for seen in chosen.values():
            if i != j and any(column[i] is not column[j] and not same_bits(column[i], column[j]) for column in seen.rows):
                raise ValueError(
                    f"schedule: steps {i} and {j} must differ as {keys.dtype}, both are {value}, and {seen.name} has different rows there"
                )


# ---------------------------------------------------------------------------------------------------------------- sizes


def _weights(modules: Sequence[nn.Module]) -> dict[int, list[Tensor]]:
    """Parameters and buffers by the storage that they live in."""
    storages: dict[int, list[Tensor]] = {}
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            storages.setdefault(tensor.untyped_storage()._cdata, []).append(tensor)
    return storages


def _bytes(storages: Mapping[int, Sequence[Tensor]]) -> int:
    return sum(tensors[0].untyped_storage().nbytes() for tensors in storages.values())


def _spared(network: nn.Module, replaced: Sequence[nn.Module]) -> list[Tensor]:
    """Weights of ``replaced`` that nothing left in ``network`` shares."""
    left = _weights([network])
    found: dict[int, Tensor] = {}
    for storage, tensors in _weights(replaced).items():
        if storage not in left:
            found |= {id(tensor): tensor for tensor in tensors}
    return list(found.values())


def _report(network: nn.Module, chosen: Mapping[nn.Module, _Seen], tables: Mapping[nn.Module, Sequence[Table]], steps: int) -> FreezeReport:
    inside = {m for module in chosen for m in module.modules()}
    outside: dict[int, list[Tensor]] = {}
    for m in network.modules():
        if m not in inside:
            for tensor in (*m.parameters(recurse=False), *m.buffers(recurse=False)):
                outside.setdefault(tensor.untyped_storage()._cdata, []).append(tensor)
    spared = {k: v for k, v in _weights(list(chosen)).items() if k not in outside}
    modules, counted = [], set(outside)
    for m, seen in chosen.items():
        own = {k: v for k, v in _weights([m]).items() if k not in counted}
        counted |= set(own)
        read = [table for table in tables[m] if table.read]
        size = sum(table.rows.numel() * table.rows.element_size() for table in read)
        modules.append(FrozenModule(seen.name, max((table.rows.shape[0] for table in read), default=0), _bytes(own), size))
    return FreezeReport(tuple(modules), steps, _bytes(_weights([network])), _bytes(spared), sum(m.table for m in modules))


def _size(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _shapes(network: Any) -> list[tuple[str, tuple[int, ...]]]:
    return sorted((k, tuple(v.shape)) for k, v in network.state_dict().items()) if isinstance(network, nn.Module) else []


# --------------------------------------------------------------------------------------------------------------- values


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    try:
        take_apart(value, found)
    except TypeError:
        found = [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    return found


def _same_structure(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


def _rolled(value: Any) -> Any:
    """Other valid values: those of the neighbouring sample."""
    return value.roll(1, 0) if isinstance(value, Tensor) and value.ndim > 0 else value


def _longer(value: Any, batch: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _longer(part, batch) for key, part in value.items()}
    if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch:
        return torch.cat([value, value[:1]])
    return value
