"""The default method: optimizers, coefficients, starts, and that each of them resumes bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ttune
from tests.oracles import mixture, standard_normal
from ttune import NoiseSchedule, Schedule, TuneResult
from ttune.tuning import Endpoint

NOISE = NoiseSchedule.linear()
X_T = standard_normal((64, 2))
TEACHER = Schedule.build(NOISE, "dpmpp_2m", 64, "log_snr")


def tune(method: Endpoint, denoiser: ttune.Denoiser | None = None, K: int = 4, **options: Any) -> TuneResult:
    start = Schedule.build(NOISE, "dpmpp_2m", K, "linspace")
    settings: dict[str, Any] = {"x_T": X_T, "teacher": TEACHER, "progress": False, "batch_size": 24}
    return ttune.tune(denoiser or mixture(NOISE).denoiser(), start, method=method, **(settings | options))


@pytest.mark.parametrize("optimizer", ["backpropagation", "differences", "broyden"])
def test_every_optimizer_goes_down_and_resumes_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    method = Endpoint(optimizer=optimizer, iterations=6, search_starts=False)
    whole = tune(method)
    history = whole.history["given"]
    assert history[-1] < 0.9 * history[0]
    calls = 0

    class Stop(Exception):
        pass

    oracle = mixture(NOISE)

    def network(x: Any, tau: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise Stop
        return oracle(x, tau)

    stop_at = 0
    tune(method, ttune.Denoiser(network, NOISE))
    total = calls
    for number, share in enumerate((0.72, 0.83, 0.93)):
        calls, stop_at = 0, int(share * total)
        checkpoint = tmp_path / str(number)
        with pytest.raises(Stop):
            tune(method, ttune.Denoiser(network, NOISE), checkpoint=checkpoint)
        stop_at = 0
        resumed = tune(method, checkpoint=checkpoint, resume=True)
        assert resumed.schedule == whole.schedule
        assert resumed.history == whole.history
        assert {k: v for k, v in resumed.cost.items() if k != "seconds"} == {k: v for k, v in whole.cost.items() if k != "seconds"}


def test_coefficients_join_and_do_better() -> None:
    both = tune(Endpoint(iterations=12, search_starts=False))
    all_three = tune(Endpoint(("network_times", "times", "coefficients"), iterations=12, search_starts=False))
    assert all_three.schedule.coefficients is not None
    assert all_three.validation["rmse"] < 0.5 * both.validation["rmse"]
    assert set(all_three.history) == {"given", "tuned"}
    assert all_three.schedule.tuned["tune"] == ["network_times", "times", "coefficients"]
    alone = tune(Endpoint(("coefficients",), iterations=12))
    assert np.array_equal(alone.schedule.times, Schedule.build(NOISE, "dpmpp_2m", 4, "linspace").times)
    assert alone.validation["rmse"] < alone.validation["rmse_start"]


@pytest.mark.parametrize("sampler", ["heun", "deis", "dpm_solver_2"])
def test_samplers_with_several_evaluations_a_step_have_a_network_time_for_each(sampler: str) -> None:
    start = Schedule.build(NOISE, sampler, 3, "linspace")
    result = ttune.tune(
        mixture(NOISE).denoiser(), start, x_T=X_T, teacher=TEACHER, progress=False, search_starts=False, iterations=8, fix_start=True
    )
    moved = result.schedule.network_times != result.schedule.tableau().times
    assert result.validation["rmse"] < 0.8 * result.validation["rmse_start"]
    assert moved.sum() >= len(start.network_times) - 1


def test_further_starts_are_tried() -> None:
    good = tune(Endpoint(iterations=10, search_starts=False)).schedule
    result = tune(Endpoint(iterations=1, search_starts=False, also=(good,)))
    assert "also 0" in result.history
    assert result.validation["rmse"] < 0.9 * tune(Endpoint(iterations=1, search_starts=False)).validation["rmse"]
    other = Schedule.build(NOISE, "ddim", 4)
    with pytest.raises(ValueError, match=r"also must hold schedules of the sampler.*got 'ddim' and 4"):
        tune(Endpoint(also=(other,)))
    elsewhere = Schedule.build(NOISE, "dpmpp_2m", 4, "quadratic", t_start=900)
    for held in (Endpoint(("network_times",), also=(elsewhere,)), Endpoint(fix_start=True, also=(elsewhere,))):
        with pytest.raises(ValueError, match="also must keep what is not tuned"):
            tune(held)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"optimizer must be one of .*got 'newton'"):
        tune(Endpoint(optimizer="newton"))
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        tune(Endpoint(iterations=0))
