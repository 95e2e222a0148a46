"""The comparison, end to end on a tiny model: cells, resuming, sharing the work, figures."""

from __future__ import annotations

import dataclasses
import inspect
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import ttune
from tests import tiny_model
from tests.oracles import mixture
from ttune.comparison import Entrant, parse_method, parse_methods
from ttune.comparison.cells import Cell
from ttune.comparison.compare import _cells
from ttune.comparison.equivalent import equivalent_steps
from ttune.comparison.headline import headlines
from ttune.comparison.untuned import plain_samplers
from ttune.storage.results import ResultFolder
from ttune.tuning import DyWeight, Endpoint, Found, GeneralizedSolver, Task, TimeTuner, Trajectory

QUICK = {"untuned_samplers": (), "samples": 8, "validation_samples": 8, "test_samples": 24, "progress": False}


def test_a_specification_is_a_method_with_its_settings() -> None:
    assert parse_method("trajectory@best") == ("trajectory@best", Entrant(Trajectory(), "best"))
    label, method = parse_method("mine=endpoint:tune=network_times+times,iterations=7,fix_start=true")
    assert (label, method) == ("mine", Entrant(Endpoint(("network_times", "times"), fix_start=True, iterations=7)))
    assert parse_method("endpoint:tune=network_times")[1].method == Endpoint(("network_times",))
    assert parse_method("timetuner:procedure=parallel")[1].method == TimeTuner("parallel")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "the methods are endpoint"),
        ("=endpoint", "the methods are endpoint"),
        ("endpoint:", "ends in a colon"),
        ("endpoint:colour=red", "with a field of"),
        ("endpoint:iterations=many", "iterations in .* must be a value for int, got 'many'"),
    ],
)
def test_a_wrong_specification_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_method(text)


def test_two_methods_of_one_label_are_refused() -> None:
    with pytest.raises(ValueError, match="label 'a' is there twice"):
        parse_methods(["a=endpoint", "a=trajectory"])


def test_equivalent_steps_are_read_off_the_curve() -> None:
    curve = {k: 1 / k**2 for k in range(3, 21)}  # a straight line in log error over log steps
    for steps in (3, 4.5, 12.25, 20):
        found = equivalent_steps(1 / steps**2, curve)
        assert found is not None
        assert found.steps == pytest.approx(steps, rel=1e-12)
        assert not found.bound
    assert str(equivalent_steps(1.0, curve)) == "<3"
    assert str(equivalent_steps(1e-9, curve)) == ">20"
    # A budget that does worse than a smaller one does not count.
    assert equivalent_steps(0.5, {3: 1.0, 4: 0.5, 5: 0.9, 6: 0.25}).steps == 4  # pyright: ignore[reportOptionalMemberAccess]


def test_a_comparison_resumes_by_cell_and_says_what_was_measured(tmp_path: Path) -> None:
    denoiser = tiny_model.factory()
    methods = {"endpoint": Endpoint(iterations=3), "path": Trajectory()}
    call = {"samplers": ("ddim",), "steps": (3,), "curve": (3, 6), "work": tmp_path, **QUICK}
    first = ttune.compare(denoiser, methods, **call)
    spent = denoiser.evaluations
    again = ttune.compare(denoiser, methods, **call)
    assert denoiser.evaluations == spent  # all there
    assert again.rows == first.rows
    rows = {row["label"]: row for row in first.rows}
    assert list(rows) == ["start", "best untuned grid", "endpoint", "path"]  # the best by RMSE is that by Fréchet distance
    # The figures are those of the schedule that was written.
    schedule = ttune.Schedule.load(tmp_path / "cells" / "endpoint-ddim-3.proposed.ttune.json")
    x_T, _ = ttune.tuning.starting_points.drawn_points(denoiser, 2**41 + ttune.tuning.starting_points.torch.arange(24))
    teacher = ttune.tuning.Teacher.default(schedule).source
    errors = (ttune.sample(denoiser, schedule, x_T) - ttune.sample(denoiser, teacher, x_T)).double().square()
    assert rows["endpoint"]["rmse"] == pytest.approx(float(errors.mean().sqrt()), rel=1e-4)
    assert rows["endpoint"]["rmse"] < rows["best untuned grid"]["rmse"] <= rows["start"]["rmse"]
    # Equal accounting: both pay for the same teacher.
    assert {row["cost"]["teacher"] for row in (rows["endpoint"], rows["path"])} == {(8 + 8) * 128 + 8 * 256}
    assert [(h["label"], h["steps"]) for h in first.halves] == [("endpoint", 3), ("path", 3)]
    files = first.save(tmp_path / "report.json")
    assert all(file.exists() for file in files)
    assert json.loads((tmp_path / "report.json").read_text())["rows"][2]["label"] == "endpoint"
    assert "best untuned grid" in first.table()


