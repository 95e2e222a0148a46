"""``ttune.json``: a schedule on disk, or several of different numbers of steps; strict to read and atomic to write."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec

from ttune.noise.schedules import NoiseSchedule
from ttune.schedule.schedule import Schedule
from ttune.schedule.time_shift import Shift
from ttune.storage.atomic_write import write_atomically
from ttune.storage.bounded_read import read_bytes

FORMAT = "ttune schedule"
SEVERAL = "ttune schedules"
VERSION = 1
MAX_BYTES = 4_000_000  # a schedule with an explicit table of 1,000 alphas takes 28 kB
RECORD = 20_000  # bytes that a tuning may add to a schedule: those of the gallery are 3 kB, and each iteration adds 20
MAX_DEPTH = 32  # of what stands in `noise`, `model` and `tuned`; tuning writes 3


class ScheduleFile(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of the file, in the order in which they are written."""

    format: str
    schema_version: int
    ttune_version: str
    sampler: str
    positions: list[float]
    conditioning: list[float]
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
    """Several schedules, each as it would stand in a file of its own, fewest steps first."""

    format: str
    schema_version: int
    ttune_version: str
    schedules: list[ScheduleFile]


class _Kind(msgspec.Struct):
    format: str


def save(schedule: Schedule, path: str | PathLike[str]) -> None:
    """Write ``schedule`` to ``path``: temporary file, fsync, rename."""
    _write(path, _content(schedule))


def save_schedules(schedules: Mapping[int, Schedule] | Iterable[Schedule], path: str | PathLike[str]) -> None:
    """Write several schedules of different numbers of steps to one file, as atomically; ValueError for two of the same."""
    given = list(schedules.values()) if isinstance(schedules, Mapping) else list(schedules)
    steps = [schedule.steps for schedule in given]
    if not given or len(set(steps)) < len(steps):
        raise ValueError(f"schedules must be at least one, of different numbers of steps, got {steps}")
    contents = [_content(schedule) for schedule in sorted(given, key=lambda schedule: schedule.steps)]
    _write(path, _several(contents))


def load(
    path: str | PathLike[str], *, noise: NoiseSchedule | None = None, sampler: str | None = None, steps: int | None = None
) -> Schedule:
    """Read ``path`` and check everything in it; ValueError says what does not fit. Never a fallback.

    Of a file of several schedules, the one with ``steps`` steps.
    """
    found = load_schedules(path, noise=noise, sampler=sampler)
    if steps is None and len(found) > 1:
        raise ValueError(f"{path}: there are schedules of {_listed(found)} steps in this file; name one with steps (--steps)")
    if steps is not None and steps not in found:
        raise ValueError(f"{path}: steps must be {_listed(found)}, the schedules in this file, got {steps}")
    return next(iter(found.values())) if steps is None else found[steps]


def load_schedules(path: str | PathLike[str], *, noise: NoiseSchedule | None = None, sampler: str | None = None) -> dict[int, Schedule]:
    """All schedules of ``path`` by their number of steps, fewest first; a file of one schedule will do too. Checks like ``load``."""
    return decoded(read_bytes(path, MAX_BYTES, "a schedule file"), path, noise=noise, sampler=sampler)


def check_storable(schedules: Iterable[Schedule], path: str | PathLike[str]) -> None:
    """ValueError now, and not after hours of tuning, if ``schedules``, once tuned, could not stand in ``path`` and be read again."""
    contents = [_content(schedule) for schedule in schedules]
    decoded(_text(path, contents[0] if len(contents) == 1 else _several(contents), RECORD * len(contents)), path)


def encoded(schedules: Iterable[Schedule]) -> bytes:
    """What :func:`save` writes of one schedule, and :func:`save_schedules` of several: for who keeps it inside another file."""
    contents = [_content(schedule) for schedule in schedules]
    return msgspec.json.encode(contents[0] if len(contents) == 1 else _several(contents))


def decoded(
    data: bytes, path: str | PathLike[str], *, noise: NoiseSchedule | None = None, sampler: str | None = None
) -> dict[int, Schedule]:
    """:func:`load_schedules` of what stands in ``path`` already read; ``path`` is where messages say it comes from."""
    path = Path(path)
    found: dict[int, Schedule] = {}
    for content in _contents(data, path):
        schedule = _schedule(path, content)
        if schedule.steps in found:
            raise ValueError(f"{path}: schedules must have different numbers of steps, got two of {schedule.steps}")
        if noise is not None and noise != schedule.noise:
            raise ValueError(f"{path}: the schedule was made for the noise schedule {describe(schedule.noise)}, got {describe(noise)}")
        if sampler is not None and sampler != schedule.sampler:
            raise ValueError(
                f"{path}: the schedule was made for the sampler {schedule.sampler!r}, got {sampler!r}; tune one for it instead"
            )
        found[schedule.steps] = schedule
    return dict(sorted(found.items()))


