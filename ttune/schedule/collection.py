"""Several schedules of different numbers of steps in one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike

from ttune.noise.schedules import NoiseSchedule
from ttune.schedule import file
from ttune.schedule.schedule import Schedule


def save_schedules(schedules: Mapping[int, Schedule] | Iterable[Schedule], path: str | PathLike[str]) -> None:
    """Write several schedules to one file, as atomically as :meth:`ttune.Schedule.save`; ValueError for two of the same number of steps."""
    given = list(schedules.values()) if isinstance(schedules, Mapping) else list(schedules)
    steps = [schedule.steps for schedule in given]
    if not given or len(set(steps)) < len(steps):
        raise ValueError(f"schedules must be at least one, of different numbers of steps, got {steps}")
    file.write(path, [schedule.plain() for schedule in given])


def load_schedules(path: str | PathLike[str], *, noise: NoiseSchedule | None = None, sampler: str | None = None) -> dict[int, Schedule]:
    """All schedules of ``path`` by their number of steps, fewest first; a file of one schedule will do too. Checks like
    :meth:`ttune.Schedule.load`."""
    return {steps: Schedule.from_plain(values, path) for steps, values in file.read(path, noise=noise, sampler=sampler).items()}


def encoded(schedules: Iterable[Schedule]) -> bytes:
    """What :func:`save_schedules` writes: for who puts it into another file."""
    return file.encoded([schedule.plain() for schedule in schedules])


def decoded(data: bytes, path: str | PathLike[str]) -> dict[int, Schedule]:
    """:func:`load_schedules` of what was read already; ``path`` is where messages say it comes from."""
    return {steps: Schedule.from_plain(values, path) for steps, values in file.decoded(data, path).items()}


def check_storable(schedules: Iterable[Schedule], path: str | PathLike[str]) -> None:
    """ValueError now, and not after hours of tuning, if ``schedules``, once tuned, could not be written to ``path`` and read again."""
    plain = [schedule.plain() for schedule in schedules]
    decoded(file.text(path, plain, file.RECORD * len(plain)), path)
