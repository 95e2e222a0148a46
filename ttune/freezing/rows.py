"""What replaces the modules of a frozen network: rows of tables, chosen by the time that the network receives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ttune import ops

Path = tuple[Any, ...]  # of a value among a network's arguments: name, then keys of the containers within


@dataclasses.dataclass(frozen=True)
class Slot:
    """The place of tensor number ``i`` in a structure that was taken apart."""

    i: int


def take_apart(value: Any, tensors: list[Tensor]) -> Any:
    """``value`` with a :class:`Slot` for every tensor, which is appended to ``tensors``: tuples, lists, dicts, dataclasses.

    TypeError for any other object: what is in it cannot be known.
    """
    if isinstance(value, Tensor):
        tensors.append(value)
        return Slot(len(tensors) - 1)
    if value is None or isinstance(value, (bool, int, float, complex, str, torch.dtype, torch.device)):
        return value
    if isinstance(value, (tuple, list)):
        parts = [take_apart(part, tensors) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if dataclasses.is_dataclass(value):
        return _Dataclass(type(value), {f.name: take_apart(getattr(value, f.name), tensors) for f in dataclasses.fields(value)})
    if type(value) is dict:
        return {key: take_apart(part, tensors) for key, part in value.items()}
    raise TypeError(f"a {type(value).__name__} cannot be taken apart")


def put_together(template: Any, tensors: Sequence[Tensor]) -> Any:
    """The inverse of :func:`take_apart`, with other tensors."""
    if isinstance(template, Slot):
        return tensors[template.i]
    if isinstance(template, _Dataclass):
        return template.kind(**{name: put_together(part, tensors) for name, part in template.contents.items()})
    if isinstance(template, dict):
        return {key: put_together(part, tensors) for key, part in template.items()}
    if isinstance(template, (tuple, list)):
        parts = [put_together(part, tensors) for part in template]
        return type(template)(*parts) if hasattr(template, "_fields") else type(template)(parts)
    return template


@dataclasses.dataclass(frozen=True)
class _Dataclass:
    kind: type
    contents: dict[str, Any]


def leaves(value: Any, path: Path = ()) -> list[tuple[Path, Any]]:
    """What a network's arguments consist of, with the path of each; dicts, tuples and lists are opened."""
    if isinstance(value, dict):
        return [leaf for key, part in value.items() for leaf in leaves(part, (*path, key))]
    if isinstance(value, (tuple, list)):
        return [leaf for key, part in enumerate(value) for leaf in leaves(part, (*path, key))]
    return [(path, value)]


def spelled(path: Path) -> str:
    """A path as a user writes it."""
    return "".join(f"[{key!r}]" if i else str(key) for i, key in enumerate(path))


