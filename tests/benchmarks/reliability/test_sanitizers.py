"""What the sanitizers said is counted, and a process that they stopped is no success."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.reliability.pytest_runs import sanitizers

XML = '<testsuites><testsuite tests="12" failures="{failures}" errors="0" skipped="3"/></testsuites>'


def record(tmp_path: Path, log: str, failures: int | None) -> tuple[dict[str, object], int]:
    (tmp_path / "log").write_text(log)
    if failures is not None:
        (tmp_path / "report.xml").write_text(XML.format(failures=failures))
    status = 0
    try:
        sanitizers([*(str(tmp_path / name) for name in ("log", "report.xml")), "--out", str(tmp_path / "out.json")])
    except SystemExit as stop:
        status = int(stop.code or 0)
    return json.loads((tmp_path / "out.json").read_text()), status


@pytest.mark.parametrize(
    ("log", "failures", "found", "status"),
    [
        ("12 passed", 0, (9, 0, 0), 0),
        ("1 failed", 1, (8, 1, 0), 1),
        ("csrc/cpu/x.cpp:3:5: runtime error: signed integer overflow\n12 passed", 0, (9, 0, 1), 1),
        ("==7==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x6", None, (0, 0, 1), 1),
        ("Killed", None, (0, 0, 1), 1),
    ],
)
def test_reports_are_counted(tmp_path: Path, log: str, failures: int | None, found: tuple[int, int, int], status: int) -> None:
    result, ended = record(tmp_path, log, failures)
    reports = result["reports"]
    assert isinstance(reports, list)
    assert (result["passed"], result["failed"], len(reports)) == found
    assert ended == status
