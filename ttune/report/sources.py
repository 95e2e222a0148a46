"""The files that a report is made of: schedules, the JSON of ``ttune evaluate`` and of ``ttune demo``, the folder of ``ttune compare``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec

from ttune.comparison.table import ComparisonRow
from ttune.evaluation.report_rows import ReportRow
from ttune.report.record import Record, read_record
from ttune.schedule.collection import load_schedules
from ttune.schedule.file import FORMAT, SEVERAL
from ttune.schedule.schedule import Schedule
from ttune.storage.bounded_read import read_bytes

MAX_BYTES = 64_000_000  # the comparison of the mixture, 143 rows with all their pairs, takes 1 MB


@dataclass(frozen=True)
class ReportEntry:
    """A schedule of a file. ``name`` is short, and unlike those of the other entries."""

    name: str
    file: Path
    digest: str  # of the file: SHA-256
    version: str  # of the ttune that wrote it
    schedule: Schedule
    record: Record


class EvaluationRows(msgspec.Struct):
    """The JSON of ``ttune evaluate`` or ``ttune demo``; what later versions add is not looked at."""

    rows: list[ReportRow]
    model: str | None = None


class Missing(msgspec.Struct):
    cell: str
    reason: str


class Compared(msgspec.Struct):
    """The JSON of ``ttune compare``."""

    model: str
    features: str
    test_samples: int
    rows: list[ComparisonRow]
    headlines: list[str] = []
    teacher: dict[str, str | int | float | None] = {}
    refused: list[Missing] = []
    failed: list[Missing] = []


@dataclass(frozen=True)
class Sources:
    """All that was read, in the order in which it was named. ``digests``: (file, SHA-256) of each."""

    entries: Sequence[ReportEntry] = ()
    evaluations: Sequence[tuple[Path, EvaluationRows]] = ()
    comparisons: Sequence[tuple[Path, Compared]] = ()
    digests: Sequence[tuple[Path, str]] = field(default=())


def read_sources(paths: Sequence[str | PathLike[str]]) -> Sources:
    """Read schedule files, JSON of ``ttune evaluate``, and folders of ``ttune compare`` or ``ttune demo``.

    Of a folder ``report.json`` is read, and the schedule files beside it. ValueError names a file that is none of these,
    FileNotFoundError one that is not there.
    """
    if not paths:
        raise ValueError("sources must name at least one file or folder, got none")
    files = list(dict.fromkeys(file for path in paths for file in _files(Path(path))))
    schedules: list[tuple[Path, str, str]] = []
    evaluations, comparisons, digests = [], [], []
    for file in files:
        data, content = _content(file)
        digest = hashlib.sha256(data).hexdigest()
        digests.append((file, digest))
        if content.get("format") in (FORMAT, SEVERAL):
            schedules.append((file, digest, str(content.get("ttune_version", ""))))
        elif "test_samples" in content:
            comparisons.append((file, _converted(file, content, Compared, "a comparison")))
        elif "rows" in content:
            evaluations.append((file, _converted(file, content, EvaluationRows, "an evaluation")))
        else:
            raise ValueError(
                f"{file}: must be a schedule file, the JSON of ttune evaluate or the folder of ttune compare, got JSON with the fields "
                f"{sorted(map(str, content))[:8]}"
            )
    return Sources(_entries(schedules), evaluations, comparisons, digests)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    report = path / "report.json"
    beside = [file for file in sorted(path.glob("*.json")) if file != report and _is_schedule(file)]
    found = [*beside, *([report] if report.exists() else [])]
    if not found:
        begun = "; its ttune compare has not finished: run it again" if (path / "comparison.json").exists() else ""
        raise ValueError(f"{path}: a folder must hold report.json or schedule files, got neither{begun}")
    return found


def _is_schedule(file: Path) -> bool:
    if not file.is_file():  # a FIFO, say, which would have the report wait for a writer
        return False
    with file.open("rb") as stream:
        return b'"ttune schedule' in stream.read(200)  # the field that is written first


def _content(file: Path) -> tuple[bytes, dict[str, Any]]:
    data = read_bytes(file, MAX_BYTES, "a file to report on")
    try:
        content = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file}: not readable as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: must be a JSON object, got {type(content).__name__}")
    return data, content


def _converted(file: Path, content: dict[str, Any], kind: Any, what: str) -> Any:
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{file}: looks like {what}, and cannot be read as one: {error}") from None


def _entries(files: Sequence[tuple[Path, str, str]]) -> list[ReportEntry]:
    loaded = [(file, digest, version, schedule) for file, digest, version in files for schedule in load_schedules(file).values()]
    plain = [f"{schedule.sampler}, {schedule.steps} steps" for *_, schedule in loaded]
    stems = [file.stem for file, *_ in loaded]
    entries = []
    for i, (file, digest, version, schedule) in enumerate(loaded):
        name = plain[i]
        if plain.count(name) > 1:
            name = f"{name} ({stems[i] if _alone(plain, stems, i) else file})"
        entries.append(ReportEntry(name, file, digest, version, schedule, read_record(schedule)))
    return entries


def _alone(plain: Sequence[str], stems: Sequence[str], i: int) -> bool:
    """Whether the file's stem tells entry ``i`` from the others of its name."""
    return [stem for name, stem in zip(plain, stems, strict=True) if name == plain[i]].count(stems[i]) == 1
