"""What ``tuned`` of a schedule says, read field by field: anybody may have written it, and one bad field does not take the others along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from ttune.schedule.schedule import Schedule
from ttune.schedule.time_shift import Shift

T = TypeVar("T")
Number = float | None  # null in the file: NaN or infinity when it was written


class Rival(msgspec.Struct):
    rmse: Number = None
    frechet: Number = None


class FrontRow(msgspec.Struct):
    """A schedule of a distribution's decision (:class:`ttune.tuning.distribution.decision.Judge`); older files have no errors."""

    name: str
    rmse: Number = None
    rmse_error: Number = None
    to_teacher: Number = None
    to_teacher_error: Number = None
    to_reference: dict[str, Number] = {}
    to_reference_error: dict[str, Number] = {}
    precision: Number = None
    precision_error: Number = None
    recall: Number = None
    recall_error: Number = None


class ValidationFigures(msgspec.Struct):
    """The figures of the decision (:func:`ttune.tuning.validation.decide`)."""

    n: int
    features: str
    rmse_start: Number = None
    rmse: Number = None
    ratio: Number = None
    low: Number = None
    high: Number = None
    frechet_start: Number = None
    frechet: Number = None
    best_untuned: Rival | None = None
    proposed: Rival | None = None  # what the method believed in most
    chosen: str = ""
    refused: list[str] = []
    front: list[FrontRow] = []
    returned: str = ""
    reference: str | None = None


class Line(msgspec.Struct):
    """A curve of convergence: iterations, and a value at each."""

    at: list[int]
    values: list[Number]


class Grid(msgspec.Struct):
    name: str
    schedule: dict[str, Any]


@dataclass(frozen=True)
class Record:
    """None or empty: the file does not say. ``faults``: what could not be read, in words."""

    method: str | None
    changes: tuple[str, ...]
    seed: int | None
    samples: int | None
    residual: str | None
    unfinished: str | None
    teacher: Mapping[str, Any]
    cost: Mapping[str, float]
    validation: ValidationFigures | None
    history: Mapping[str, Line]
    start: Schedule | None
    grid: Schedule | None  # the best untuned one
    grid_name: str
    faults: tuple[str, ...]


def read_record(schedule: Schedule) -> Record:
    """The record of how ``schedule`` was tuned; all of it empty for an untuned one."""
    tuned, faults = schedule.tuned, []

    def field(name: str, kind: type[T] | Any) -> Any:
        value = tuned.get(name)
        if value is None:
            return None
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            faults.append(f"its record of {name!r} cannot be read: {error}")
            return None

    def settings(name: str, values: Mapping[str, Any] | None) -> Schedule | None:
        try:
            return None if values is None else schedule_of(values, schedule)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            faults.append(f"its record of {name!r} is not a schedule: {error}")
            return None

    grid: Grid | None = field("best_untuned", Grid)
    history: dict[str, Line] = field("history", dict[str, Line]) or {}
    uneven = [name for name, line in history.items() if len(line.at) != len(line.values)]
    faults += [f"its history of {name!r} has not as many values as iterations" for name in uneven]
    return Record(
        method=field("method", str),
        changes=tuple(field("tune", list[str]) or ()),
        seed=field("seed", int),
        samples=field("samples", int),
        residual=field("residual", str),
        unfinished=field("unfinished", str),
        teacher=field("teacher", dict[str, bool | int | float | str | None]) or {},
        cost={k: v for k, v in (field("cost", dict[str, Number]) or {}).items() if v is not None and v >= 0},
        validation=field("validation", ValidationFigures),
        history={name: line for name, line in history.items() if name not in uneven},
        start=settings("start", field("start", dict[str, Any])),
        grid=settings("best_untuned", None if grid is None else grid.schedule),
        grid_name="" if grid is None else grid.name,
        faults=tuple(faults),
    )


def schedule_of(settings: Mapping[str, Any], like: Schedule) -> Schedule:
    """The inverse of :meth:`ttune.Schedule.settings`, on the noise schedule of ``like``.

    Raises ValueError, TypeError or KeyError for settings that are none.
    """
    given = dict(settings)
    shift = given.pop("shift", None)
    known = {"sampler", "times", "network_times", "eta", "lower_order_final", "options", "first", "coefficients", "variants"}
    if given.keys() - known:
        raise ValueError(f"settings must be among {sorted(known)}, got {sorted(given.keys() - known)}")
    if not {"sampler", "times"} <= given.keys():
        raise KeyError("sampler and times must be there")
    return Schedule(like.noise, shift=None if shift is None else Shift(**shift), **given)
