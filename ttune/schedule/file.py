"""``ttune.json``: what is written of a schedule, or of several of different numbers of steps; strict to read and atomic to write.

Here a schedule is a dict of plain values (:meth:`ttune.Schedule.plain`): the file knows their kinds, and not what they mean.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec

from ttune.noise.schedules import NoiseSchedule
from ttune.storage.atomic_write import write_atomically
from ttune.storage.bounded_read import read_bytes
from ttune.version import __version__

FORMAT = "ttune schedule"
SEVERAL = "ttune schedules"
VERSION = 2
READABLE = (1, 2)
# What version 1 called the fields, in the record of a tuning too.
RENAMED = {"positions": "times", "conditioning": "network_times", "holdout": "validation", "guard": "fallback"}
MAX_BYTES = 4_000_000  # a schedule with an explicit table of 1,000 alphas takes 28 kB
RECORD = 20_000  # bytes that a tuning may add to a schedule: those of the gallery are 3 kB, and each iteration adds 20
MAX_DEPTH = 32  # of what is in `noise`, `model` and `tuned`; tuning writes 3

Plain = Mapping[str, Any]


class ScheduleFile(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of the file, in the order in which they are written."""

    format: str
    schema_version: int
    ttune_version: str
    sampler: str
    times: list[float]
    network_times: list[float]
    noise: dict[str, Any]
    eta: float = 0.0
    lower_order_final: bool = False
    coefficients: list[list[float]] | None = None  # corrections of the solver's rows
    model: dict[str, Any] = {}
    tuned: dict[str, Any] = {}
    options: dict[str, bool | int | float | str | list[int | float]] = {}  # the sampler's own
    first: int = 0  # of a part: the number of its first evaluation in the whole
    shift: dict[str, float] | None = None
    variants: list[int] = []  # of the network, one per evaluation
    digest: str = ""


class SchedulesFile(msgspec.Struct, forbid_unknown_fields=True):
    """Several schedules, each as it would be in a file of its own, fewest steps first."""

    format: str
    schema_version: int
    ttune_version: str
    schedules: list[ScheduleFile]


class _Kind(msgspec.Struct):
    format: str
    schema_version: int


def write(path: str | PathLike[str], schedules: Sequence[Plain]) -> None:
    """Write one schedule, or several, fewest steps first: temporary file, fsync, rename."""
    write_atomically(path, text(path, schedules))


def read(path: str | PathLike[str], *, noise: NoiseSchedule | None = None, sampler: str | None = None) -> dict[int, Plain]:
    """What ``path`` holds by number of steps, fewest first; ValueError says what does not fit. Never a fallback."""
    return decoded(read_bytes(path, MAX_BYTES, "a schedule file"), path, noise=noise, sampler=sampler)


def read_one(
    path: str | PathLike[str], *, noise: NoiseSchedule | None = None, sampler: str | None = None, steps: int | None = None
) -> Plain:
    """Of a file of several schedules, the one with ``steps`` steps."""
    found = read(path, noise=noise, sampler=sampler)
    if steps is None and len(found) > 1:
        raise ValueError(f"{path}: there are schedules of {_listed(found)} steps in this file; name one with steps (--steps)")
    if steps is not None and steps not in found:
        raise ValueError(f"{path}: steps must be {_listed(found)}, the schedules in this file, got {steps}")
    return next(iter(found.values())) if steps is None else found[steps]


def encoded(schedules: Sequence[Plain]) -> bytes:
    """What :func:`write` writes, without line breaks: for who puts it into another file."""
    return msgspec.json.encode(_file(schedules))


def decoded(data: bytes, path: str | PathLike[str], *, noise: NoiseSchedule | None = None, sampler: str | None = None) -> dict[int, Plain]:
    """:func:`read` of what was read already; ``path`` is where messages say it comes from."""
    path = Path(path)
    found: dict[int, Plain] = {}
    for content in _contents(data, path):
        steps = len(content.times) - 1
        if steps in found:
            raise ValueError(f"{path}: schedules must have different numbers of steps, got two of {steps}")
        if noise is not None and noise != (theirs := _noise(path, content)):
            raise ValueError(f"{path}: the schedule was made for the noise schedule {describe(theirs)}, got {describe(noise)}")
        if sampler is not None and sampler != content.sampler:
            raise ValueError(f"{path}: the schedule was made for the sampler {content.sampler!r}, got {sampler!r}; tune one for it instead")
        found[steps] = {name: value for name, value in msgspec.structs.asdict(content).items() if name not in _ENVELOPE}
    return dict(sorted(found.items()))


_ENVELOPE = ("format", "schema_version", "ttune_version", "digest")


def text(path: str | PathLike[str], schedules: Sequence[Plain], more: int = 0) -> bytes:
    """The bytes of the file, to which ``more`` bytes may be added. ValueError for what :func:`read` would refuse."""
    for schedule in schedules:
        _check_depth(path, schedule)
    data = msgspec.json.format(msgspec.json.encode(_file(schedules)), indent=2) + b"\n"
    if len(data) + more > MAX_BYTES:
        record = f" with {more} for the record of the tuning" if more else ""
        raise ValueError(
            f"{os.fspath(path)}: a schedule file has at most {MAX_BYTES} bytes, this one would have {len(data) + more}{record}; "
            f"a noise schedule by its name or with fewer training steps takes less"
        )
    return data