def test_a_method_from_the_best_grid_is_charged_for_the_search(tmp_path: Path) -> None:
    methods = {"path": Trajectory(), "path@best": Entrant(Trajectory(), "best")}
    found = ttune.compare(tiny_model.factory(), methods, samplers=("ddim",), steps=(3,), curve=(), work=tmp_path, **QUICK)
    rows = {row["label"]: row for row in found.rows}
    assert rows["path@best"]["rmse"] < rows["best untuned grid"]["rmse"]
    assert rows["path@best"]["schedule"]["times"] == rows["best untuned grid"]["times"]
    grids = found.records[Cell("untuned", "ddim", 3)]["cost"]["grids"]
    assert rows["path@best"]["cost"]["grids"] == grids > 0
    assert "grids" not in rows["path"]["cost"]
    # TimeTuner's rows say which procedure they are of (records as its cells write them).
    cell = Cell("path", "ddim", 3)
    for reroll, said in ((True, "reroll=True, as released"), (False, "reroll=False, not the released procedure, which is reroll=True")):
        settings = Entrant(ttune.TimeTuner("parallel", reroll=reroll)).settings()
        as_timetuner = dataclasses.replace(found, records={**found.records, cell: {**found.records[cell], "settings": settings}})
        assert f"path: TimeTuner, parallel, {said}" in as_timetuner.table()


def test_what_a_method_cannot_tune_is_refused_and_said(tmp_path: Path) -> None:
    found = ttune.compare(tiny_model.factory(), ["timetuner"], samplers=("ddim",), steps=(3,), curve=(), **QUICK)
    assert "data must be given" in found.refused[Cell("timetuner", "ddim", 3)]
    assert not found.failed
    assert "not tuned: timetuner (ddim 3): data must be given" in found.table()


@dataclass(frozen=True)
class Broken(Trajectory):
    """Fails until ``path`` exists."""

    path: str = ""

    def run(self, task: Task) -> Found:
        if not Path(self.path).exists():
            raise RuntimeError("out of luck")
        return super().run(task)


def test_a_cell_that_fails_is_reported_and_tried_again(tmp_path: Path) -> None:
    methods = {"broken": Broken(str(tmp_path / "luck")), "path": Trajectory()}
    call = {"samplers": ("ddim",), "steps": (3,), "curve": (), "work": tmp_path / "work", **QUICK}
    found = ttune.compare(tiny_model.factory(), methods, **call)
    assert found.failed == {Cell("broken", "ddim", 3): "RuntimeError: out of luck"}
    assert [row["label"] for row in found.rows][-1] == "path"
    (tmp_path / "luck").touch()
    assert [row["label"] for row in ttune.compare(tiny_model.factory(), methods, **call).rows][-2:] == ["broken", "path"]


def test_a_pair_is_judged_both_ways_alike(tmp_path: Path) -> None:
    found = ttune.compare(tiny_model.factory(), {"path": Trajectory()}, samplers=("ddim",), steps=(3,), curve=(), **QUICK)
    forth = found.versus(("ddim", 3, "path"), ("ddim", 3, "start"))
    back = found.versus(("ddim", 3, "start"), ("ddim", 3, "path"))
    assert forth["rmse_ratio"] == pytest.approx(1 / back["rmse_ratio"])
    assert forth["rmse_lead"] == pytest.approx(-back["rmse_lead"])
    assert forth["frechet_lead"] == pytest.approx(-back["frechet_lead"])
    assert np.sign(forth["rmse_lead"]) == np.sign(1 - forth["rmse_ratio"])


def test_a_folder_of_another_comparison_is_refused(tmp_path: Path) -> None:
    ResultFolder(tmp_path, {"seed": 0}, "comparison.json")
    with pytest.raises(ValueError, match="seed was 0, is 1"):
        ResultFolder(tmp_path, {"seed": 1}, "comparison.json")


def test_labels_that_look_alike_have_files_of_their_own() -> None:
    assert Cell("a:b", "ddim", 3).name != Cell("a=b", "ddim", 3).name


