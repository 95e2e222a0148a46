"""What an adapter has put into somebody else's object, and how it comes out again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from ttune.adapters.told import Told

_MARK = "_ttune_applied"  # in the host's own __dict__, so that it lives and is copied with the host and is no global state


class Applied:
    """A schedule at work in ``host``. :meth:`remove`, or the end of a ``with`` block, leaves the host as it was before.

    ``told`` knows the evaluation that the host is at; ``undo`` are called in reverse order.
    """

    def __init__(self, host: Any, told: Told, undo: Sequence[Callable[[], object]]) -> None:
        self.host, self.told, self._undo = host, told, list(undo)
        host.__dict__[_MARK] = self

    def remove(self) -> None:
        """Take everything out; a second time does nothing."""
        while self._undo:
            self._undo.pop()()
        if self.host.__dict__.get(_MARK) is self:
            del self.host.__dict__[_MARK]

    def __enter__(self) -> Applied:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()


def refuse_twice(host: Any) -> None:
    """ValueError where a schedule is at work already: two would be told one after the other."""
    if _MARK in getattr(host, "__dict__", {}):
        raise ValueError(f"a schedule is applied to this {type(host).__name__} already; remove it first")


def remove(host: Any) -> None:
    """Take the schedule out of ``host`` again; ValueError where there is none."""
    applied = getattr(host, "__dict__", {}).get(_MARK)
    if applied is None:
        raise ValueError(f"no schedule is applied to this {type(host).__name__}")
    applied.remove()


def overriding(host: Any, name: str, value: Any) -> Callable[[], None]:
    """Put ``value`` over the method or attribute ``name`` of this one object; the function that takes it away again."""
    own, before = name in host.__dict__, host.__dict__.get(name)
    host.__dict__[name] = value

    def undo() -> None:
        if own:
            host.__dict__[name] = before
        else:
            del host.__dict__[name]

    return undo
