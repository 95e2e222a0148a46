"""What a tuning returned is called what it is: tuned, an untuned schedule, or the start; in the result, its file, and all that shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import ttune
from tests.oracles import mixture, standard_normal
from ttune import Schedule
from ttune.tuning.grid_search import Ranked
from ttune.tuning.methods.method import Found, Task
from ttune.tuning.outcome import front_in_words

NOISE = ttune.NoiseSchedule.linear()
START = Schedule.build(NOISE, "ddim", 4, "leading")
TEACHER = Schedule.build(NOISE, "dpmpp_2m", 24, "log_snr")
GOOD = Schedule.build(NOISE, "ddim", 4, "quadratic", t_start=950.0)  # better than the start here, see below
OTHER = Schedule.build(NOISE, "ddim", 4, "linspace")
BAD = START.replace(network_times=0.3 * START.network_times)
ZEROS = np.zeros((4, 5))


@dataclass(frozen=True)
class Fixed:
    """A method that finds what it was given."""

    name: ClassVar[str] = "fixed"
    changes: ClassVar[tuple[str, ...]] = ("network_times", "times")
    candidates: tuple[Schedule, ...] = ()
    grids: tuple[Schedule, ...] = ()

    def check(self, denoiser: ttune.Denoiser, schedule: Schedule, data: Any) -> None:
        pass

    def settings(self) -> dict[str, Any]:
        return {}

    def run(self, task: Task) -> Found:
        return Found(self.candidates, {}, [Ranked(f"grid {i}", s, 0.0, 0.0) for i, s in enumerate(self.grids)])


def tune(candidates: tuple[Schedule, ...], grids: tuple[Schedule, ...] = (), **options: Any) -> ttune.TuneResult:
    settings: dict[str, Any] = {"x_T": standard_normal((24, 2)), "teacher": TEACHER, "progress": False}
    return ttune.tune(mixture(NOISE).denoiser(), START, method=Fixed(candidates, grids), **settings | options)


CASES = {
    "a better one": ((GOOD,), (), True, "tuned", GOOD),
    "a worse one, and a better grid": ((BAD,), (GOOD,), True, "untuned", GOOD),
    "a worse one, and a worse grid": ((BAD,), (BAD.replace(network_times=0.2 * START.network_times),), True, "start", START),
    "a worse one alone": ((BAD,), (), True, "start", START),
    "none at all": ((), (), True, "start", START),
    "a worse one, unchecked": ((BAD,), (GOOD,), False, "tuned", BAD),
    "an untuned grid, unchecked": ((OTHER,), (GOOD, OTHER), False, "untuned", OTHER),
    "an untuned grid but for rounding": ((GOOD.replace(times=GOOD.times * (1 - 1e-14)),), (GOOD,), False, "untuned", GOOD),
    "the start, unchecked": ((START,), (), False, "start", START),
    "the start with coefficients of zero": ((START.replace(coefficients=ZEROS),), (), False, "start", START),
}


@pytest.mark.parametrize("case", CASES)
def test_the_outcome_is_that_of_what_was_returned(case: str, tmp_path: Path) -> None:
    candidates, grids, fallback, outcome, schedule = CASES[case]
    result = tune(candidates, grids, fallback=fallback)
    assert result.outcome == outcome
    assert result.improved == (outcome == "tuned")
    np.testing.assert_allclose(result.schedule.times, schedule.times, rtol=1e-12)
    np.testing.assert_allclose(result.schedule.network_times, schedule.network_times, rtol=1e-12)
    assert result.record["outcome"] == outcome
    first, *_ = result.summary().splitlines()
    assert ("tuned" in str(result.schedule).splitlines()[0].split(", ")) == (outcome == "tuned")
    if outcome == "start":
        assert result.schedule is START
        assert first.startswith("Tuning did not help at 4 steps, returned instead: the start. Try more samples (36 ")
    elif outcome == "untuned":
        assert first.startswith("Tuning did not help at 4 steps, returned instead: the best untuned schedule. Try ")
        assert "best untuned schedule (tuning did not help)" in str(result.schedule)
    elif not fallback:
        assert first.startswith("The tuned schedule is returned without the decision")
    else:
        assert first == "ddim, 4 steps, tuned"
    if outcome != "start":
        result.schedule.save(tmp_path / "t.json")
        assert json.loads((tmp_path / "t.json").read_text())["tuned"]["outcome"] == outcome
        assert Schedule.load(tmp_path / "t.json").outcome == outcome


def test_the_reason_is_said_once_with_its_numbers() -> None:
    result = tune((BAD, BAD.replace(network_times=BAD.network_times)), (GOOD,))
    reasons = [line for line in result.summary().splitlines() if line.startswith("  not better: ")]
    assert len(reasons) == 1
    own, best = result.validation["proposed"]["rmse"], result.validation["best_untuned"]["rmse"]
    assert f"the RMSE is not lower than that of the start ({own:.4g}, {result.validation['rmse_start']:.4g})" in reasons[0]
    assert f"the RMSE is not lower than that of the best untuned schedule ({own:.4g}, {best:.4g})" in reasons[0]


@pytest.mark.parametrize(
    ("tuned", "outcome"),
    [
        ({}, None),
        ({"outcome": "untuned"}, "untuned"),
        ({"method": "endpoint", "validation": {"chosen": "tuned"}}, "tuned"),
        ({"method": "endpoint", "validation": {"chosen": "best untuned grid"}}, "untuned"),
        ({"method": "endpoint", "validation": {"chosen": "start"}}, "start"),
        ({"method": "timetuner"}, "tuned"),
        ({"choice": {"teacher": 5}}, "start"),  # a choice of the sampler, and a tuning that returned its start
        ({"method": "endpoint", "validation": {"chosen": ["?"]}, "outcome": [1]}, "tuned"),
    ],
)
def test_records_of_earlier_versions_are_read_by_their_figures(tuned: dict[str, Any], outcome: str | None) -> None:
    schedule = START.replace(tuned=tuned)
    assert schedule.outcome == outcome
    assert str(schedule).splitlines()[0].endswith(", tuned") == (outcome == "tuned")


def test_the_best_so_far_is_called_that() -> None:
    seen: list[Schedule] = []
    ttune.tune(
        mixture(NOISE).denoiser(), START, x_T=standard_normal((24, 2)), teacher=TEACHER, progress=False, search_starts=False, iterations=1,
        accepted=lambda found: seen.append(found.best),
    )  # fmt: skip
    assert str(seen[-1]).startswith("ddim, 4 steps, best so far of an unfinished tuning\n")


@pytest.mark.parametrize("noise", [ttune.NoiseSchedule.flow(), ttune.NoiseSchedule.continuous_vp()], ids=["flow", "VP"])
def test_continuous_times_are_not_rounded_to_name_an_outcome(noise: ttune.NoiseSchedule) -> None:
    start, grid = (Schedule.build(noise, "euler", 3, name, t_start=0.9 * noise.t_max) for name in ("linspace", "quadratic"))
    options: dict[str, Any] = {
        "x_T": standard_normal((24, 2)),
        "progress": False,
        "fallback": False,
        "teacher": Schedule.build(noise, "euler", 9, "linspace", t_start=0.9 * noise.t_max),
    }
    for found, outcome in ((start, "start"), (grid, "untuned")):
        result = ttune.tune(mixture(noise).denoiser(), start, method=Fixed((found,), (grid,)), **options)
        assert result.outcome == outcome


FRONT = {
    "n": 64,
    "features": "LeNet-64",
    "reference": "fashion",
    "returned": "candidate 1",
    "front": [
        {
            "name": "the teacher",
            "rmse": 0.0,
            "to_teacher": 0.0,
            "to_reference": {"LeNet-64": 1.5, "contrast": 0.2},
            "precision": 0.8,
            "recall": None,
        },
        {
            "name": "candidate 1",
            "rmse": 0.0612,
            "rmse_error": 0.0011,
            "to_teacher": 0.31,
            "to_teacher_error": 0.02,
            "to_reference": {"LeNet-64": 0.83, "contrast": 0.25},
            "to_reference_error": {"LeNet-64": 0.04, "contrast": 0.01},
            "precision": 0.79,
            "precision_error": 0.05,
            "recall": 0.75,
            "recall_error": 0.05,
        },
    ],
}


def test_the_front_is_a_table_with_errors() -> None:
    lines = front_in_words(FRONT)
    assert lines[0].split()[:3] == ["schedule", "RMSE", "F-teacher"]
    assert lines[2].split()[:2] == ["the", "teacher"]
    cells = [cell.strip() for cell in lines[3].split("  ") if cell.strip()]
    assert cells[0] == "candidate 1 *"
    assert cells[1:] == ["0.0612 ± 0.0011", "0.310 ± 0.020", "0.830 ± 0.040", "0.250 ± 0.010", "0.790 ± 0.050", "0.750 ± 0.050"]
    assert "64 validation x_T" in lines[4]
    assert "distance to fashion" in lines[4]
    assert max(map(len, lines[:4])) <= 120
    assert front_in_words({"n": 64}) == []
