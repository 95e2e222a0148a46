"""What an adapter has put into somebody else's object, and how it comes out again."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from types import TracebackType
from typing import Any

import numpy as np
from torch import nn

from ttune.adapters.timestep_override import TimestepOverride
from ttune.network.denoiser import Denoiser
from ttune.noise.schedules import NoiseSchedule
from ttune.sampling.sample import as_schedule
from ttune.schedule.schedule import Schedule

_MARK = "_ttune_applied"  # in the host's own __dict__, so that it lives and is copied with the host and is no global state


class Patch:
    """A schedule at work in ``host``. :meth:`remove`, or the end of a ``with`` block, leaves the host as it was before.

    ``override`` knows the evaluation that the host is at; ``undo`` are called in reverse order. ``shared`` are other objects that are
    changed with the host (a sampler's model), which can take part in one schedule at a time only.
    """

    def __init__(self, host: Any, override: TimestepOverride, undo: Sequence[Callable[[], object]], *, shared: Sequence[Any] = ()) -> None:
        self.host, self.override, self._undo, self._marked = host, override, list(undo), (host, *shared)
        self.paused: set[int] = set()  # threads that call the host's network as a denoiser
        for each in self._marked:
            each.__dict__[_MARK] = self

    def remove(self) -> None:
        """Take everything out; a second time does nothing. RuntimeError, and the rest stays applied, where others have since replaced
        what was put in: to put back what was there before would bring theirs down."""
        while self._undo:
            self._undo[-1]()
            self._undo.pop()
        for each in self._marked:
            if each.__dict__.get(_MARK) is self:
                del each.__dict__[_MARK]

    def __enter__(self) -> Patch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()


def refuse_twice(host: Any) -> None:
    """ValueError where a schedule is at work already: two would act one after the other."""
    if _MARK in getattr(host, "__dict__", {}):
        raise ValueError(f"a schedule is applied to this {type(host).__name__} already; remove it first")


def opened(schedule: Schedule | str | PathLike[str], network: Any, check_model: bool) -> Schedule:
    """``schedule``, or the one in a file; without what it remembers of its model where ``check_model`` is False.

    ValueError where it was tuned for a network of another architecture than ``network``, a UserWarning for other weights; nothing where
    ``network`` is no module or the schedule remembers none.
    """
    schedule = as_schedule(schedule)
    if not check_model:
        return schedule.replace(model={})
    if isinstance(network, nn.Module):
        remembered = {name: schedule.model[name] for name in ("parameter_shapes", "weights") if name in schedule.model}
        Denoiser(network, schedule.noise).check_model(remembered)
    return schedule


def refuse_other_noise(schedule: Schedule, trained: NoiseSchedule, source: str, *, rtol: float = 1e-4) -> None:
    """ValueError where ``schedule`` is on another noise schedule than ``trained``, the host's, which ``source`` returns."""
    mine, steps = schedule.noise, trained.discrete_steps
    times = np.linspace(trained.t_min, trained.t_max, steps or 101)
    same = type(mine) is type(trained) and mine.discrete_steps == steps
    if not same or not np.allclose(mine.alpha(times), trained.alpha(times), rtol=rtol, atol=0):
        raise ValueError(f"schedule: its noise schedule is not the host's; build or tune one on {source}")


def remove(host: Any) -> None:
    """Take the schedule out of ``host`` again; ValueError where there is none."""
    applied = getattr(host, "__dict__", {}).get(_MARK)
    if applied is None:
        raise ValueError(f"no schedule is applied to this {type(host).__name__}")
    applied.remove()


def is_paused(host: Any) -> bool:
    """Whether the schedule in ``host``, if there is one, leaves calls of this thread alone."""
    applied = getattr(host, "__dict__", {}).get(_MARK)
    return applied is not None and threading.get_ident() in applied.paused


@contextlib.contextmanager
def paused(host: Any) -> Iterator[None]:
    """The schedule in ``host``, if there is one, leaves calls of this thread alone: a denoiser of the network passes its own times."""
    applied = getattr(host, "__dict__", {}).get(_MARK)
    thread = threading.get_ident()
    if applied is None or thread in applied.paused:
        yield
        return
    applied.paused.add(thread)
    try:
        yield
    finally:
        applied.paused.discard(thread)


def refuse_settings(schedule: Schedule, host: str, **settings: Any) -> None:
    """ValueError where ``schedule`` remembers a setting of its denoiser (:meth:`ttune.Denoiser.identity`) that ``host`` has otherwise.
    A schedule that was not tuned remembers none."""
    for name, value in settings.items():
        if name in schedule.model and schedule.model[name] != value:
            raise ValueError(f"schedule was tuned with {name} {schedule.model[name]!r}, {host} has {value!r}; tune one with that")


class Checked:
    """A function of the host's that takes no other arguments than ``required``, where it has arguments of these names."""

    def __init__(self, original: Callable[..., Any], required: Mapping[str, Any], source: str) -> None:
        self.original, self.required, self.source = original, required, source
        self.signature = inspect.signature(original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.checked(*args, **kwargs)
        return self.original(*args, **kwargs)

    def checked(self, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        """The arguments by name, defaults too, after :meth:`check`."""
        given = self.signature.bind(*args, **kwargs)
        given.apply_defaults()
        self.check(given.arguments)
        return given

    def check(self, given: Mapping[str, Any]) -> None:
        for name, value in self.required.items():
            if name in given and given[name] != value:
                raise ValueError(f"{name} must be {value}, as in {self.source}, got {given[name]}")


def overriding(host: Any, name: str, value: Any) -> Callable[[], None]:
    """Put ``value`` over the method or attribute ``name`` of this one object; the function that takes it away again."""
    override = _Override(host, name, value, name in host.__dict__, host.__dict__.get(name))
    host.__dict__[name] = value
    return override


@dataclass(frozen=True, eq=False)
class _Override:
    """Takes ``value`` away again. An object, not a closure: a deep copy of the host has one that means the copy."""

    host: Any
    name: str
    value: Any
    own: bool
    before: Any

    def __call__(self) -> None:
        if self.host.__dict__.get(self.name) is not self.value:
            raise RuntimeError(
                f"{self.name} of this {type(self.host).__name__} must be what ttune put there, got another, put there since; "
                f"undo that first"
            )
        if self.own:
            self.host.__dict__[self.name] = self.before
        else:
            del self.host.__dict__[self.name]
