"""A tuning method in one word of the command line: ``endpoint``, ``timetuner@best:procedure=parallel``, ``mine=endpoint:…``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ttune.messages.names import must_be_one_of
from ttune.tuning.methods.method import Method
from ttune.tuning.methods.registry import METHODS, settings_in

SYNTAX = (
    "[label=]method[@best][:field=value[,field=value…]], the words of a list joined by +, for example endpoint:tune=network_times+times"
)
STARTS = ("leading", "best")


@dataclass(frozen=True)
class Entrant:
    """A method and the schedule that it is given: the leading grid, or the best untuned grid and t_0 (``start="best"``).

    A method that cannot move the steps can do no better than its grid allows; from the best one it is judged, and charged for the
    search, like those that look for a grid themselves. ``max_evaluations``: of one tuning with the search of its start and the validation,
    but without those of the teacher's samples, which are the same for all; methods without a setting of that name do not know it.
    """

    method: Method
    start: str = "leading"
    max_evaluations: int | None = None

    def __post_init__(self) -> None:
        must_be_one_of("start", self.start, list(STARTS))

    def settings(self) -> dict[str, Any]:
        """What makes this entrant another than others, in plain values."""
        limit = {} if self.max_evaluations is None else {"at_most": self.max_evaluations}
        return {"method": self.method.name, "start": self.start, **limit, **self.method.settings()}

    @property
    def limited(self) -> bool:
        """Whether the method can be given a number of evaluations."""
        return any(field.name == "max_evaluations" for field in dataclasses.fields(self.method))  # pyright: ignore[reportArgumentType]

    def within(self, spent: int) -> Method:
        """The method with what is left of ``max_evaluations`` after ``spent``, or as it is where it knows no limit.

        Raises ValueError where nothing is left.
        """
        if self.max_evaluations is None or not self.limited:
            return self.method
        if self.max_evaluations <= spent:
            raise ValueError(f"max_evaluations must be more than the search of the start took, {spent}, got {self.max_evaluations}")
        return dataclasses.replace(self.method, max_evaluations=self.max_evaluations - spent)  # pyright: ignore


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
    return label or text, Entrant(METHODS[name](**settings_in("methods", name, body, text)), start or "leading")


def parse_methods(texts: Iterable[str]) -> dict[str, Entrant]:
    """The entrants of several specifications by label; two of one label are refused."""
    methods: dict[str, Entrant] = {}
    for text in texts:
        label, method = parse_method(text)
        if label in methods:
            raise ValueError(f"methods: the label {label!r} is there twice; give one of them another, as in other={text}")
        methods[label] = method
    return methods
