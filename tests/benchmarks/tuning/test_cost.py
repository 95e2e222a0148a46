"""What a tuning costs, and how that grows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import result_paths
from benchmarks.isolated_process import apart
from benchmarks.tuning import cost
from benchmarks.tuning.growth import Growth


def test_growth_is_a_constant_a_power_law_or_a_line_and_otherwise_none() -> None:
    sizes = [1, 2, 4, 8]
    assert Growth.of(sizes, [3 * x**2 for x in sizes]).words == "~ x^2.00"
    assert Growth.of(sizes, [5 + 2 * x for x in sizes]).words == "5 + 2 x"
    assert Growth.of(sizes, [7.0, 7.1, 7.0, 6.9]).words == "constant: 7"
    jump = Growth.of([32, 64, 128, 256, 512], [6.6, 13.2, 17.9, 17.9, 17.9], batch_size=64)
    assert (jump.words, jump.worst) == ("constant beyond one chunk: 17.9", 0)
    none = Growth.of(sizes, [80, 224, 80, 334])
    assert not none.describes
    assert none.words == "no curve: 80 to 334"
    scatter = Growth.of(sizes, [1.23, 1.08, 1.14, 1.22])  # a line would miss no point by a tenth, and say nothing
    assert scatter.worst < 0.1
    assert scatter.words == "no curve: 1.08 to 1.23"
    with pytest.raises(ValueError, match="at least 3, got 2"):
        Growth.of([1, 2], [1, 2])


@pytest.mark.parametrize("kind", cost.KINDS)
def test_evaluations_of_an_iteration_are_counted_and_memory_grows_with_pixels(kind: str) -> None:
    """Five steps, ten parameters: by differences a base run, and a restart for each. A backward pass counts two."""
    small, large = (cost.iteration(kind, n, 8) for n in (64, 256))
    assert small["evaluations"] == large["evaluations"] == {"differences": 280, "backpropagation": 240}[kind]
    assert 3 < large["peak_bytes"] / small["peak_bytes"] < 4.5
    assert 0 < small["seconds"]["low"] <= small["seconds"]["median"] <= small["seconds"]["high"]


def test_a_quick_run_lies_in_build_and_fits_three_budgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "count_on_cpu", lambda call: (None, 7000))  # the profiler takes a minute; it is tested above
    peaks = {3: 300, 5: 500, 8: 800}
    monkeypatch.setattr(cost, "apart", lambda function, **options: peaks[options["steps"]])
    monkeypatch.setattr(result_paths, "BUILD", tmp_path / "build")
    monkeypatch.setattr(result_paths, "RESULTS", tmp_path / "results")
    options = [
        "--quick",
        "--methods",
        "trajectory",
        "timetuner",
        "--sampler",
        "heun",
        "--sides",
        "2",
        "4",
        "8",
        "--samples",
        "8",
        "16",
        "32",
    ]
    cost.main([*options, "--work", str(tmp_path / "work")])
    out = tmp_path / "build" / "tuning-cpu.json"
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "work").exists()  # finished: another run measures again
    report = json.loads(out.read_text())
    assert report["command"] == f"python -m benchmarks tuning {' '.join(options)} --work work"
    assert report["machine"]["quick"] is True
    assert report["machine"]["threads"] == 1
    refused = [row for row in report["methods"] if "refused" in row]
    assert {row["method"] for row in refused} == {"timetuner"}  # Heun has two evaluations a step
    fits = {(fit["of"], fit["with"], fit["figure"]): fit for fit in report["fits"]}
    assert fits["trajectory", "K", "peak MB"]["words"] == "~ x^1.00"
    assert {figure for of, by, figure in fits if (of, by) == ("trajectory", "K")} == set(cost.FIGURES)
    assert not [of for of, _, _ in fits if of == "timetuner"]
    assert {by for _, by, _ in fits} == {"K", "pixels", "x_T"}
    page_of_it = out.with_suffix(".md").read_text()
    assert "refused: " in page_of_it
    assert report["command"] in page_of_it


def test_quick_runs_are_repeated_only_where_they_are_to_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "apart", lambda function, **options: 1)
    fast, slow = ([1.0, 3.0, 2.0], [21.0])
    result = cost.tuning("ays", "dpmpp_2m", 3)(True)
    for times, quick, runs in ((fast, False, 3), (fast, True, 1), (slow, False, 1)):
        clock = iter(times)
        monkeypatch.setattr(cost, "_timed", lambda run, quick, clock=clock: (next(clock), result))
        row = cost.by_method("ays", "dpmpp_2m", 3, quick=quick)
        assert row["runs"] == runs
        assert row["seconds"] == {"median": sorted(times[:runs])[runs // 2], "low": min(times[:runs]), "high": max(times[:runs])}
        assert row["evaluations"] == sum(row["cost"].values()) > 0


def test_the_peak_of_a_tuning_is_measured_in_a_process_of_its_own() -> None:
    assert 0 < apart(cost.peak, name="trajectory", sampler="dpmpp_2m", steps=3, quick=True) < 100e6
    with pytest.raises(RuntimeError, match=r"cost peak .*no-such-method.* failed: (?s:.*)ValueError"):
        apart(cost.peak, name="no-such-method", sampler="dpmpp_2m", steps=3, quick=True)


def test_an_interrupted_run_goes_on_with_the_cells_of_its_code(tmp_path: Path) -> None:
    measured: list[int] = []

    def cell(n: int, *, quick: bool) -> dict[str, int]:
        measured.append(n)
        return {"n": n, "of": len(measured)}

    rows = [cost.Cells(tmp_path, code).row(cell, n, quick=False) for code in ("a", "a", "b") for n in (1, 2)]
    assert measured == [1, 2, 1, 2]
    assert rows[:2] == rows[2:4] != rows[4:]
