"""A little of every kind of input in every test run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.fuzz import operators, schedule_files, tensor_files
from tests.fuzz import result as result_file
from tests.fuzz.__main__ import _shared, main
from tests.fuzz.corpus import Case, cases
from tests.fuzz.registry import TARGETS
from tests.fuzz.result import FAULTY, SOUND, STOPPED_SHORT, Result
from tests.fuzz.runner import CORPUS, Tally, tallies, tally
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


def test_what_makes_a_fault_small_is_not_counted() -> None:
    def check(number: int) -> bool:
        seen.append(number)
        assert number < 1000
        return True

    seen: list[int] = []
    result = tally(Target("numbers", st.integers(0, 10**6), check, 1), seed=0, batch=0)
    assert result.fault
    assert result.inputs == next(i for i, number in enumerate(seen) if number >= 1000)


def test_the_program_counts_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fuzz.json"
    assert main(["--inputs", "20", "--only", "checkpoints", "--out", str(out)]) == SOUND
    record = json.loads(out.read_text())
    row = record["kinds"]["checkpoints"]
    assert row["inputs"] == row["accepted"] + row["refused"] == 20
    assert row["corpus"] == len(TARGETS["checkpoints"].cases())
    assert row["faults"] == []
    assert (record["asked"], record["tried"], record["complete"]) == (20, 20, True)
    assert "machine" in record
    assert "asked 20, tried 20" in capsys.readouterr().out


def test_a_run_that_stops_short_says_so_and_has_a_status_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fuzz.json"
    assert main(["--inputs", "20", "--only", "checkpoints", "--minutes", "0", "--first", "0", "--out", str(out)]) == STOPPED_SHORT == 3
    record = json.loads(out.read_text())
    assert (record["asked"], record["tried"], record["complete"]) == (20, 0, False)
    said = capsys.readouterr().out
    assert "asked 20, tried 0" in said
    assert "Stopped short: no fault in what was tried" in said


def test_a_kind_that_stops_short_is_not_made_up_for_by_another() -> None:
    tallies = {"a": [Tally(0, accepted=9)], "b": [Tally(CORPUS, accepted=5), Tally(0, refused=4)]}
    result = Result({"a": 8, "b": 5}, tallies, seed=0, seconds=1.0)
    assert not result.record()["complete"]
    assert result.status() == STOPPED_SHORT
    assert Result({"a": 9, "b": 4}, tallies, seed=0, seconds=1.0).status() == SOUND


def test_a_fault_is_a_fault_wherever_the_run_stopped() -> None:
    result = Result({"a": 500}, {"a": [Tally(CORPUS, fault="the corpus's"), Tally(7, fault="a drawn one's")]}, seed=0, seconds=1.0)
    assert result.status() == FAULTY
    assert result.rows()["a"]["faults"] == ["corpus: the corpus's", "batch 7: a drawn one's"]
    assert "Stopped short" not in result.text()


def test_a_result_of_more_inputs_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_file, "BUILD", tmp_path / "build")
    out = tmp_path / "fuzz.json"

    def written(inputs: int, kind: str = "a") -> Path:
        return Result({kind: inputs}, {kind: [Tally(0, accepted=inputs)]}, seed=0, seconds=1.0).write(out)

    assert written(10) == out
    assert written(9) == tmp_path / "build" / "fuzz.json"
    assert json.loads(out.read_text())["tried"] == 10
    assert written(10) == written(11) == out
    assert json.loads(out.read_text())["tried"] == 11
    assert written(99, kind="b") == tmp_path / "build" / "fuzz.json"
    out.write_text("{")
    assert written(1) == out


def test_all_inputs_are_shared_out() -> None:
    shares = {name: target.share for name, target in TARGETS.items()}
    for inputs in (0, 1, 7, 110_000):
        assert sum(_shared(inputs, shares).values()) == inputs
    assert min(_shared(110_000, shares).values()) > 1000


def test_the_corpus_comes_first_and_its_faults_are_reported(tmp_path: Path) -> None:
    def check(data: bytes) -> bool:
        if data == b"good":
            return True
        raise RuntimeError("never")

    for name in ("one", "two"):
        (tmp_path / "accepted" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "accepted" / name).write_bytes(b"good" if name == "one" else b"bad")
    files = [Case(path, Path.read_bytes) for path in sorted((tmp_path / "accepted").iterdir())]
    target = Target("bytes", st.just(b"good"), check, 1, lambda: files)
    corpus, *drawn = tallies(target, seed=0, first=CORPUS, inputs=1, until=float("inf"))
    assert (corpus.batch, corpus.accepted) == (CORPUS, 1)
    assert "RuntimeError: never" in corpus.fault
    assert f"input: {tmp_path / 'accepted' / 'two'}" in corpus.fault
    assert [(tally.batch, tally.inputs, tally.fault) for tally in drawn] == [(0, 1, "")]
    assert [tally.batch for tally in tallies(target, seed=0, first=3, inputs=1, until=float("inf"))] == [3]


def test_a_wrong_gradient_is_a_fault() -> None:
    for kind in ("updates", "losses", "products", "embeddings"):
        (call,) = (call for case in cases(kind, operators.read_call, "*gradients.json") if (call := case.read(case.path)).asking)
        found = operators._outcome(call)
        assert isinstance(found, operators.Outcome)
        operators._check_gradients(call, found.gradients, found.gradients)
        wrong = [None if gradient is None else gradient * 1.001 for gradient in found.gradients]
        with pytest.raises(AssertionError, match="off by"):
            operators._check_gradients(call, wrong, found.gradients)