class StepIndex(nn.Module):
    """Which step it is: the time argument of a call, found among the times that the network was frozen for.

    ``run`` takes the place of the network's ``forward``. ``index`` (B,) float64 lives during the call: the number of the step
    per sample, NaN for a time or a condition that the rows were not made for. Nothing waits for the device, except on the CPU in
    eager mode, where waiting is free: there the same is a ValueError.
    """

    keys: Tensor
    numbers: Tensor

    def __init__(
        self,
        forward: Callable[..., Any],  # the network's own
        names: Sequence[str],
        keys: Tensor,  # (K,) as the network receives them
        time: Path,
        state: Path,
        shape: tuple[int, ...],  # of the state, with the batch
        conditions: Mapping[Path, Tensor],  # that rows depend on
        constants: Mapping[Path, Any],
        given: frozenset[Path],  # all arguments that were given
        one_batch: str,  # why no other batch size can be served, or ""
    ) -> None:
        super().__init__()
        self.inner = forward
        self.names, self.time, self.state, self.shape = tuple(names), time, state, shape
        self.register_buffer("keys", keys, persistent=False)
        self.register_buffer("numbers", torch.arange(len(keys), dtype=torch.float64, device=keys.device), persistent=False)
        self.conditions = tuple(conditions)
        for i, value in enumerate(conditions.values()):
            self.register_buffer(f"condition_{i}", value.detach().clone(), persistent=False)
        # Conditions that are equal in all samples fit any number of them.
        self.alike = tuple(v.ndim > 0 and v.shape[0] == shape[0] and bool((v == v[:1]).all()) for v in conditions.values())
        self.constants, self.given, self.one_batch = dict(constants), given, one_batch
        self.known = tuple(keys.tolist())
        self.index: Tensor | None = None
        self.batch = 0

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The network, with the step known inside. Not a hook: torch.compile makes those a second graph."""
        self._enter(args, kwargs)
        try:
            return self.inner(*args, **kwargs)
        finally:
            self.index = None

    def _enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = dict(leaves(dict(zip(self.names, args, strict=False)) | kwargs))
        x, t = arguments.get(self.state), arguments.get(self.time)
        if not isinstance(x, Tensor) or x.ndim == 0 or x.shape[1:] != self.shape[1:]:
            received = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{spelled(self.state)} must be (B, *{self.shape[1:]}), a state as the network was frozen for, got {received}")
        if not isinstance(t, Tensor) or t.dtype != self.keys.dtype:
            received = t.dtype if isinstance(t, Tensor) else type(t).__name__
            raise ValueError(
                f"{spelled(self.time)} must be a {self.keys.dtype} tensor, as the network was frozen for (time_dtype=), got {received}"
            )
        batch = x.shape[0]
        if batch != self.shape[0] and self.one_batch:
            raise ValueError(
                f"{spelled(self.state)} must have the batch size that the network was frozen for, {self.shape[0]}, "
                f"got {batch}: {self.one_batch}"
            )
        if t.ndim > 1 or (t.ndim == 1 and t.shape[0] != 1 and t.shape[0] != batch):
            raise ValueError(f"{spelled(self.time)} must be one time, or one per sample (B,) = ({batch},), got shape {tuple(t.shape)}")
        self._check_constants(arguments)
        match = t.reshape(-1, 1) == self.keys
        index = torch.where(match, self.numbers, -1.0).amax(1).expand(batch)
        timely = index >= 0
        fitting = self._fitting(arguments, batch)
        if not torch.compiler.is_compiling() and index.device.type == "cpu":
            self._check(t, timely, fitting)
        known = timely if fitting is None else timely & fitting
        self.index = torch.where(known, index, torch.nan)
        self.batch = batch

    def _check_constants(self, arguments: Mapping[Path, Any]) -> None:
        for path, value in self.constants.items():
            now = arguments.get(path)
            # How diffusers packs its output; no module sees it.
            if path != ("return_dict",) and not (now is value or (isinstance(value, (bool, int, float, str)) and now == value)):
                raise ValueError(f"{spelled(path)} must be what the network was frozen for, {value!r}, got {now!r}")
        for path, now in arguments.items():
            if path not in self.given and now is not None and path != ("return_dict",):
                raise ValueError(f"{spelled(path)} must be absent or None, as when the network was frozen, got {_brief(now)}")

    def _fitting(self, arguments: Mapping[Path, Any], batch: int) -> Tensor | None:
        """(B,) or (): where the conditions are those that the rows were made for."""
        fitting = None
        for i, path in enumerate(self.conditions):
            frozen, now = getattr(self, f"condition_{i}"), arguments.get(path)
            shape = (batch, *frozen.shape[1:]) if self.alike[i] else tuple(frozen.shape)
            if not isinstance(now, Tensor) or tuple(now.shape) != shape or now.dtype != frozen.dtype:
                raise ValueError(f"{spelled(path)} must be what the network was frozen for, {frozen.dtype} {shape}, got {_brief(now)}")
            same = now == (frozen[:1] if self.alike[i] else frozen)
            same = same.reshape(batch, -1).all(1) if same.ndim and same.shape[0] == batch else same.all()
            fitting = same if fitting is None else fitting & same
        return fitting

    def _check(self, t: Tensor, timely: Tensor, fitting: Tensor | None) -> None:
        if not bool(timely.all()):
            unknown = t.reshape(-1).expand(len(timely))[~timely][0].item()
            raise ValueError(
                f"{spelled(self.time)} must be one of the times that the network was frozen for, {list(self.known)}, got {unknown}"
            )
        if fitting is not None and not bool(fitting.all()):
            names = ", ".join(spelled(path) for path in self.conditions)
            raise ValueError(
                f"{names} must have the values that the network was frozen for, got others; freeze it again, "
                "or name what changes in varying="
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StepIndex:
        """Times and conditions are compared bit for bit: they move with the network, but never change their dtype."""
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = buffer.to(fn(torch.empty(0, device=buffer.device)).device)
        return self


@dataclasses.dataclass(frozen=True)
class LookupTable:
    """One output tensor of a module at all steps. ``rows`` (K or 1, B or 1, *row) if ``batched``, else (K or 1, *shape).

    ``timed``: chosen by the step; otherwise one row serves all. ``read`` is False where nothing but other frozen modules reads it:
    then only its shape is kept. ``written``: the network writes into it.
    """

    rows: Tensor
    batched: bool
    read: bool
    written: bool
    timed: bool


class Rows(nn.Module):
    """Takes a module's place and returns what it returned at this step, whatever it is given."""

    def __init__(self, step_index: StepIndex, template: Any, tables: Sequence[LookupTable]) -> None:
        super().__init__()
        self.step_index = step_index
        self.template = template
        self.kinds = tuple((table.batched, table.read, table.written, table.timed) for table in tables)
        self.shapes = tuple(tuple(table.rows.shape) for table in tables)
        for i, table in enumerate(tables):
            # Should anything read an unread one after all, NaN will show.
            self.register_buffer(
                f"rows_{i}", table.rows.contiguous() if table.read else table.rows.new_full((), torch.nan), persistent=False
            )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        index = self.step_index.index
        if index is None:
            raise RuntimeError("a frozen module has rows only inside a call of the network that it was frozen in; undo() restores it")
        return put_together(self.template, [self._serve(i, index, self.step_index.batch) for i in range(len(self.kinds))])

    def _serve(self, i: int, index: Tensor, batch: int) -> Tensor:
        rows: Tensor = getattr(self, f"rows_{i}")
        batched, read, written, timed = self.kinds[i]
        if not read:
            return rows.expand(batch, *self.shapes[i][2:]) if batched else rows.expand(self.shapes[i][1:])
        if not timed:
            row = rows[0].expand(batch, *rows.shape[2:]).contiguous() if batched else rows[0]
            return row.clone() if written else row
        if rows.shape[0] == 1:
            index = index * 0  # NaN stays
        if not batched:  # one output for all samples: they must be at the same step
            return ops.embedding_lookup(rows, torch.where((index == index[0]).all(), index[0], torch.nan))
        if rows.shape[1] == 1:
            return ops.embedding_lookup(rows[:, 0], index)
        samples = torch.arange(batch, device=index.device, dtype=index.dtype)
        return ops.embedding_lookup(rows.flatten(0, 1), index * batch + samples)

    def extra_repr(self) -> str:
        return ", ".join(str(shape) if kind[1] else "unread" for shape, kind in zip(self.shapes, self.kinds, strict=True))


def _brief(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
