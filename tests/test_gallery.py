"""Every schedule of gallery/ loads, says where it comes from, and is in the table with its own figures."""

from __future__ import annotations

from pathlib import Path

import pytest

import ttune
from ttune import zoo
from ttune.sampling.sample import check_fits

GALLERY = Path(__file__).parent.parent / "gallery"
FILES = sorted(GALLERY.rglob("*.json"))
TABLE = (GALLERY / "README.md").read_text()


def test_there_are_some() -> None:
    assert len(FILES) >= 3


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_it_loads_and_says_where_it_comes_from(file: Path) -> None:
    schedule = ttune.Schedule.load(file)
    assert {"name", "prediction_type", "guidance_scale", "clip_sample", "parameter_shapes"} <= schedule.model.keys()
    assert {"method", "tune", "seed", "samples", "teacher", "validation", "cost"} <= schedule.tuned.keys()
    assert {"n", "features", "rmse_start", "rmse", "low", "high", "frechet_start", "frechet", "chosen"} <= schedule.tuned[
        "validation"
    ].keys()
    assert schedule.tuned["validation"]["rmse"] < schedule.tuned["validation"]["rmse_start"]
    assert file.parent.name == schedule.model["name"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_its_line_of_the_table_has_its_own_figures(file: Path) -> None:
    schedule = ttune.Schedule.load(file)
    (line,) = [line for line in TABLE.splitlines() if f"]({file.relative_to(GALLERY)})" in line]
    held_out = schedule.tuned["validation"]
    assert f"| {schedule.sampler}, {schedule.steps} |" in line
    assert schedule.tuned["method"] in line
    assert f"{held_out['rmse_start']:.4f} → {held_out['rmse']:.4f}" in line
    assert f"{held_out['frechet_start']:.2f} → {held_out['frechet']:.2f}" in line


@pytest.mark.parametrize("file", sorted((GALLERY / "fashion").glob("*.json")), ids=lambda file: file.name)
def test_the_bundled_models_fit_it(file: Path) -> None:
    check_fits(zoo.load("fashion"), ttune.Schedule.load(file))
