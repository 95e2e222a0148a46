"""Align Your Steps: which table is taken, and that it is the published one."""

from __future__ import annotations

import numpy as np
import pytest

import ttune
from tests.oracles import Gaussian, standard_normal
from ttune import NoiseSchedule, Schedule
from ttune.noise.continuous import EDM, VE
from ttune.noise.grids import AYS_TABLES
from ttune.tuning import AlignYourSteps
from ttune.tuning.methods.ays import fitting_tables

SD = NoiseSchedule.scaled_linear()


def tune(noise: NoiseSchedule, steps: int = 10, method: AlignYourSteps | str = "ays", spacing: str = "linspace") -> ttune.TuneResult:
    start = Schedule.build(noise, "dpmpp_2m", steps, spacing)
    x_T = standard_normal((16, 2)) * float(noise.sigma(noise.t_max))
    denoiser = Gaussian(noise, 0.6).denoiser()
    teacher = Schedule.build(noise, "dpmpp_2m", 20, "linspace")
    return ttune.tune(denoiser, start, method=method, x_T=x_T, teacher=teacher, fallback=False, progress=False)


@pytest.mark.parametrize("table", AYS_TABLES)
def test_the_published_ten_steps(table: str) -> None:
    """A noise schedule with the table's own ends: its ten values come back."""
    published = AYS_TABLES[table]
    noise = EDM(published[-1], published[0])
    result = tune(noise, method=AlignYourSteps(table))
    np.testing.assert_allclose(result.schedule.times, [*published[:-1], 0.0], rtol=1e-9)
    assert result.schedule.tuned["method"] == "ays"
    assert table in fitting_tables(noise)


def test_the_table_that_fits_is_taken() -> None:
    assert fitting_tables(SD) == ["ays", "ays_sdxl"]
    assert fitting_tables(NoiseSchedule.linear()) == ["ays_deepfloyd"]
    assert fitting_tables(NoiseSchedule.edm()) == ["ays_deepfloyd"]
    assert fitting_tables(NoiseSchedule.edm(0.002, 700.0)) == ["ays_svd"]


def test_of_two_that_fit_the_better_one_is_taken_and_paid_for() -> None:
    result = tune(SD, 5)
    rmses = {}
    for table in ("ays", "ays_sdxl"):
        alone = tune(SD, 5, AlignYourSteps(table))
        assert "tuning" not in alone.cost  # nothing to find out
        rmses[table] = alone.validation["rmse"]
    assert result.cost["tuning"] == 2 * 12 * 5
    assert result.validation["rmse"] == min(rmses.values()) < max(rmses.values())


@pytest.mark.parametrize("noise", [NoiseSchedule.flow(), NoiseSchedule.linear().zero_terminal_snr(), VE(), NoiseSchedule.cosine()])
def test_where_no_table_fits_it_says_why(noise: NoiseSchedule) -> None:
    denoiser = Gaussian(noise).denoiser()
    with pytest.raises(ValueError, match=r"method 'ays': no published table fits this noise schedule, whose largest sigma / alpha is .*"):
        ttune.tune(denoiser, Schedule.build(noise, "euler", 4, "linspace"), method="ays", x_T=standard_normal((16, 2)), progress=False)


def test_a_named_table_is_stretched_where_it_can_be() -> None:
    assert tune(VE(), 4, AlignYourSteps("ays_svd")).schedule.times[0] == 1.0
    with pytest.raises(ValueError, match=r"spacing 'ays_svd' needs a finite sigma / alpha at t_start"):
        tune(NoiseSchedule.flow(), 4, AlignYourSteps("ays_svd"))
    with pytest.raises(ValueError, match=r"table must be one of \['ays', .*\], got 'sd'"):
        AlignYourSteps("sd")
