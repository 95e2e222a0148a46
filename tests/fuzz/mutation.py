"""Damage: JSON values and bytes, changed in few places."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

# What has broken readers before: limits of integers and floats, spellings that only Python writes, signs of zero, words for nothing.
NUMBERS = (0, 1, -1, 2, 999, 1000, -0.0, 0.5, 1e-12, 5e-324, 1e300, 1.7976931348623157e308, float("nan"), float("inf"), -float("inf"))
WHOLE = (2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**6, 10**6 + 1, 10**19, 10**400)
OTHERS = (
    None,
    True,
    False,
    "",
    "ddim",
    "linear",
    "nan",
    "0",
    "\x00",
    "é",
    "\ud800",
    [],
    {},
    [[]],
    [1.0, 2.0],
    {"kind": "linear"},
    {"a": 1},
)
numbers = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(WHOLE), st.floats(), st.floats(-2, 1001), st.integers(-3, 1001))
values = st.one_of(numbers, st.sampled_from(OTHERS)).map(copy.deepcopy)  # a later edit may change what an earlier one put in
TOKENS = (b"NaN", b"Infinity", b"1e999", b"-", b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\u0000", b"\\ud800", b"\xff", b"\x00", b"null")
TOKENS += (b"true", b"0", b"9" * 40, b"e5", b".", b" ", b'"digest":"",', b"[" * 2000, b"\xef\xbb\xbf")


@st.composite
def edited(draw: st.DrawFn, bases: list[dict[str, Any]]) -> dict[str, Any]:
    """One of ``bases`` with one to three values replaced, nudged, removed, doubled or added."""
    content = copy.deepcopy(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(1, 3))):
        _edit(draw, content)
    return content


def _edit(draw: st.DrawFn, content: Any) -> None:
    """In a container of ``content``, reached by a walk of random length."""
    here = content
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            break
        key = draw(st.sampled_from(keys))
        if not (isinstance(here[key], dict | list) and here[key] and draw(st.integers(0, 3))):
            return _change(draw, here, key)
        here = here[key]


def _change(draw: st.DrawFn, here: Any, key: Any) -> None:
    what = draw(st.sampled_from(("replace", "replace", "nudge", "nudge", "remove", "add", "swap")))
    value = here[key]
    if what == "remove":
        del here[key]
    elif what == "add" and isinstance(here, list):
        here.insert(key, draw(values))
    elif what == "add":
        here[draw(st.sampled_from(("surprise", "kind", "steps", "digest", "format")))] = draw(values)
    elif what == "nudge" and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        here[key] = value * draw(st.sampled_from((-1, 0.5, 2, 1e3, 1 + 1e-12))) + draw(st.sampled_from((0, 0, 1, -1, 0.25, 1e-9)))
    elif what == "swap" and isinstance(here, list):
        other = draw(st.integers(0, len(here) - 1))
        here[key], here[other] = here[other], here[key]
    else:
        here[key] = draw(values)


def as_json(content: Any) -> bytes:
    """As Python writes it: with NaN and Infinity, which JSON does not know, and lone surrogates."""
    return json.dumps(content).encode()


@st.composite
def damaged(draw: st.DrawFn, bases: list[bytes], others: Sequence[bytes] = ()) -> bytes:
    """One of ``bases``, or in one of six cases of ``others``, with one to four ranges changed, removed, doubled or put in, or cut short."""
    data = bytearray(draw(st.sampled_from(others if others and draw(st.integers(0, 5)) == 3 else bases)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 12))
        what = draw(st.sampled_from(("byte", "byte", "bit", "token", "remove", "double", "cut")))
        if what == "byte":
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif what == "bit" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "token":
            data[at:at] = draw(st.sampled_from(TOKENS))
        elif what == "remove":
            del data[at : at + length]
        elif what == "double":
            data[at:at] = data[at : at + length]
        elif draw(st.booleans()):  # a file that ends early is refused at once: not too many of them
            del data[at:]
    return bytes(data)