@pytest.mark.slow
def test_no_method_is_the_best_of_all_samplers_and_spacings() -> None:
    call = {"samplers": ("ddim",), "steps": (3,), "curve": (3, 4), **QUICK, "untuned_samplers": ("unipc",), "test_samples": 12}
    found = ttune.compare(tiny_model.factory(), {"path": Trajectory()}, **call)
    there = {cell: record for cell, record in found.records.items() if cell.label == "untuned"}
    assert {(cell.sampler, cell.steps) for cell in there} == {("ddim", 3), ("ddim", 4), ("unipc", 3), ("unipc", 6)}
    for spent, samplers in ((3, ("ddim", "unipc")), (6, ("unipc",))):
        rmses = {s: there[Cell("untuned", s, spent)]["grid"]["rmse"] for s in samplers}
        line = next(entry for entry in found.without_method if entry["spent"] == spent and "RMSE" in entry["by"])
        best = min(rmses, key=rmses.__getitem__)
        assert (line["steps"], line["sampler"], line["rmse"]) == (3, best, rmses[best])
        assert line["grid"] == there[Cell("untuned", best, spent)]["grid"]["grid"]
    assert "No method, the steps are spent" in found.table()
    # Steps that only some of the samplers have say nothing of the best of all.
    assert set(found.curve("rmse", ("ddim", "unipc"))) == {3}
    assert set(found.curve("rmse", ("ddim",))) == {3, 4}


def test_by_default_all_plain_deterministic_samplers_are_untuned_rivals() -> None:
    found = plain_samplers(ttune.NoiseSchedule.linear())
    assert {"ddim", "dpmpp_2m", "dpmpp_3m", "unipc", "deis", "ipndm", "lms"} <= set(found)
    assert not {"heun", "euler_ancestral", "dpmpp_2s"} & set(found)
    cells = _cells(["path"], ["ddim"], ["unipc"], [3, 5], range(3, 13))
    assert [cell.steps for cell in cells if cell.sampler == "unipc"] == [3, 5, 6, 10, 12]
    assert inspect.signature(ttune.compare).parameters["untuned_samplers"].default is None


@pytest.mark.slow
def test_all_methods_are_given_the_same_evaluations() -> None:
    limit = 6000
    methods = {"gs": GeneralizedSolver(batch=4), "dyweight@best": Entrant(DyWeight(batch=4), "best"), "path": Trajectory()}
    denoiser = dataclasses.replace(mixture(ttune.NoiseSchedule.linear()).denoiser(), sample_shape=(2,))
    call = {"samplers": ("ddim",), "steps": (3,), "curve": (), **QUICK, "features": lambda x: x}
    found = ttune.compare(denoiser, methods, **call, max_evaluations=limit)
    rows = {row["label"]: row for row in found.rows}
    for label in ("gs", "dyweight@best"):  # the search of a start is counted, the teacher's samples are not
        spent = rows[label]["evaluations"] - (8 + 8) * 128
        assert limit - 4 * 3 * 4 < spent <= limit, label
    assert "At most 6,000 evaluations a tuning, without those of the teacher's samples; without a limit: path." in found.table()
    with pytest.raises(ValueError, match="max_evaluations must be at least 1, got 0"):
        ttune.compare(tiny_model.factory(), methods, max_evaluations=0)
    with pytest.raises(ValueError, match="max_evaluations must be more than the search of the start took, 500, got 400"):
        Entrant(GeneralizedSolver(), max_evaluations=400).within(500)


@pytest.mark.slow
def test_a_table_fits_a_terminal_whatever_the_labels() -> None:
    methods = {"endpoint:tune=network_times+times+coefficients,iterations=50": Trajectory(), "path": Trajectory()}
    found = ttune.compare(tiny_model.factory(), methods, samplers=("dpmpp_2m",), steps=(3,), curve=(), **QUICK)
    assert max(map(len, found.table().splitlines())) <= 120
    assert "endpoint (1): endpoint:tune=network_times+times+coefficients,iterations=50" in found.table()


def test_a_headline_says_how_many_untuned_steps_of_the_best_sampler_a_schedule_is_worth() -> None:
    row = {"method": "endpoint", "label": "endpoint", "sampler": "ddim", "steps": 5, "rmse": 1 / 81, "real": 0.5}
    worse = row | {"label": "other", "rmse": 0.5}
    curves = {"rmse": {k: 1 / k**2 for k in range(3, 21)}, "real": {k: 1.0 + 1 / k for k in (3, 5, 20)}}
    untuned = {"label": "start", "sampler": "ddim", "steps": 5, "rmse": 0.001}
    assert headlines([untuned, worse, row], curves.__getitem__) == [
        "5 tuned steps (endpoint, ddim): as near to the teacher as 9.0 untuned ones of the best sampler (RMSE 0.0123; 0.04 with 5 "
        "untuned), nearer to real images than any untuned schedule up to 20 steps (F 0.5, the lowest untuned 1.05)."
    ]
    (line,) = headlines([worse | {"real": None}], curves.__getitem__)
    farther = "farther from the teacher than 3 untuned ones of the best sampler (RMSE 0.5; 0.04 with 5 untuned)"
    assert line == f"5 tuned steps (other, ddim): {farther}."
