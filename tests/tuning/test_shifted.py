"""The method "shifted": a table of shifts, tried on the tuning x_T."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ttune
from tests.oracles import Gaussian, alpha_sigma
from ttune import NoiseSchedule, Schedule, Shift
from ttune.tuning import Accepted, Shifted

NOISE = NoiseSchedule.linear()
START = Schedule.build(NOISE, "ddim", 4, "linspace")
X_T = torch.randn(32, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TEACHER = Schedule.build(NOISE, "dpmpp_2m", 24, "log_snr")


def tune(network: Any = None, start: Schedule = START, **options: Any) -> ttune.TuneResult:
    settings: dict[str, Any] = {"method": "shifted", "x_T": X_T, "teacher": TEACHER, "progress": False}
    return ttune.tune(ttune.Denoiser(network or Gaussian(start.noise, 0.6), start.noise), start, **(settings | options))


def test_the_best_of_the_table_is_taken() -> None:
    method = Shifted(windows=(0.02, 0.2), cutoffs=(0.1, 0.3), data_variances=(0.0, 0.36), measured=False)
    result = tune(method=method, fallback=False)
    tuning, held_out = X_T[:24], X_T[24:]
    denoiser = Gaussian(NOISE, 0.6).denoiser()

    def rmse(x_T: Tensor, schedule: Schedule) -> float:
        target = ttune.sample(denoiser, TEACHER, x_T)
        return float((ttune.sample(denoiser, schedule, x_T) - target).square().mean().sqrt())

    every = [START.replace(shift=Shift(w * 999, c * 999, v)) for w in (0.02, 0.2) for c in (0.1, 0.3) for v in (0.0, 0.36)]
    best = min(every, key=lambda s: rmse(tuning, s))
    assert result.schedule == best
    assert result.validation["rmse"] == pytest.approx(rmse(held_out, best), rel=1e-9)
    assert result.schedule.tuned["tune"] == ["shift"]
    assert result.cost["tuning"] == 8 * 24 * 4  # tries, samples, steps


def test_it_helps_where_states_have_the_wrong_variance() -> None:
    """A network that believes in smaller noise than its time means: states come out of step with their times."""

    def believing(x: Tensor, tau: Tensor) -> Tensor:
        alpha, sigma = (c[:, None] for c in alpha_sigma(NOISE, tau))
        return sigma / (0.36 * alpha**2 + sigma**2) * x

    start = Schedule.build(NOISE, "ddim", 6, "linspace")
    result = tune(believing, start)
    assert result.improved
    assert result.schedule.shift is not None
    assert result.validation["ratio"] < 0.97
    np.testing.assert_array_equal(result.schedule.times, start.times)
    np.testing.assert_array_equal(result.schedule.network_times, start.network_times)


def test_the_measured_variance_is_that_of_the_teachers_samples() -> None:
    result = tune(method=Shifted(data_variances=()), fallback=False)
    target = ttune.sample(Gaussian(NOISE, 0.6).denoiser(), TEACHER, X_T[:24])
    assert result.schedule.shift is not None
    assert result.schedule.shift.data_variance == pytest.approx(float(target.var(1).mean()), rel=1e-9)


def test_shifts_that_do_the_same_are_tried_once() -> None:
    """Evaluations are at 999, 749, 500 and 250: two of these cutoffs shift the same ones, and one shifts none."""
    result = tune(method=Shifted(windows=(0.1,), cutoffs=(0.3, 0.4, 0.6, 0.9), measured=False))
    assert result.cost["tuning"] == 2 * 24 * 4


def test_levels_that_belong_to_several_times_are_left_out() -> None:
    """Flow matching: (1 - t)^2 v + t^2 falls before it rises; the paper's v = 0 remains."""
    noise = NoiseSchedule.flow()
    start = Schedule.build(noise, "euler", 4, "linspace")
    denoiser = Gaussian(noise, 0.9, "flow_prediction").denoiser()
    result = ttune.tune(denoiser, start, method=Shifted((1.0,), (0.2,)), x_T=X_T, progress=False, fallback=False)
    assert result.schedule.shift == Shift(1.0, 0.2, 0.0)


def test_the_best_so_far_is_known_after_every_try() -> None:
    """A shift among what it is made of."""
    seen: list[Accepted] = []
    result = tune(accepted=seen.append, fallback=False)
    tried = [a.rmse for a in seen if a.rmse is not None]
    assert len(tried) == len(seen) > 10
    for n, accepted in enumerate(seen, 1):
        assert accepted.best.shift is not None
        assert accepted.best.tuned["rmse"] == min(tried[:n])
    assert seen[-1].best.shift == result.schedule.shift
    assert "not finished" in seen[-1].best.tuned["unfinished"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": ()}, r"windows must be at least one fraction of the largest time in \(0, 1\], got \[\]"),
        ({"cutoffs": (0.1, 20.0)}, r"cutoffs must be at least one fraction"),
        ({"data_variances": (-1.0,)}, "data_variances must be numbers >= 0, at least one unless measured, got \\[-1.0\\]"),
        ({"data_variances": (), "measured": False}, "data_variances must be numbers >= 0, at least one unless measured, got \\[\\]"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shifted(**options)


def test_nothing_to_shift_is_refused_before_any_work() -> None:
    start = Schedule.build(NOISE, "ddim", 1, "linspace")
    with pytest.raises(ValueError, match="schedule: no evaluation after the first is above a cutoff"):
        tune(start=start)
