"""Perturbed runs that share a call of the network are the runs that they would be alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ttune
from tests.oracles import mixture, standard_normal
from ttune import SAMPLERS, ClassifierFree, Denoiser, NoiseSchedule, Schedule
from ttune.tuning.problem import Problem
from ttune.tuning.solvers.finite_differences import normal_equations
from ttune.tuning.solvers.parameters import Parameters

NOISE = NoiseSchedule.linear()
X_T = standard_normal((12, 2))
DETERMINISTIC = [name for name in SAMPLERS if not Schedule.build(NOISE, name, 4, "quadratic").tableau().stochastic]


class Counting:
    """A network that remembers how many samples each call had, and has memory for ``most``."""

    def __init__(self, network: Any, most: int = 10**9) -> None:
        self.network, self.most, self.batches = network, most, []

    def __call__(self, x: Tensor, tau: Tensor, **conditions: Any) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("no more")
        self.batches.append(len(x))
        assert all(len(v) == len(x) for v in conditions.values())
        shift = sum(conditions.values(), torch.zeros(())) * 0.1
        return self.network(x, tau) + (shift[:, None] if conditions else 0.0)


def equations(denoiser: Denoiser, schedule: Schedule, limit: int, conditions: dict[str, Tensor] | None = None) -> list[Any]:
    problem = Problem(denoiser, X_T, conditions or {}, torch.zeros_like(X_T), batch_size=5)
    parameters = Parameters(schedule, ("network_times", "times", "coefficients"))
    theta = parameters.start_vector * 0.97
    return list(normal_equations(problem, parameters, theta, None, limit))


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_side_by_side_equals_alone_for_every_sampler(sampler: str) -> None:
    schedule = Schedule.build(NOISE, sampler, 4, "quadratic")
    alone, together = Counting(mixture(NOISE).denoiser().network), Counting(mixture(NOISE).denoiser().network)
    expected = equations(Denoiser(alone, NOISE), schedule, 1)
    for a, b in zip(expected, equations(Denoiser(together, NOISE), schedule, 7), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9 * np.abs(np.max(a)))
    assert sum(together.batches) == sum(alone.batches)
    assert max(alone.batches) == 5
    assert max(together.batches) == 35
    assert len(together.batches) < len(alone.batches) / 2


def guided(network: Any, interval: tuple[float, float] | None) -> Denoiser:
    return Denoiser(network, NOISE, guidance=ClassifierFree(3.0, {"label": 0.0}, interval=interval), clip_sample=2.0)


@pytest.mark.parametrize("interval", [None, (0.5, 3.0)])
def test_with_conditions_guidance_and_clipping(interval: tuple[float, float] | None) -> None:
    """An interval of guidance makes two calls of what lies on either side of its ends."""
    schedule, labels = Schedule.build(NOISE, "dpmpp_2m", 4, "quadratic"), {"label": torch.arange(12.0, dtype=torch.float64)}
    network = mixture(NOISE).denoiser().network
    expected = equations(guided(Counting(network), interval), schedule, 1, labels)
    for a, b in zip(expected, equations(guided(Counting(network), interval), schedule, 100, labels), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9 * np.abs(np.max(a)))


def test_a_null_condition_with_rows_is_left_alone() -> None:
    network = Counting(mixture(NOISE).denoiser().network)
    null = torch.zeros(5, dtype=torch.float64)
    denoiser = Denoiser(network, NOISE, guidance=ClassifierFree(3.0, {"label": null}))
    problem = Problem(denoiser, X_T[:5], {"label": torch.ones(5, dtype=torch.float64)}, torch.zeros(5, 2, dtype=X_T.dtype), batch_size=5)
    parameters = Parameters(Schedule.build(NOISE, "ddim", 3, "quadratic"), ("network_times",))
    normal_equations(problem, parameters, parameters.start_vector, None, 8)
    assert max(network.batches) == 10


def test_fewer_at_once_where_memory_runs_out() -> None:
    schedule = Schedule.build(NOISE, "ddim", 4, "quadratic")
    network = mixture(NOISE).denoiser().network
    small = Counting(network, most=12)
    with pytest.warns(RuntimeWarning, match="out of memory with .* samples in one call of the network: going on with") as warned:
        found = equations(Denoiser(small, NOISE), schedule, 16)
    assert len(warned) < 5  # remembered
    assert 5 < max(small.batches) <= 12
    for a, b in zip(equations(Denoiser(network, NOISE), schedule, 1), found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9 * np.abs(np.max(a)))
    with pytest.warns(RuntimeWarning), pytest.raises(torch.OutOfMemoryError):
        equations(Denoiser(Counting(network, most=0), NOISE), schedule, 16)


def test_a_tuning_arrives_at_the_same_schedule() -> None:
    denoiser, start = mixture(NOISE).denoiser(), Schedule.build(NOISE, "ddim", 3, "quadratic")
    options: dict[str, Any] = {"x_T": standard_normal((44, 2)), "teacher": Schedule.build(NOISE, "dpmpp_2m", 32, "log_snr")}
    options |= {"progress": False, "batch_size": 16}
    one, many = (
        ttune.tune(denoiser, start, method=ttune.tuning.Endpoint(iterations=5, search_starts=False, together=n), **options) for n in (1, 9)
    )
    np.testing.assert_allclose(one.schedule.times, many.schedule.times, rtol=1e-6)
    np.testing.assert_allclose(one.schedule.network_times, many.schedule.network_times, rtol=1e-6)
    assert one.cost["tuning"] == many.cost["tuning"]
    with pytest.raises(ValueError, match="together must be at least 1, got 0"):
        ttune.tune(denoiser, start, method=ttune.tuning.Endpoint(together=0), **options)
