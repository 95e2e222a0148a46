"""The page of what was tried to break ttune: measured where it says so."""

import json
from pathlib import Path

import pytest

from benchmarks import reliability


def test_the_page_has_what_was_measured_and_says_what_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reliability, "RESULTS", tmp_path)
    monkeypatch.setattr(reliability, "TESTS", (("threads", ["tests/test_concurrency.py"], "another_order"),))
    out = tmp_path / "page.md"
    reliability.main(["--out", str(out)])
    text = out.read_text()
    assert "| threads | 1 passed" in text
    assert "inputs of `make fuzz` | not run" in text
    assert "| 50, 0 |" in text
    (tmp_path / "fuzz.json").write_text(json.dumps({"kinds": {"files": {"inputs": 1200, "accepted": 7, "faults": ["x"]}}}))
    assert reliability.fuzzed() == ["| fuzzing, files: inputs, of them accepted, faults | 1,200, 7, 1 |"]


def test_no_operator_is_worse_than_twice_eager_code() -> None:
    assert max(reliability.error_ratios().values()) <= 2