def describe(noise: NoiseSchedule) -> str:
    """A noise schedule in one line."""
    values = noise.to_dict()
    values = {k: f"{len(v)} values" if isinstance(v, list) else v for k, v in values.items()}
    return f"{values.pop('kind')}({', '.join(f'{k}={v}' for k, v in values.items())})"


def _file(schedules: Sequence[Plain]) -> ScheduleFile | SchedulesFile:
    contents = []
    for schedule in sorted(schedules, key=lambda schedule: len(schedule["times"])):
        contents.append(ScheduleFile(FORMAT, VERSION, __version__, **schedule))
        contents[-1].digest = _digest(contents[-1])
    return contents[0] if len(contents) == 1 else SchedulesFile(SEVERAL, VERSION, __version__, contents)


def _contents(data: bytes, path: Path) -> list[ScheduleFile]:
    try:
        kind = msgspec.json.decode(data, type=_Kind)
        _check_version(path, kind.schema_version)
        content = msgspec.json.decode(data, type=_KINDS[kind.schema_version == 1, kind.format == SEVERAL])
    except RecursionError:
        raise ValueError(f"{path}: not a schedule file: nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable schedule file: {error}") from None
    if isinstance(content, (SchedulesFile, SchedulesFileV1)):
        if not content.schedules:
            raise ValueError(f"{path}: schedules must hold at least one, got none")
        contents = content.schedules
    else:
        contents = [content]
    for one in contents:
        _check(path, one)
    return [_renewed(one) if isinstance(one, ScheduleFileV1) else one for one in contents]


def _noise(path: Path, content: ScheduleFile) -> NoiseSchedule:
    try:
        return NoiseSchedule.from_dict(content.noise)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from None


def _check(path: Path, content: ScheduleFile | ScheduleFileV1) -> None:
    _check_depth(path, {"noise": content.noise, "model": content.model, "tuned": content.tuned})
    if content.format != FORMAT:
        raise ValueError(f"{path}: format must be {FORMAT!r}, got {content.format!r}")
    _check_version(path, content.schema_version)
    if content.digest and content.digest != _digest(content):
        raise ValueError(
            f"{path}: the content was changed after it was written (its digest does not match), so what it says about its tuning "
            f"need not hold; delete the field 'digest' to use it all the same"
        )


def _check_version(path: Path, version: int) -> None:
    if version not in READABLE:
        raise ValueError(f"{path}: schema_version must be one of {list(READABLE)} for this ttune, got {version}")


def _digest(content: ScheduleFile | ScheduleFileV1) -> str:
    # Through JSON and back first: what is digested is what a reader of the file will see (NaN, say, becomes null).
    values = msgspec.to_builtins(msgspec.json.decode(msgspec.json.encode(content), type=type(content)))
    values.pop("digest")
    for name in ("options", "first", "shift", "variants"):  # files written before there were these keep their digest
        if not values[name]:
            del values[name]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _check_depth(path: str | PathLike[str], schedule: Plain) -> None:
    if _deeper([schedule["noise"], schedule["model"], schedule["tuned"]], MAX_DEPTH):
        raise ValueError(f"{os.fspath(path)}: not a schedule file: nested too deeply, beyond {MAX_DEPTH} levels")


def _deeper(values: list[Any], depth: int) -> bool:
    """Whether anything in ``values`` is nested more than ``depth`` levels deep."""
    for _ in range(depth):
        containers = [v for v in values if isinstance(v, (dict, list, tuple))]
        values = [inner for c in containers for inner in (c.values() if isinstance(c, dict) else c)]
    return any(isinstance(v, (dict, list, tuple)) for v in values)


def _listed(found: Iterable[int]) -> str:
    return " or ".join(map(str, found))


# ---------------------------------------------------------------------------------------------------------- version 1


class ScheduleFileV1(msgspec.Struct, forbid_unknown_fields=True):
    """The fields as ttune 0.1 wrote them. Written out, and not derived: what is added to :class:`ScheduleFile` was never in these."""

    format: str
    schema_version: int
    ttune_version: str
    sampler: str
    positions: list[float]
    conditioning: list[float]
    noise: dict[str, Any]
    eta: float = 0.0
    lower_order_final: bool = False
    coefficients: list[list[float]] | None = None
    model: dict[str, Any] = {}
    tuned: dict[str, Any] = {}
    options: dict[str, bool | int | float | str | list[int | float]] = {}
    first: int = 0
    shift: dict[str, float] | None = None
    variants: list[int] = []
    digest: str = ""


class SchedulesFileV1(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    schema_version: int
    ttune_version: str
    schedules: list[ScheduleFileV1]


_KINDS = {(False, False): ScheduleFile, (False, True): SchedulesFile, (True, False): ScheduleFileV1, (True, True): SchedulesFileV1}


def _renewed(old: ScheduleFileV1) -> ScheduleFile:
    """The same under today's names, those within the record of its tuning too."""
    values = {RENAMED.get(name, name): value for name, value in msgspec.structs.asdict(old).items()}
    return ScheduleFile(**values | {"tuned": _with_todays_words(values["tuned"])})


def _with_todays_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {RENAMED.get(name, name): _with_todays_words(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_todays_words(inner) for inner in value]
    return RENAMED.get(value, value) if isinstance(value, str) else value
