"""Names that must be of a list, and which one was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def must_be_one_of(what: str, given: T, known: Iterable[str], more: str = "") -> T:
    """``given``, if it is one of ``known``; else ValueError with the list, ``more`` that would do, and the nearest name."""
    known = list(known)
    try:
        if given in known:
            return given
    except TypeError:  # cannot be compared
        pass
    raise ValueError(f"{what} must be one of {known}{more}, got {given!r}{meant(given, known)}")


def meant(given: object, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" where one of ``known`` is near; else nothing."""
    near = difflib.get_close_matches(given.lower(), list(known), 1) if isinstance(given, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""
