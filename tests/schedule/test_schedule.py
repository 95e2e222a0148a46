from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import ttune
from ttune import Denoiser, NoiseSchedule, Schedule, sample

NOISE = NoiseSchedule.linear()


def test_an_untuned_schedule() -> None:
    schedule = Schedule.build(NOISE, "ddim", 4, "linspace")
    assert schedule.steps == 4
    np.testing.assert_allclose(schedule.times, [999, 749.25, 499.5, 249.75, -1])
    np.testing.assert_array_equal(schedule.network_times, schedule.times[:-1])
    np.testing.assert_array_equal(schedule.alphas, NOISE.alpha(schedule.times))
    np.testing.assert_array_equal(schedule.sigmas, NOISE.sigma(schedule.times))
    assert schedule.times.dtype == schedule.network_times.dtype == np.float64
    assert dict(schedule.tuned) == dict(schedule.model) == {}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_learned_numbers_are_read(dtype: torch.dtype) -> None:
    """Parameters that a gradient is kept of, whole or in a list, as others learn a grid."""
    grid = torch.nn.Parameter(torch.tensor([992.0, 500.0, -1.0], dtype=dtype))
    expected = grid.detach().double().numpy()
    schedule = Schedule.build(NOISE, "ddim", 2, grid)
    np.testing.assert_array_equal(schedule.times, expected)
    assert Schedule.build(NOISE, "ddim", 2, list(grid)) == schedule
    assert schedule.replace(network_times=grid[:2]) == schedule
    np.testing.assert_array_equal(schedule.replace(coefficients=torch.ones(2, 2).requires_grad_()).coefficients, np.ones((2, 2)))
    assert ttune.exchange.from_timesteps(NOISE, "ddim", grid[:2]) == schedule


def test_arrays_are_frozen_copies() -> None:
    given = np.array([999.0, 500.0, -1.0])
    schedule = Schedule.build(NOISE, "ddim", 2, given)
    given[1] = 1e6
    assert schedule.times[1] == 500
    for array in (schedule.times, schedule.network_times):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.eta = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampler": "heun42"}, "sampler must be one of .*'heun42'"),
        ({"eta": 1.5}, r"eta must lie in \[0, 1\], got 1.5"),
        ({"eta": math.nan}, r"eta must lie in \[0, 1\], got nan"),
        ({"eta": True}, r"eta must lie in \[0, 1\], got True"),
        ({"eta": "much"}, r"eta must lie in \[0, 1\], got 'much'"),
        ({"first": 2**63 - 2}, r"first must be below 2\^63 - 2, .*got 9223372036854775806"),
        ({"first": 10**400}, r"first must be below 2\^63 - 2, "),
        ({"eta": 0.5, "sampler": "dpmpp_2m"}, "eta is an option of the sampler 'ddim', got eta=0.5 with 'dpmpp_2m'"),
        ({"times": [500.0, 600.0, -1.0]}, r"times must be strictly decreasing, got \[500.0, 600.0, -1.0\]"),
        ({"times": [500.0, 500.0]}, "times must be strictly decreasing"),
        ({"times": [999.0, math.nan, -1.0]}, "times must be finite"),
        ({"times": [math.inf, -1.0]}, "times must be finite"),
        ({"times": [999.5, -1.0]}, r"times must lie in \[-1, 999\], got \[999.5, -1.0\]"),
        ({"times": [999.0, -1.5]}, r"times must lie in \[-1, 999\]"),
        ({"times": [999.0]}, "times must be at least two .*got 1"),
        ({"times": []}, "times must be at least two .*got 0"),
        ({"times": 3.0}, "times must be one-dimensional"),
        ({"times": ["x", "y"]}, "times must be a sequence of numbers"),
        ({"network_times": [999.0]}, "network_times must hold one time per network evaluation, 2 .*got 1"),
        ({"network_times": [999.0, math.nan]}, "network_times must be finite"),
        ({"network_times": [999.0, -0.5]}, r"network_times must lie in the trained range \[0, 999\], got \[999.0, -0.5\]"),
        ({"network_times": [999.5, 500.0]}, r"network_times must lie in the trained range \[0, 999\]"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, object], message: str) -> None:
    values: dict[str, object] = {"sampler": "ddim", "times": [999.0, 500.0, -1.0]} | fields
    with pytest.raises(ValueError, match=message):
        Schedule(NOISE, **values)  # type: ignore[arg-type]


