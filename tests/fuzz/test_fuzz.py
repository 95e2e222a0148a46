"""A little of every kind of input in every test run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.fuzz import schedule_files, tensor_files
from tests.fuzz.__main__ import main
from tests.fuzz.registry import TARGETS
from tests.fuzz.runner import tally
from tests.fuzz.target import Target

INPUTS = 50  # of every kind, in every test run; `make fuzz` tries a hundred thousand
FEW = {"command lines": 15}


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_inputs_of_every_kind(name: str) -> None:
    result = tally(TARGETS[name], seed=1, batch=0, inputs=FEW.get(name, INPUTS))
    assert not result.fault, result.fault
    assert result.inputs >= FEW.get(name, INPUTS) // 2


def test_what_is_not_damaged_is_taken() -> None:
    for content in schedule_files.bases():
        assert schedule_files.read(json.dumps(content).encode())
    assert tensor_files.WEIGHTS.check(tensor_files.weights())
    assert tensor_files.STATISTICS.check(tensor_files.statistics())
    assert tensor_files.JOURNALS.check(tensor_files.journal())


def test_a_fault_is_found_and_made_small() -> None:
    def check(number: int) -> bool:
        assert number < 1000
        return True

    result = tally(Target("numbers", st.integers(0, 10**6), check, 1), seed=0, batch=0)
    assert "AssertionError" in result.fault
    assert "input: 1000" in result.fault


def test_the_same_seed_tries_the_same_inputs() -> None:
    def tried(seed: int) -> list[bytes]:
        inputs: list[bytes] = []
        target = Target("bytes", TARGETS["ttune.json, bytes"].inputs, lambda data: not inputs.append(data), 1)
        tally(target, seed, batch=3, inputs=20)
        return inputs

    assert tried(5) == tried(5) != tried(6)


def test_the_program_counts_and_reports(tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    assert main(["--inputs", "20", "--only", "checkpoints", "--out", str(out)]) == 0
    row = json.loads(out.read_text())["kinds"]["checkpoints"]
    assert row["inputs"] == row["accepted"] + row["refused"] == 20
    assert row["faults"] == []
    assert "machine" in json.loads(out.read_text())
