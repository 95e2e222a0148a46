"""Several budgets at once: one teacher, starts from the neighbour, and what a resampled schedule keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ttune
from tests import tiny_model
from tests.oracles import mixture, standard_normal
from ttune import NoiseSchedule, Schedule
from ttune.tuning import Endpoint, Trajectory, resampled

NOISE = NoiseSchedule.linear()
QUICK = {"samples": 8, "validation_samples": 8, "progress": False}


@pytest.mark.parametrize("noise", [NOISE, NoiseSchedule.edm(), NoiseSchedule.flow(), NoiseSchedule.continuous_vp()])
@pytest.mark.parametrize("steps", [2, 5, 9])
def test_a_log_snr_grid_resampled_is_a_log_snr_grid(noise: NoiseSchedule, steps: int) -> None:
    t_start = 0.9 * noise.t_max
    six = Schedule.build(noise, "ddim", 6, "log_snr", t_start=t_start, final="min")
    found = resampled(six, steps)
    assert found.steps == steps
    assert found.times[[0, -1]].tolist() == six.times[[0, -1]].tolist()
    np.testing.assert_allclose(np.diff(noise.half_log_snr(found.times), 2), 0, atol=1e-6)


def test_the_distance_of_network_times_is_carried_in_units_of_the_step() -> None:
    six = Schedule.build(NOISE, "ddim", 6, "linspace", t_start=900)
    tuned = six.replace(network_times=six.times[:-1] + 0.25 * np.diff(six.times))
    found = resampled(tuned, 9)
    np.testing.assert_allclose(found.network_times, found.times[:-1] + 0.25 * np.diff(found.times), atol=1e-9)
    np.testing.assert_array_equal(resampled(six, 9).network_times, found.times[:-1])  # the truth stays the truth


def test_a_resampled_schedule_is_valid_for_every_sampler_and_grid() -> None:
    for sampler in ttune.SAMPLERS:
        for spacing in ("leading", "trailing", "karras"):
            schedule = Schedule.build(NOISE, sampler, 6, spacing)
            assert resampled(schedule, 4).steps == 4
            assert resampled(schedule, 10).sampler == sampler
    assert resampled(schedule, 6) is schedule
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        resampled(schedule, 0)


def schedules(*steps: int) -> list[Schedule]:
    return [Schedule.build(NOISE, "ddim", k) for k in steps]


def test_budgets_share_the_teacher_and_start_from_the_smaller_one() -> None:
    results = ttune.tune_budgets(tiny_model.factory(), schedules(4, 3), method=Endpoint(iterations=1, search_starts=False), **QUICK)
    assert list(results) == [3, 4]
    alone = ttune.tune(tiny_model.factory(), schedules(3)[0], method=Endpoint(iterations=1, search_starts=False), **QUICK)
    assert results[3].schedule == alone.schedule
    check = 8 * 256  # the teacher is compared with a finer one in every budget
    assert results[3].cost["teacher"] == (8 + 8) * 128 + check
    assert results[4].cost["teacher"] == check
    assert any("also" in name for name in results[4].history)  # the better start of the two


def test_a_method_that_knows_no_further_starts_is_tuned_all_the_same() -> None:
    results = ttune.tune_budgets(tiny_model.factory(), schedules(3, 4), method="trajectory", **QUICK)
    assert results[4].schedule == ttune.tune(tiny_model.factory(), schedules(4)[0], method=Trajectory(), **QUICK).schedule


def test_an_interrupted_run_of_several_budgets_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = {"method": Endpoint(iterations=1, search_starts=False), **QUICK}
    monkeypatch.setattr(tiny_model, "calls", 0)
    whole = ttune.tune_budgets(tiny_model.factory(), schedules(2, 3), **call)
    monkeypatch.setenv("TINY_MODEL_INTERRUPT_AT", str(int(0.9 * tiny_model.calls)))  # in the second budget
    tiny_model.calls = 0
    with pytest.raises(KeyboardInterrupt):
        ttune.tune_budgets(tiny_model.factory(), schedules(2, 3), checkpoint=tmp_path / "c", **call)
    assert (tmp_path / "c.3").exists()
    monkeypatch.delenv("TINY_MODEL_INTERRUPT_AT")
    resumed = ttune.tune_budgets(tiny_model.factory(), schedules(2, 3), checkpoint=tmp_path / "c", resume=True, **call)
    assert {k: r.schedule.settings() for k, r in resumed.items()} == {k: r.schedule.settings() for k, r in whole.items()}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "at least one"),
        (schedules(3, 3), "different numbers of steps, got \\[3, 3\\]"),
        ([*schedules(3), Schedule.build(NOISE, "euler", 4)], "same sampler"),
        ([*schedules(3), Schedule.build(NOISE, "ddim", 4, "linspace", final="min")], "same last time"),
    ],
)
def test_budgets_that_do_not_go_together_are_refused(given: list[Schedule], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ttune.tune_budgets(tiny_model.factory(), given, **QUICK)


@pytest.mark.parametrize("held", [{"tune": ("network_times",)}, {"fix_start": True}])
def test_a_neighbours_result_moves_nothing_that_is_held(held: dict[str, Any]) -> None:
    schedules = [Schedule.build(NOISE, "ddim", k, "linspace", t_start=t) for k, t in ((3, 800.0), (4, 999.0))]
    results = ttune.tune_budgets(
        mixture(NOISE).denoiser(),
        schedules,
        x_T=standard_normal((24, 2)),
        teacher=Schedule.build(NOISE, "dpmpp_2m", 32, "log_snr"),
        search_starts=False,
        iterations=2,
        fallback=False,
        progress=False,
        **held,
    )
    kept = slice(0, 1) if held.get("fix_start") else slice(None)
    for schedule in schedules:
        assert results[schedule.steps].schedule.times[kept].tolist() == schedule.times[kept].tolist()
