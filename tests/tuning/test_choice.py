"""The automatic choice of sampler, grid and t_0: it finds what a full ranking finds, at a part of its cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import ttune
from tests import tiny_model
from ttune import Schedule
from ttune.samplers import SAMPLERS
from ttune.tuning import Teacher, choose_sampler
from ttune.tuning.sampler_selection import FRACTIONS_TRIED, GRIDS_TRIED, SAMPLERS_TRIED
from ttune.tuning.starting_points import drawn_points

FEW = {"samples": 32, "judged": 32, "batch_size": 32, "progress": False}


def test_the_choice_is_as_good_as_the_best_of_all_and_cheaper() -> None:
    denoiser = tiny_model.factory()
    choice = choose_sampler(denoiser, 4, **FEW)
    x_T, _ = drawn_points(denoiser, torch.arange(32))
    target = ttune.sample(denoiser, Teacher.default(choice.schedules[4]).source, x_T)
    errors = {}
    for sampler in SAMPLERS_TRIED:
        for grid in GRIDS_TRIED:
            for part in FRACTIONS_TRIED:
                schedule = Schedule.build(denoiser.noise, sampler, 4, grid, t_start=part * 999)
                errors[sampler, grid, part] = float((ttune.sample(denoiser, schedule, x_T) - target).double().square().mean().sqrt())
    found = choice.ranked[4][0]
    assert found.schedule.sampler == choice.sampler
    assert found.rmse <= 1.1 * min(errors.values())  # that it also looks at the Fréchet distance may cost a little
    assert choice.evaluations < 0.6 * len(errors) * 32 * 4


def test_every_deterministic_sampler_of_one_evaluation_a_step_is_tried() -> None:
    denoiser = tiny_model.factory()
    x_T, _ = drawn_points(denoiser, torch.arange(4))
    samples: dict[str, torch.Tensor] = {}
    for name in SAMPLERS:
        schedule = Schedule.build(denoiser.noise, name, 5, "log_snr")
        if not schedule.tableau().stochastic and len(schedule.network_times) == 5:
            samples[name] = ttune.sample(denoiser, schedule, x_T)
    assert set(SAMPLERS_TRIED) <= set(samples)
    for name in samples.keys() - {*SAMPLERS_TRIED, "bdia", "belm"}:  # other names of DDIM
        torch.testing.assert_close(samples[name], samples["ddim"], msg=lambda text, name=name: f"{name} is not tried: {text}")


def test_one_sampler_serves_all_budgets_and_the_teacher_is_asked_once() -> None:
    denoiser = tiny_model.factory()
    calls = []

    def teacher(x_T: torch.Tensor) -> torch.Tensor:
        calls.append(len(x_T))
        return 0.8 * x_T

    source = Teacher(teacher, remember=True)
    choice = choose_sampler(denoiser, (3, 5), teacher=source, **FEW)
    assert list(choice.schedules) == [3, 5]
    assert {schedule.sampler for schedule in choice.schedules.values()} == {choice.sampler}
    assert {k: schedule.steps for k, schedule in choice.schedules.items()} == {3: 3, 5: 5}
    ttune.tune_budgets(denoiser, list(choice.schedules.values()), method="trajectory", teacher=lambda x, t=None: teacher(x), **_tuning())
    before = len(calls)
    with pytest.raises(TypeError):  # the trajectory method asks this teacher for a time, which it does not know
        ttune.tune_budgets(denoiser, list(choice.schedules.values()), method="trajectory", teacher=source, **_tuning())
    assert calls[before:] == [8]  # the validation x_T only: those that the choice was made on are remembered


def _tuning() -> dict[str, object]:
    return {"samples": 32, "batch_size": 32, "validation_samples": 8, "progress": False}


def test_a_finished_choice_is_remembered(tmp_path: Path) -> None:
    denoiser = tiny_model.factory()
    first = choose_sampler(denoiser, 3, samplers=("ddim", "ipndm"), grids=("linspace",), checkpoint=tmp_path / "c", **FEW)
    spent = denoiser.evaluations
    again = choose_sampler(denoiser, 3, samplers=("ddim", "ipndm"), grids=("linspace",), checkpoint=tmp_path / "c", resume=True, **FEW)
    assert denoiser.evaluations == spent
    assert (again.sampler, again.schedules, again.evaluations) == (first.sampler, first.schedules, first.evaluations)
    assert "3 steps: " in again.summary()
    with pytest.raises(ValueError, match="belongs to another run: choice"):
        choose_sampler(denoiser, 3, samplers=("ddim",), grids=("linspace",), checkpoint=tmp_path / "c", resume=True, **FEW)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samplers": ("ddpm",)}, "samplers must be deterministic, got 'ddpm'"),
        ({"samplers": ("heun",)}, r"none of \['heun'\] has a schedule of 3 steps"),
        ({"judged": 1}, "judged be at least 2"),
        ({"samplers": ()}, "must name at least one"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_sampler(tiny_model.factory(), 3, **FEW | changes)


def test_an_exact_candidate_is_the_best() -> None:
    denoiser = tiny_model.factory()
    exact = Schedule.build(denoiser.noise, "ipndm", 3, "linspace", t_start=0.9 * 999)
    choice = choose_sampler(denoiser, 3, teacher=Teacher(exact), **FEW)
    assert choice.sampler == "ipndm"
    np.testing.assert_array_equal(choice.schedules[3].times, exact.times)
