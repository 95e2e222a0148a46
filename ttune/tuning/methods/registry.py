"""The registry of tuning methods: one file and one line each. The command line, the comparison and the tests iterate it."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ttune.messages.names import must_be_one_of
from ttune.tuning.methods.ays import AlignYourSteps
from ttune.tuning.methods.dyweight import DyWeight
from ttune.tuning.methods.endpoint import Endpoint
from ttune.tuning.methods.evolution import Evolution
from ttune.tuning.methods.generalized_solver import GeneralizedSolver
from ttune.tuning.methods.ld3 import LD3
from ttune.tuning.methods.method import Method
from ttune.tuning.methods.optimal_steps import OptimalSteps
from ttune.tuning.methods.shifted import Shifted
from ttune.tuning.methods.timetuner import TimeTuner
from ttune.tuning.methods.trajectory import Local, Trajectory

METHODS: dict[str, type[Method]] = {
    "endpoint": Endpoint,
    "trajectory": Trajectory,
    "local": Local,
    "timetuner": TimeTuner,
    "optimal_steps": OptimalSteps,
    "ays": AlignYourSteps,
    "shifted": Shifted,
    "evolution": Evolution,
    "gs": GeneralizedSolver,
    "dyweight": DyWeight,
    "ld3": LD3,
}


def method_named(text: str, options: Mapping[str, Any]) -> Method:
    """The method of this name, with settings or without: ``"evolution:operators=cma,rounds=5"``.

    ``options``: what a tuning was asked for (``tune``, ``iterations``, ...); a method takes those that are fields of its dataclass.
    Raises ValueError for a name or a setting that there is not, and for an option that the method does not know and would need.
    """
    name, colon, body = text.partition(":")
    must_be_one_of("method", name, METHODS, ", or one of ttune.tuning's method objects")
    if colon and not body:
        raise ValueError(f"method: {text!r} ends in a colon without settings; write method:field=value,field=value")
    known = fields_of(name)
    for option in ("tune", "optimizer"):
        if option in options and option not in known:
            owners = [other for other in METHODS if option in fields_of(other)]
            raise ValueError(f"{option} is a setting of the methods {owners}, got method {name!r}")
    method = METHODS[name](**{o: v for o, v in options.items() if o in known} | settings_in("method", name, body, text))
    # The other methods keep the first time, as they move no times.
    if "fix_start" in options and "fix_start" not in known and "times" in method.changes:
        raise ValueError(f"fix_start does not go with method {name!r}, whose tables say where the times begin")
    return method


def fields_of(name: str) -> dict[str, Any]:
    """The settings of a method by name, with their defaults."""
    return {field.name: field.default for field in dataclasses.fields(METHODS[name])}  # pyright: ignore[reportArgumentType]


def settings_in(argument: str, name: str, body: str, text: str) -> dict[str, Any]:
    """The settings of the method ``name`` in ``field=value,field=value``, as its dataclass types them; lists are joined by "+".

    Raises ValueError that names the ``argument`` and what in its ``text`` is not understood.
    """
    kinds = typing.get_type_hints(METHODS[name])
    settings: dict[str, Any] = {}
    for part in body.split(",") if body else ():
        field, equals, word = (piece.strip() for piece in part.partition("="))
        if not equals or field not in fields_of(name) or field in settings:
            raise ValueError(f"{argument}: {part!r} in {text!r} must be field=value, each once, with a field of {sorted(fields_of(name))}")
        settings[field] = _value(kinds[field], word, f"{argument}: {field} in {text!r}")
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
    hint = "; join its numbers by + and write 0.01, not .01" if typing.get_origin(kind) is tuple else ""
    raise ValueError(f"{where} must be a value for {kind if hint else getattr(kind, '__name__', kind)}, got {word!r}{hint}")
