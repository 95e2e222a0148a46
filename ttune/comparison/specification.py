"""A tuning method in one word of the command line: ``endpoint``, ``timetuner@best:procedure=parallel``, ``mine=endpoint:…``."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from ttune.messages.names import must_be_one_of
from ttune.tuning.methods.method import Method
from ttune.tuning.methods.registry import METHODS

SYNTAX = (
    "[label=]method[@best][:field=value[,field=value…]], the words of a list joined by +, for example endpoint:tune=network_times+times"
)
STARTS = ("leading", "best")


@dataclass(frozen=True)
class Entrant:
    """A method and the schedule that it is given: the leading grid, or the best untuned grid and t_0 (``start="best"``).

    A method that cannot move the steps can do no better than its grid allows; from the best one it is judged, and charged for the
    search, like those that look for a grid themselves.
    """

    method: Method
    start: str = "leading"

    def __post_init__(self) -> None:
        must_be_one_of("start", self.start, list(STARTS))

    def settings(self) -> dict[str, Any]:
        """What makes this entrant another than others, in plain values."""
        return {"method": self.method.name, "start": self.start, **self.method.settings()}


def parse_method(text: str) -> tuple[str, Entrant]:
    """(label, entrant) of ``[label=]method[@best][:field=value,…]``; without a label, the text itself is the label.

    The fields are those of the method's dataclass; numbers, truth values and words are read as the field's type wants them, lists
    are joined by "+". Raises ValueError naming what is not understood.
    """
    head, colon, body = text.partition(":")
    label, equals, called = head.rpartition("=")
    name, at, start = called.partition("@")
    if (equals and not label) or name not in METHODS or (at and start not in STARTS):
        raise ValueError(f"methods must be {SYNTAX}; the methods are {', '.join(METHODS)}; got {text!r}")
    if colon and not body:
        raise ValueError(f"methods: {text!r} ends in a colon without settings; write {SYNTAX}")
    return label or text, Entrant(METHODS[name](**_settings(METHODS[name], body, text)), start or "leading")


def parse_methods(texts: Iterable[str]) -> dict[str, Entrant]:
    """The entrants of several specifications by label; two of one label are refused."""
    methods: dict[str, Entrant] = {}
    for text in texts:
        label, method = parse_method(text)
        if label in methods:
            raise ValueError(f"methods: the label {label!r} is there twice; give one of them another, as in other={text}")
        methods[label] = method
    return methods


def _settings(method: type[Method], body: str, text: str) -> dict[str, Any]:
    if not body:
        return {}
    fields = {f.name: f for f in dataclasses.fields(method) if f.init}  # pyright: ignore[reportArgumentType]
    kinds = typing.get_type_hints(method)
    settings: dict[str, Any] = {}
    for part in body.split(","):
        name, equals, word = (piece.strip() for piece in part.partition("="))
        if not equals or name not in fields or name in settings:
            raise ValueError(f"methods: {part!r} in {text!r} must be field=value, each once, with a field of {sorted(fields)}")
        settings[name] = _value(kinds[name], word, f"{name} in {text!r}")
    return settings


def _value(kind: Any, word: str, where: str) -> Any:
    """``word`` as ``kind``; where a list will do and a + is there, or only a list will, the list of its words."""
    listed = tuple(word.split("+"))
    texts = [part for part in typing.get_args(kind) if typing.get_origin(part) is not Callable]  # a function has no text
    if isinstance(kind, types.UnionType) and len(texts) < len(typing.get_args(kind)):
        kind = typing.Union[tuple(texts)]  # noqa: UP007
    attempts = [word, listed] if len(listed) == 1 else [listed, word]
    for value in attempts:
        try:
            found = msgspec.convert(value, kind, strict=False)
        except (msgspec.ValidationError, TypeError):  # TypeError: a kind that has no text
            continue
        return tuple(found) if isinstance(found, list) else found
    raise ValueError(f"methods: {where} must be a value for {getattr(kind, '__name__', kind)}, got {word!r}")
