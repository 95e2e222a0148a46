"""Dynamic programming over a teacher's path: against every schedule that there is, and against its published formulas."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch

import ttune
from tests.oracles import Gaussian, mixture, standard_normal
from ttune import NoiseSchedule, Schedule
from ttune.tuning import OptimalSteps, Teacher
from ttune.tuning.methods.optimal_steps import candidate_times, cheapest_path, local_costs, rolled_path
from ttune.tuning.problem import Problem

NOISE = NoiseSchedule.linear()
START = Schedule.build(NOISE, "ddim", 4, "linspace")
TEACHER = Teacher(Schedule.build(NOISE, "dpmpp_2m", 24, "log_snr"))
X_T = standard_normal((24, 2))


def problem(denoiser: ttune.Denoiser | None = None) -> Problem:
    denoiser = denoiser or mixture(NOISE).denoiser()
    return Problem(denoiser, X_T, {}, TEACHER.endpoint(denoiser, X_T, {}), batch_size=8)


def tune(start: Schedule = START, denoiser: ttune.Denoiser | None = None, **options: Any) -> ttune.TuneResult:
    settings: dict[str, Any] = {"method": "optimal_steps", "x_T": X_T, "teacher": TEACHER, "progress": False, "batch_size": 9}
    return ttune.tune(denoiser or mixture(NOISE).denoiser(), start, **(settings | options))


@pytest.mark.parametrize("discount", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_the_cheapest_path_is_the_cheapest_of_all(steps: int, discount: float) -> None:
    n = 8
    rng = np.random.default_rng(steps)
    for _ in range(10):
        costs = np.where(np.triu(np.ones((n, n)), 1) > 0, rng.uniform(-0.2, 1, (n, n)), np.inf)
        start = rng.uniform(0, 1, n)

        def price(path: tuple[int, ...], start: np.ndarray = start, costs: np.ndarray = costs) -> float:
            return start[path[0]] + sum(discount ** (k + 1) * costs[i, j] for k, (i, j) in enumerate(pairwise(path)))

        every = [(*chosen, n - 1) for chosen in combinations(range(n - 1), steps)]
        assert tuple(cheapest_path(costs, steps, start, discount)) == min(every, key=price)


@pytest.mark.parametrize("metric", ["l2", "l1"])
def test_local_costs_are_those_of_one_step_from_the_teachers_state(metric: str) -> None:
    given, times = problem(), candidate_times(TEACHER, START, 6)
    costs = local_costs(given, START, TEACHER, times, metric)
    path = TEACHER.trajectory(given.denoiser, X_T, {}, times.tolist())
    order = 2 if metric == "l2" else 1
    for i in range(len(times) - 1):
        for j in range(len(times)):
            if j <= i:
                assert costs[i, j] == np.inf
                continue
            step = Schedule(NOISE, "ddim", times[[i, j]])
            moved = ttune.sample(given.denoiser, step, path[i], from_state=True)
            assert costs[i, j] == pytest.approx(float((moved - path[j]).norm(p=order, dim=1).mean()), rel=1e-9)
        assert costs[-1, i] == pytest.approx(float((X_T - path[i]).norm(p=order, dim=1).mean()), rel=1e-9, abs=1e-12)


def test_the_teachers_outputs_cost_nothing_more() -> None:
    given = problem()
    given.denoiser.evaluations = 0
    local_costs(given, START, TEACHER, candidate_times(TEACHER, START, 10), "l2")
    assert given.denoiser.evaluations == 24 * 24  # one teacher path
    given.denoiser.evaluations = 0
    local_costs(given, START, Teacher(Gaussian(NOISE).flow()), candidate_times(TEACHER, START, 10), "l2")
    assert given.denoiser.evaluations == 24 * 10  # a function has no outputs: one call at every candidate but the last


def test_deviation_is_the_distance_from_the_chord_in_x_over_alpha() -> None:
    given, times = problem(), candidate_times(TEACHER, START, 5)
    costs = local_costs(given, START, TEACHER, times, "deviation")
    path = TEACHER.trajectory(given.denoiser, X_T, {}, times.tolist())
    scaled = [x / float(a) for x, a in zip([X_T, *path[1:]], NOISE.alpha(times), strict=True)]
    chord = scaled[-1] - scaled[0]

    def off(x: torch.Tensor) -> torch.Tensor:  # in the plane: twice the area of the triangle over its base
        across = (x - scaled[0])[:, 0] * chord[:, 1] - (x - scaled[0])[:, 1] * chord[:, 0]
        return across.abs() / chord.norm(dim=1)

    moved = ttune.sample(given.denoiser, Schedule(NOISE, "ddim", times[[1, 3]]), path[1], from_state=True) / float(NOISE.alpha(times[3]))
    assert costs[1, 3] == pytest.approx(float((off(moved) - off(scaled[3])).mean()), rel=1e-6)


@pytest.mark.parametrize("fix_start", [False, True])
def test_two_rolled_steps_are_the_best_pair_given_the_best_first_ones(fix_start: bool) -> None:
    """For two steps the recursion is a minimum over the pairs whose first step is the best way to reach where the second begins."""
    start, given = Schedule.build(NOISE, "ddim", 2, "linspace"), problem()
    times = candidate_times(TEACHER, start, 7, fix_start=fix_start)
    path = TEACHER.trajectory(given.denoiser, X_T, {}, times.tolist())
    n, firsts = len(times), range(1 if fix_start else len(times) - 2)

    def error(indices: list[int]) -> float:
        x = ttune.sample(given.denoiser, Schedule(NOISE, "ddim", times[indices]), X_T)
        return float((x - path[indices[-1]]).square().mean())

    reached = {j: min((i for i in firsts if i < j), key=lambda i, j=j: error([i, j])) for j in range(1, n - 1)}
    wanted = min(([i, j, n - 1] for j, i in reached.items()), key=error)
    assert rolled_path(given, start, TEACHER, times, fix_start=fix_start) == wanted


def test_costs_add_up_to_a_formula() -> None:
    result = tune(method=OptimalSteps(discounts=(1.0,)))
    tuning, steps = 18, 4
    assert result.cost["tuning"] == tuning * 24 + tuning * steps  # a teacher path; one try
    rolled = tune(method=OptimalSteps("rolled", candidates=8, fix_start=True))
    # The first chunk alone: a path, one first step, then from every candidate that leaves room for the steps to come; one try.
    assert rolled.cost["tuning"] == 9 * (24 + 1 + 5 + 5 + 5) + tuning * steps


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "heun", "unipc"])
def test_the_steps_are_the_teachers_times(sampler: str) -> None:
    result = tune(START.replace(sampler=sampler), fallback=False)
    assert set(result.schedule.times) <= set(candidate_times(TEACHER, START, 64))
    assert result.schedule.steps == 4
    np.testing.assert_array_equal(result.schedule.network_times, result.schedule.tableau().times)
    assert result.schedule.tuned["method"] == "optimal_steps"
    if sampler != "heun":  # for which the costs of first-order steps mean little
        assert result.validation["ratio"] < 0.8


def test_fix_start_keeps_t_0() -> None:
    start = Schedule.build(NOISE, "ddim", 4, "linspace", t_start=900.5)
    assert tune(start, fix_start=True).schedule.times[0] == 900.5
    for cost in ("local", "rolled"):
        assert tune(start, method=OptimalSteps(cost, fix_start=True, candidates=9), fallback=False).schedule.times[0] == 900.5


@pytest.mark.parametrize("noise", [NoiseSchedule.edm(), NoiseSchedule.flow(3.0), NoiseSchedule.continuous_vp(), NoiseSchedule.ve()])
def test_other_noise_schedules(noise: NoiseSchedule) -> None:
    gaussian = Gaussian(noise, 0.9, "flow_prediction")
    x_T = X_T * float(noise.sigma(noise.t_max))
    start = Schedule.build(noise, "euler", 4, "linspace")
    for metric in ("l2", "deviation"):
        result = ttune.tune(gaussian.denoiser(), start, method=OptimalSteps(metric=metric, candidates=24), x_T=x_T, progress=False)
        assert result.validation["rmse"] <= result.validation["rmse_start"]


def test_whole_times_for_a_network_that_knows_no_others() -> None:
    network = mixture(NOISE)
    passed: list[float] = []

    def whole(x: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        passed.extend(tau.tolist())
        return network(x, tau)

    denoiser = ttune.Denoiser(whole, NOISE, integer_time=True)
    teacher = Schedule.build(NOISE, "dpmpp_2m", 40, "linspace").with_integer_times()
    result = tune(START.with_integer_times(), denoiser, teacher=teacher)
    assert result.improved
    assert all(t % 1 == 0 for t in passed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cost": "global"}, "cost must be 'local' or 'rolled', got 'global'"),
        ({"metric": "l3"}, r"metric must be one of \['l2', 'l1', 'deviation'\], got 'l3'"),
        ({"discounts": ()}, "discounts must be at least one positive number"),
        ({"discounts": (1.0, -1.0)}, "discounts must be at least one positive number"),
        ({"candidates": 1}, "candidates must be at least 2, got 1"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimalSteps(**options)


def test_what_cannot_be_done_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="candidates must be at least the 4 steps of the schedule, got 3"):
        tune(method=OptimalSteps(candidates=3))
    with pytest.raises(ValueError, match="its path has 3 candidate times, fewer than the 4 steps wanted"):
        tune(teacher=Schedule.build(NOISE, "dpmpp_2m", 3, "log_snr"))
    with pytest.raises(ValueError, match="a path needs a sampler with one evaluation a step, 'heun' has more"):
        tune(teacher=Schedule.build(NOISE, "heun", 24, "log_snr"))
    flow = NoiseSchedule.flow()
    start, denoiser = Schedule.build(flow, "euler", 4, "linspace"), Gaussian(flow, 1.0, "flow_prediction").denoiser()
    with pytest.raises(ValueError, match="metric 'deviation' divides by alpha, which is 0 at the first candidate, t = 1"):
        tune(start, denoiser, method=OptimalSteps(metric="deviation", fix_start=True), teacher=None)
