"""The kernels' benchmark works: gates, ratios, targets, files. That it is fast enough is not a test's business."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import result_paths
from benchmarks.kernels import measure
from benchmarks.kernels.case import BEYOND_CACHE, SMALLEST, Case, Place
from benchmarks.kernels.cases import CASES
from benchmarks.timing import Effort, Spread, alternate, host_seconds, ratio, rotating
from ttune import ops


def measured(tmp_path: Path, *options: str) -> dict[str, Any]:
    output = tmp_path / "kernels.json"
    measure.main(["--quick", "--output", str(output), *options])
    return json.loads(output.read_text())


# torch.compile and the empty operator's compiler take most of it: some 20 s on two cores.
def test_a_quick_run_measures_or_names_every_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not ops.backends()["cpu"]["available"]:
        pytest.skip(ops.backends()["cpu"]["reason"])
    report = measured(tmp_path)
    skipped = " ".join(place for place, _ in report["skipped"])
    for case in CASES:
        for dtype in case.dtypes:
            name = str(dtype).removeprefix("torch.")
            results = [r for r in report["results"] if r["case"] == case.name and r["dtype"] == name]
            assert len(results) == 1 or f"{case.name} " in skipped
            for result in results:
                assert result["ratios"]
                assert all(0 < time["low"] <= time["median"] <= time["high"] for time in result["times"].values())
                assert all(0 < r["value"]["median"] < math.inf for r in result["ratios"])
                assert all((r["met"] is None) == (r["at_most"] is None) for r in result["ratios"])
    lacking = {name for case in CASES for name in case.operators} - set(ops.backends()["cpu"]["operators"])
    assert bool(report["skipped"]) == bool(lacking)
    assert report["red"] == []
    assert report["machine"]["threads"] == 1
    assert "targets:" in capsys.readouterr().out
    update = next(r for r in report["results"] if r["case"] == "2m + cfg")
    assert {"copy", "compiled", "diffusers", "empty"} <= {r["rival"] for r in update["ratios"]}


@pytest.mark.parametrize("options", [["--quick"], ["--quick", "--shape", "1,3,32,32"]])
def test_a_run_that_is_not_to_report_lies_in_build_and_says_so(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_paths, "BUILD", tmp_path / "build")
    monkeypatch.setattr(result_paths, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(measure, "CASES", [case for case in CASES if case.name == "clip"])
    monkeypatch.setattr(measure, "_default_backends", lambda device: ["reference"])
    measure.main(options)
    assert not (tmp_path / "results").exists()
    report = json.loads((tmp_path / "build" / "kernels-cpu.json").read_text())
    assert report["machine"]["quick"] is True
    assert report["command"] == f"python -m benchmarks kernels {' '.join(options)}"


def test_a_part_is_no_whole_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "FULL", measure.QUICK)
    monkeypatch.setattr(result_paths, "BUILD", tmp_path / "build")
    monkeypatch.setattr(result_paths, "RESULTS", tmp_path / "results")
    measure.main(["--case", "clip", "--shape", "1,3,32,32", "--dtype", "float32", "--backend", "reference"])
    assert not (tmp_path / "results").exists()
    assert json.loads((tmp_path / "build" / "kernels-cpu.json").read_text())["machine"]["quick"] is False


def test_every_case_passes_its_gate_with_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    measure.main(["--check", "--quick", "--backend", "reference"])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("ok") for line in lines) == sum(len(case.dtypes) for case in CASES)


def test_a_red_gate_gives_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = ops.linear_update_

    def wrong(outs: list[torch.Tensor], *arguments: Any, **options: Any) -> None:
        right(outs, *arguments, **options)
        outs[0].flatten()[7] *= 1.0001  # one element, in its fourth digit

    monkeypatch.setattr(ops, "linear_update_", wrong)
    with pytest.raises(SystemExit) as exit_status:
        measured(tmp_path, "--case", "clip", "--dtype", "float32", "--backend", "reference")
    assert exit_status.value.code == 1
    report = json.loads((tmp_path / "kernels.json").read_text())
    assert report["results"] == []
    assert "must be within" in report["red"][0][1]
    assert "RED" in capsys.readouterr().out


def test_an_output_that_was_not_written_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "linear_update_", lambda outs, *arguments, **options: None)
    with pytest.raises(SystemExit):
        measure.main(["--check", "--quick", "--case", "noise", "--backend", "reference"])


@pytest.mark.parametrize("options", [["--case", "no such case"], ["--shape", "1,2,3"], ["--shape", "large"], ["--device", "tpu"]])
def test_what_cannot_be_selected_is_said(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        measure.main(["--check", *options])
    assert exit_status.value.code not in (0, None)
    assert capsys.readouterr().err or "--shape" in str(exit_status.value.code)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_ratio_has_one_target_at_most(device: str) -> None:
    for case in CASES:
        for shape in (*case.shapes, BEYOND_CACHE):
            for dtype in case.dtypes:
                place = Place(shape, dtype, torch.device(device))
                pairs = [(figure.subject, figure.rival) for figure in case.figures if figure.holds_at(place)]
                assert len(pairs) == len(set(pairs)), (case.name, place)


def test_ratios_are_of_the_same_round() -> None:
    times = {"a": [1.0, 10.0, 100.0], "b": [2.0, 20.0, 200.0]}  # a machine that slows down tenfold, twice
    assert ratio(times, "a", "b") == Spread(0.5, 0.5, 0.5)


def test_contestants_take_turns_and_buffers_rotate() -> None:
    log: list[str] = []
    calls = {name: rotating([lambda name=name, k=k: log.append(f"{name}{k}") for k in range(2)]) for name in "ab"}
    times = alternate(calls, Effort(rounds=20, seconds=0), host_seconds)
    assert all(len(rounds) == 20 for rounds in times.values())
    assert {"a0", "a1", "b0", "b1"} == set(log)
    rounds = ["".join(entry[0] for entry in log[i : i + 2]) for i in range(2, 42, 2)]  # after one call each to warm up
    assert set(rounds) == {"ab", "ba"}  # everybody once in a round, in a random order


def test_the_smallest_shape_is_where_calls_are_weighed() -> None:
    case = next(case for case in CASES if case.name == "ddim + cfg")
    place = Place(SMALLEST, torch.float32, torch.device("cpu"))
    (figure,) = [f for f in case.figures if f.rival == "empty" and f.holds_at(place)]
    assert (figure.subject, figure.at_most) == ("operator", 2.0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_under_pytest_benchmark(case: Case, benchmark: Any) -> None:
    """``pytest tests/benchmarks --benchmark-enable -k pytest_benchmark``: absolute times, for whoever tracks those."""
    with torch.set_grad_enabled(case.grad):
        trial = case.build(Place(case.shapes[0], case.dtypes[0], torch.device("cpu")))
        trial.check()
        benchmark(trial.contestants["ttune"])