def _contents(data: bytes, path: Path) -> list[ScheduleFile]:
    try:
        several = msgspec.json.decode(data, type=_Kind).format == SEVERAL
        content = msgspec.json.decode(data, type=SchedulesFile if several else ScheduleFile)
    except RecursionError:
        raise ValueError(f"{path}: not a schedule file: nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable schedule file: {error}") from None
    if isinstance(content, ScheduleFile):
        return [content]
    if content.schema_version != VERSION:
        raise ValueError(f"{path}: schema_version must be {VERSION} for this ttune, got {content.schema_version}")
    if not content.schedules:
        raise ValueError(f"{path}: schedules must hold at least one, got none")
    return content.schedules


def _schedule(path: Path, content: ScheduleFile) -> Schedule:
    _check_depth(path, content)
    if content.format != FORMAT:
        raise ValueError(f"{path}: format must be {FORMAT!r}, got {content.format!r}")
    if content.schema_version != VERSION:
        raise ValueError(f"{path}: schema_version must be {VERSION} for this ttune, got {content.schema_version}")
    if content.digest and content.digest != _digest(content):
        raise ValueError(
            f"{path}: the content was changed after it was written (its digest does not match), so what it says about its tuning "
            f"need not hold; delete the field 'digest' to use it all the same"
        )
    try:
        return Schedule(
            NoiseSchedule.from_dict(content.noise),
            content.sampler,
            content.positions,  # pyright: ignore[reportArgumentType]
            content.conditioning,  # pyright: ignore[reportArgumentType]
            content.eta,
            content.lower_order_final,
            content.model,
            content.tuned,
            content.options,  # pyright: ignore[reportArgumentType]
            content.first,
            content.coefficients,  # pyright: ignore[reportArgumentType]
            None if content.shift is None else Shift(**content.shift),
            tuple(content.variants),
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from None


def _content(schedule: Schedule) -> ScheduleFile:
    from ttune.version import __version__

    content = ScheduleFile(
        format=FORMAT,
        schema_version=VERSION,
        ttune_version=__version__,
        sampler=schedule.sampler,
        positions=schedule.positions.tolist(),
        conditioning=schedule.conditioning.tolist(),
        noise=schedule.noise.to_dict(),
        eta=schedule.eta,
        lower_order_final=schedule.lower_order_final,
        model=dict(schedule.model),
        tuned=dict(schedule.tuned),
        options={name: list(value) if isinstance(value, tuple) else value for name, value in schedule.options.items()},
        first=schedule.first,
        coefficients=None if schedule.coefficients is None else schedule.coefficients.tolist(),
        shift=None if schedule.shift is None else schedule.shift.to_dict(),
        variants=list(schedule.variants),
    )
    content.digest = _digest(content)
    return content


def _several(contents: list[ScheduleFile]) -> SchedulesFile:
    from ttune.version import __version__

    return SchedulesFile(SEVERAL, VERSION, __version__, contents)


def _write(path: str | PathLike[str], content: ScheduleFile | SchedulesFile) -> None:
    write_atomically(path, _text(path, content))


def _text(path: str | PathLike[str], content: ScheduleFile | SchedulesFile, more: int = 0) -> bytes:
    """The bytes of the file, ``more`` of which may follow. ValueError for what :func:`load_schedules` would refuse to read."""
    for one in content.schedules if isinstance(content, SchedulesFile) else [content]:
        _check_depth(path, one)
    data = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
    if len(data) + more > MAX_BYTES:
        record = f" with {more} for the record of the tuning" if more else ""
        raise ValueError(
            f"{os.fspath(path)}: a schedule file has at most {MAX_BYTES} bytes, this one would have {len(data) + more}{record}; "
            f"a noise schedule by its name or with fewer training steps takes less"
        )
    return data


def _listed(found: Mapping[int, Schedule]) -> str:
    return " or ".join(map(str, found))


def describe(noise: NoiseSchedule) -> str:
    """A noise schedule in one line."""
    values = noise.to_dict()
    values = {k: f"{len(v)} values" if isinstance(v, list) else v for k, v in values.items()}
    return f"{values.pop('kind')}({', '.join(f'{k}={v}' for k, v in values.items())})"


def _digest(content: ScheduleFile) -> str:
    # Through JSON and back first: what is digested is what a reader of the file will see (NaN, say, becomes null).
    values = msgspec.to_builtins(msgspec.json.decode(msgspec.json.encode(content), type=ScheduleFile))
    values.pop("digest")
    for name in ("options", "first", "shift", "variants"):  # files written before there were these keep their digest
        if not values[name]:
            del values[name]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _check_depth(path: str | PathLike[str], content: ScheduleFile) -> None:
    if _deeper([content.noise, content.model, content.tuned], MAX_DEPTH):
        raise ValueError(f"{os.fspath(path)}: not a schedule file: nested too deeply, beyond {MAX_DEPTH} levels")


def _deeper(values: list[Any], depth: int) -> bool:
    """Whether anything in ``values`` is nested more than ``depth`` levels deep."""
    for _ in range(depth):
        containers = [v for v in values if isinstance(v, (dict, list, tuple))]
        values = [inner for c in containers for inner in (c.values() if isinstance(c, dict) else c)]
    return any(isinstance(v, (dict, list, tuple)) for v in values)