def test_the_last_draw_that_there_is_a_number_for() -> None:
    schedule = Schedule(NOISE, "ddpm", [999.0, 500.0, 3.0], first=2**63 - 3)  # type: ignore[arg-type]
    denoiser = Denoiser(lambda x, tau: x, NOISE)
    assert sample(denoiser, schedule, torch.ones(1, 1), seeds=torch.tensor([1])).isfinite().all()


def test_a_time_below_the_trained_range_passes_the_network_its_end() -> None:
    assert Schedule.build(NOISE, "ddim", 2, [999, -0.5, -1]).network_times.tolist() == [999, 0]


def tuned() -> Schedule:
    schedule = Schedule.build(NOISE, "ddim", 3, "linspace")
    return dataclasses.replace(schedule, network_times=[990.0, 600.0, 300.0], model={"name": "m"}, tuned={"method": "endpoint"})


def test_replace_keeps_what_still_holds() -> None:
    schedule = tuned()
    assert schedule.replace(model={"name": "other"}).tuned == {"method": "endpoint"}
    assert schedule.replace(model={"name": "other"}).network_times.tolist() == [990, 600, 300]
    assert schedule.replace(lower_order_final=True).network_times.tolist() == [990, 600, 300]


@pytest.mark.parametrize(
    "changes",
    [
        {"times": [900.0, 500.0, 100.0, -1.0]},
        {"sampler": "dpmpp_2m"},
        {"noise": NoiseSchedule.cosine()},
        {"times": [900.0, 100.0, -1.0]},  # another number of steps
    ],
)
def test_replace_forgets_the_tuning_of_other_steps(changes: dict[str, object]) -> None:
    replaced = tuned().replace(**changes)
    assert dict(replaced.tuned) == dict(replaced.model) == {}
    np.testing.assert_array_equal(replaced.network_times, replaced.times[:-1])
    assert tuned().network_times.tolist() == [990, 600, 300]  # the original is untouched


def test_replace_with_new_network_times() -> None:
    replaced = tuned().replace(network_times=[999.0, 601.0, 301.0])
    assert replaced.network_times.tolist() == [999, 601, 301]
    assert dict(replaced.tuned) == {}
    both = tuned().replace(times=[900.0, 100.0, -1.0], network_times=[890.0, 90.0], tuned={"by": "hand"})
    assert both.network_times.tolist() == [890, 90]
    assert both.tuned == {"by": "hand"}
    with pytest.raises(ValueError, match="network_times must hold one time per network evaluation"):
        tuned().replace(network_times=[1.0])


def test_equality_is_of_values() -> None:
    a, b = Schedule.build(NOISE, "ddim", 5), Schedule.build(NoiseSchedule.linear(), "ddim", 5)
    assert a == b
    assert hash(a) == hash(b)
    for other in (
        Schedule.build(NOISE, "euler", 5),
        Schedule.build(NOISE, "ddim", 6),
        Schedule.build(NOISE, "ddim", 5, eta=0.5),
        Schedule.build(NoiseSchedule.cosine(), "ddim", 5),
        a.replace(network_times=a.network_times + 0.25),
        "ddim",
    ):
        assert a != other


def test_whole_times() -> None:
    schedule = Schedule.build(NOISE, "ddim", 3, "quadratic").replace(network_times=[998.6, 300.4, 100.5])
    whole = schedule.with_integer_times()
    assert whole.times.tolist() == [999, 444, 111, -1]
    assert whole.network_times.tolist() == [999, 300, 100]


def test_text() -> None:
    text = str(tuned())
    assert text.splitlines()[0] == "ddim, 3 steps, tuned"
    assert "network   990.0000  (-9.0000)" in text
    assert len(text.splitlines()) == 5
