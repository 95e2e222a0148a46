"""Evolutionary search: its operators, exhaustive enumeration as the oracle of small problems, CMA-ES against closed forms."""

from __future__ import annotations

import json
import math
import sys
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import ttune
from tests.oracles import Gaussian, mixture, standard_normal
from ttune import NoiseSchedule, Schedule, Variants
from ttune.evaluation.features.pooled_pixels import pooled_features
from ttune.evaluation.metrics.frechet import frechet_distance
from ttune.tuning import Evolution
from ttune.tuning.methods.genome import CELLS, Genes, PositionGenes
from ttune.tuning.problem import Problem

FEW = NoiseSchedule.linear(16, 5e-3, 0.9)  # 16 training steps: 560 schedules of 3 steps
X_T = standard_normal((32, 2))
START = Schedule.build(FEW, "ddim", 3, "linspace")
TEACHER = Schedule.build(FEW, "dpmpp_2m", 16, "log_snr")
SMALL = {"population": 24, "mutations": 12, "crossovers": 7, "rounds": 8}  # 192 of the 560


def tune(method: Evolution, start: Schedule = START, denoiser: ttune.Denoiser | None = None, **options: Any) -> ttune.TuneResult:
    settings: dict[str, Any] = {"x_T": X_T, "teacher": TEACHER, "progress": False}
    return ttune.tune(denoiser or mixture(FEW).denoiser(), start, method=method, **(settings | options))


# ---------------------------------------------------------------------------------------------------------------- genes


NOISES = {
    "discrete": NoiseSchedule.linear(),
    "edm": NoiseSchedule.edm(),
    "flow": NoiseSchedule.flow(3.0),
    "vp": NoiseSchedule.continuous_vp(),
}


@pytest.mark.parametrize("fix_start", [False, True])
@pytest.mark.parametrize("name", NOISES)
def test_operators_make_schedules(name: str, fix_start: bool) -> None:
    noise = NOISES[name]
    start = Schedule.build(noise, "ddim" if name == "discrete" else "euler", 6, "linspace", t_start=0.9 * noise.t_max)
    genes = Genes(start, Gaussian(noise).denoiser(), fix_start=fix_start)
    rng = np.random.default_rng(0)
    parents = [genes.random(rng) for _ in range(20)]
    children = [genes.mutated(rng, parent, 0.25) for parent in parents]
    children += [genes.crossed(rng, a, b) for a, b in zip(parents, children, strict=True)]
    for genome in parents + children:
        schedule = genes.schedule(genome)
        assert schedule.steps == 6
        assert schedule.times[-1] == start.times[-1]
        assert genes.encode(schedule) == genome
        assert not fix_start or schedule.times[0] == start.times[0]
        np.testing.assert_array_equal(schedule.network_times, np.clip(schedule.times[:-1], noise.t_min, noise.t_max))
        if name == "discrete":
            np.testing.assert_array_equal(schedule.times[1:-1] % 1, 0)
    (times,) = genes.parts
    assert isinstance(times, PositionGenes)
    assert len(times.times) == (1000 if name == "discrete" else CELLS) or fix_start


def test_a_crossover_takes_genes_of_its_parents_only_and_a_mutation_keeps_most() -> None:
    genes = PositionGenes(Schedule.build(NOISES["discrete"], "ddim", 8))
    rng = np.random.default_rng(1)
    kept = []
    for _ in range(200):
        a, b = genes.random(rng), genes.random(rng)
        child = genes.crossed(rng, a, b)
        assert set(child) <= set(a) | set(b)
        assert len(set(child)) == 8
        kept.append(len(set(genes.mutated(rng, a, 0.25)) & set(a)) / 8)
    assert np.mean(kept) == pytest.approx(0.75, abs=0.05)  # the standard error is .011
    twins = (9, 8, 7, 6, 5, 4, 3, 2)
    assert genes.crossed(rng, twins, twins) == twins


def test_nearest_genomes_are_moved_apart() -> None:
    genes = PositionGenes(Schedule.build(FEW, "ddim", 4))
    assert genes.encode(Schedule(FEW, "ddim", np.array([15, 14.9, 14.8, 14.7, -1]))) == (15, 14, 13, 12)
    assert genes.encode(Schedule(FEW, "ddim", np.array([0.3, 0.2, 0.1, 0, -1]))) == (3, 2, 1, 0)
    assert genes.count() == 1820
    assert PositionGenes(Schedule.build(FEW, "ddim", 4), fix_start=True).count() == 220  # below the start, 12: 12 over 3
    with pytest.raises(ValueError, match="17 steps need as many different times, this grid has 16"):
        PositionGenes(Schedule.build(FEW, "ddim", 16).replace(times=np.append(np.linspace(15, 0, 17), -1)))


# ------------------------------------------------------------------------------------------------------ exhaustive search


def every_score(fitness: str) -> dict[tuple[float, ...], float]:
    """The fitness of all 560 schedules, computed anew."""
    denoiser, x_T = mixture(FEW).denoiser(), X_T[:24]  # the last quarter is held out
    target = ttune.sample(denoiser, TEACHER, x_T)

    def score(x: Tensor) -> float:
        if fitness == "rmse":
            return float((x - target).square().mean().sqrt())
        return frechet_distance(pooled_features(x), pooled_features(target))

    grids = [(*sorted(c, reverse=True), -1.0) for c in combinations(range(16), 3)]
    return {times: score(ttune.sample(denoiser, START.replace(times=times), x_T)) for times in grids}


@pytest.mark.parametrize("fitness", ["rmse", "frechet"])
def test_evolution_finds_what_exhaustive_search_finds(fitness: str) -> None:
    scores = every_score(fitness)
    assert len(scores) == 560
    for seed in range(2):
        result = tune(Evolution(fitness=fitness, search_starts=False, **SMALL), seed=seed, fallback=False)
        assert tuple(result.schedule.times) == min(scores, key=lambda times: scores[times])
        assert result.history["fitness"][-1] == pytest.approx(min(scores.values()), rel=1e-9)
        assert result.history["fitness"][0] > result.history["fitness"][-1]  # it was not among the first
        assert len(result.history["fitness"]) == 8


def test_no_candidate_is_judged_twice_and_a_small_space_is_searched_out() -> None:
    seen: list[tuple[float, ...]] = []

    def fitness(schedule: Schedule, x: Tensor, problem: Problem) -> float:
        assert x.shape == problem.target.shape
        seen.append(tuple(schedule.times))
        return float(abs(schedule.times[1] - 7))

    result = tune(Evolution(fitness=fitness, **SMALL))
    assert len(set(seen)) == len(seen) == 192
    assert seen[0] == tuple(np.round(START.times))
    assert result.history["fitness"][-1] == 0
    seen.clear()
    start = Schedule.build(FEW, "ddim", 2, "linspace")  # 120 schedules
    result = tune(Evolution(fitness=fitness, **SMALL), start)
    assert len(set(seen)) == len(seen) == 120
    assert len(result.history["fitness"]) < 8


def test_untuned_grids_are_in_the_first_population() -> None:
    first: list[Schedule] = []

    def fitness(schedule: Schedule, x: Tensor, problem: Problem) -> float:
        first.append(schedule)
        return 1.0

    result = tune(Evolution(fitness=fitness, population=60, rounds=1))
    judged = {tuple(schedule.times) for schedule in first}
    whole = [tuple(entry.schedule.times) for entry in result.grids if (entry.schedule.times % 1 == 0).all()]
    assert len(whole) >= 5
    assert judged >= set(whole[:5])
    assert result.cost["grids"] == len(result.grids) * 24 * 3


def test_a_network_of_whole_times_gets_whole_times() -> None:
    def network(x: Tensor, tau: Tensor) -> Tensor:
        assert (tau % 1 == 0).all()
        return mixture(FEW)(x, tau)

    denoiser = ttune.Denoiser(network, FEW, integer_time=True)
    start = Schedule.build(FEW, "ddim", 3, "leading")
    result = tune(Evolution(fitness="rmse", search_starts=False, **SMALL), start, denoiser, teacher=Schedule.build(FEW, "ddim", 16))
    assert result.improved
    assert (result.schedule.network_times % 1 == 0).all()
    # Methods that search between whole times are searched with a network that answers there, then in whole times.
    for method, sampler in ((Evolution(cells=10, **SMALL), "ddim"), (Evolution(**SMALL), "heun"), (Evolution("cma", rounds=2), "ddim")):
        result = tune(method, start.replace(sampler=sampler), denoiser, teacher=Schedule.build(FEW, "ddim", 16), fallback=False)
        assert (result.schedule.network_times % 1 == 0).all()
        assert "whole times" in result.history


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "dpm_solver_3", "unipc"])
def test_any_sampler_evolves(sampler: str) -> None:
    result = tune(Evolution(fitness="rmse", **SMALL), START.replace(sampler=sampler), fallback=False)
    assert result.history["fitness"][-1] < result.history["fitness"][0]


def test_a_continuous_model_evolves_on_a_grid() -> None:
    noise = NoiseSchedule.edm()
    gaussian = Gaussian(noise, 0.9)
    start = Schedule.build(noise, "euler", 4, "karras")
    options = {"x_T": X_T * noise.sigma_max, "teacher": gaussian.flow()}
    result = tune(Evolution(fitness="rmse", cells=40, **SMALL), start, gaussian.denoiser(), **options)
    assert result.improved
    assert result.validation["ratio"] < 0.8
    y = np.log(result.schedule.times[:-1] / noise.sigma_min) / np.log(noise.sigma_max / noise.sigma_min) * 39
    np.testing.assert_allclose(y, np.round(y), atol=1e-6)


# ------------------------------------------------------------------------------------------------------------- variants


def rough(factor: float) -> Any:
    network = mixture(FEW)
    return lambda x, tau: network(x, tau * 0.9) * factor


COSTS = (1.0, 0.6, 0.3)


def several() -> ttune.Denoiser:
    return ttune.Denoiser(Variants([mixture(FEW), rough(0.95), rough(0.8)], COSTS), FEW)


def cost(schedule: Schedule) -> float:
    return sum(COSTS[v] for v in schedule.variants or (0,) * len(schedule.network_times))


def test_variants_under_a_budget_are_those_of_exhaustive_search() -> None:
    """Times and networks together: 56 x 3^3 schedules, of which 952 are within the budget."""
    noise = NoiseSchedule.linear(8, 5e-3, 0.9)
    network, budget = mixture(noise), 2.0
    denoiser = ttune.Denoiser(
        Variants([network, lambda x, t: 0.95 * network(x, 0.9 * t), lambda x, t: 0.8 * network(x, 0.9 * t)], COSTS), noise
    )
    assert isinstance(denoiser.network, Variants)
    start = Schedule.build(noise, "ddim", 3, "linspace")
    start = start.replace(variants=denoiser.network.fitting(3, budget))
    target = ttune.sample(denoiser, teacher := Schedule.build(noise, "dpmpp_2m", 8, "log_snr"), X_T[:24])
    every = [
        start.replace(times=(*sorted(c, reverse=True), -1.0), variants=v)
        for c in combinations(range(8), 3)
        for v in product(range(3), repeat=3)
        if sum(COSTS[k] for k in v) <= budget + 1e-9
    ]
    assert len(every) == 952
    scores = [float((ttune.sample(denoiser, s, X_T[:24]) - target).square().mean().sqrt()) for s in every]
    method = Evolution(fitness="rmse", budget=budget, search_starts=False, population=24, mutations=14, crossovers=6, rounds=14)
    result = tune(method, start, denoiser, teacher=teacher, fallback=False)
    best = every[int(np.argmin(scores))]
    assert (result.schedule.times.tolist(), result.schedule.variants) == (best.times.tolist(), best.variants)
    assert result.history["fitness"][-1] == pytest.approx(min(scores), rel=1e-9)
    assert result.schedule.tuned["tune"] == ["times", "variants"]
    assert len(result.history["fitness"]) * 24 < len(every) / 2


def test_no_candidate_is_beyond_the_budget() -> None:
    seen: list[Schedule] = []

    def fitness(schedule: Schedule, x: Tensor, problem: Problem) -> float:
        seen.append(schedule)
        return -cost(schedule)  # wants to be expensive

    denoiser = several()
    assert isinstance(denoiser.network, Variants)
    start = Schedule.build(FEW, "ddim", 4, "linspace")
    start = start.replace(variants=denoiser.network.fitting(4, 2.5))
    assert start.variants == (2, 2, 2, 0)
    result = tune(Evolution(fitness=fitness, budget=2.5, **SMALL), start, denoiser)
    assert len({(schedule.times.tobytes(), schedule.variants) for schedule in seen}) == len(seen) == 192
    assert max(map(cost, seen)) == pytest.approx(2.5)
    np.testing.assert_allclose(seen[0].times, start.times, atol=0.5)
    assert all(entry.schedule.variants == start.variants for entry in result.grids)
    assert cost(result.schedule) <= 2.5 + 1e-9
    with pytest.raises(ValueError, match=r"no less than what the schedule costs, 4, got 2.5; .*variants=\[2, 2, 2, 0\]"):
        tune(Evolution(budget=2.5), start.replace(variants=()), denoiser)
    with pytest.raises(ValueError, match=r"budget must be at least 1\.2, 4 calls of the cheapest network, got 1"):
        tune(Evolution(budget=1.0), start, denoiser)
    # Without a budget, what the start costs.
    seen.clear()
    tune(Evolution(fitness=fitness, tune=("variants",), search_starts=False, **SMALL), start, denoiser)
    assert max(map(cost, seen)) <= cost(start) + 1e-9
    assert {schedule.times.tobytes() for schedule in seen} == {start.times.tobytes()}


def test_variants_are_no_worse_than_the_start_and_survive_an_interruption(tmp_path: Path) -> None:
    calls, limit = 0, math.inf
    network = mixture(FEW)

    def counting(x: Tensor, tau: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls >= limit:
            raise KeyboardInterrupt
        return network(x, tau)

    def run(**options: Any) -> ttune.TuneResult:
        denoiser = ttune.Denoiser(Variants([counting, rough(0.95)], [1.0, 0.6]), FEW)
        start = Schedule.build(FEW, "dpmpp_2m", 4, "linspace").replace(variants=(1, 1, 0, 0))
        return tune(Evolution(budget=3.2, **SMALL), start, denoiser, **options)

    whole = run()
    total = calls
    assert whole.validation["rmse"] <= whole.validation["rmse_start"]
    assert whole.validation["frechet"] <= whole.validation["frechet_start"]
    for k, fraction in enumerate((0.4, 0.8)):
        calls, limit = 0, int(fraction * total)
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint=tmp_path / str(k))
        limit = math.inf
        assert len(json.loads((tmp_path / str(k)).read_text())["pieces"]["best"]["variants"]) == 4
        resumed = run(checkpoint=tmp_path / str(k), resume=True)
        assert resumed.schedule == whole.schedule
        assert (resumed.history, resumed.validation) == (whole.history, whole.validation)
    whole.schedule.save(tmp_path / "ttune.json")
    assert Schedule.load(tmp_path / "ttune.json").variants == whole.schedule.variants


# -------------------------------------------------------------------------------------------------------------- CMA-ES


def test_cma_reaches_what_least_squares_reaches() -> None:
    """The exact teacher, to 1e-5, by network_times alone and by everything."""
    noise = NoiseSchedule.linear()
    gaussian = Gaussian(noise)
    start = Schedule.build(noise, "ddim", 3, "linspace")
    for names, rounds in ((("network_times",), 55), (("network_times", "times"), 90)):
        method = Evolution("cma", "rmse", tune=names, rounds=rounds, search_starts=False)
        result = tune(method, start, gaussian.denoiser(), teacher=gaussian.flow())
        assert result.validation["rmse_start"] > 0.1
        assert result.validation["rmse"] <= 1e-5
        assert result.schedule.tuned["tune"] == list(names)
        assert np.array_equal(result.schedule.times, start.times) == (names == ("network_times",))


def test_cma_begins_from_the_best_grid_and_stays_in_the_trained_range() -> None:
    noise = NoiseSchedule.linear()
    start = Schedule.build(noise, "ddim", 4, "linspace")
    method = Evolution("cma", "rmse", rounds=15)
    teacher = Schedule.build(noise, "dpmpp_2m", 32, "log_snr")
    result = tune(method, start, mixture(noise).denoiser(), teacher=teacher)
    assert result.improved
    first, last = result.history["fitness"][0], result.history["fitness"][-1]
    assert first <= min(entry.rmse for entry in result.grids) * (1 + 1e-12)
    assert last < 0.8 * first
    assert result.schedule.times[0] <= noise.t_max
    fixed = tune(Evolution("cma", "rmse", rounds=8, fix_start=True), start, mixture(noise).denoiser(), teacher=teacher, fallback=False)
    assert fixed.schedule.times[0] == start.times[0]


def test_cma_leaves_numpys_generator_alone() -> None:
    np.random.seed(3)  # noqa: NPY002
    wanted = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    results = [tune(Evolution("cma", rounds=3), fallback=False) for _ in range(2)]
    assert np.random.random() == wanted  # noqa: NPY002
    assert results[0].schedule == results[1].schedule
    assert tune(Evolution("cma", rounds=3), fallback=False, seed=1).schedule != results[0].schedule


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(ImportError, match=r"needs the package cma, which is not installed: pip install 'ttune\[evolution\]'"):
        tune(Evolution("cma"))


# --------------------------------------------------------------------------------------------------------------- the rest


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (Evolution("magic"), ValueError, "operators must be one of .*'magic'"),
        (Evolution(fitness="fid"), ValueError, "fitness must be one of .* or a function .*got 'fid'"),
        (Evolution(fitness=lambda *_: float("nan")), FloatingPointError, "fitness must return finite numbers, got nan for ddim, 3 steps"),
        (Evolution(population=1), ValueError, "population must be a whole number >= 2, got 1"),
        (Evolution(rounds=0), ValueError, "rounds must be a whole number >= 1, got 0"),
        (Evolution(cells=1), ValueError, "cells must be a whole number >= 2, got 1"),
        (Evolution(cells=2), ValueError, "3 steps need as many different times, this grid has 2"),
        (Evolution(probability=0.0), ValueError, r"probability must lie in \(0, 1\], got 0.0"),
        (Evolution(population=30), ValueError, r"mutations \+ crossovers must be at most the population, got 25 \+ 15 of 30"),
        (Evolution(tune=("network_times",)), ValueError, r"tune must name one or both of .* for operators='genetic'"),
        (Evolution(tune=("variants",)), ValueError, r"needs a network that is a ttune\.Variants, got Mixture"),
        (Evolution("cma", budget=3.0), ValueError, "budget is for tuning variants with operators='genetic', got 3.0"),
        (Evolution(budget=-1.0), ValueError, "budget must be a positive number, got -1.0"),
        (Evolution("cma", tune=("everything",)), ValueError, "tune must be one of"),
    ],
)
def test_wrong_settings_are_named(method: Evolution, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tune(method)


def test_features_are_used_and_the_method_is_known_by_name() -> None:
    calls = 0

    def features(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x[:, :1]

    result = tune(Evolution(population=6, mutations=2, crossovers=1, rounds=2), features=features)
    assert calls >= 12
    assert result.validation["features"] == "user's features"
    named = ttune.tune(mixture(FEW).denoiser(), START, method="evolution", x_T=X_T[:8], teacher=TEACHER, progress=False)
    assert len(named.history["fitness"]) == 10


def test_there_are_more_genomes_than_len_can_say() -> None:
    """Ten of a thousand times: 2.6e23 ways, beyond an index."""
    noise = NOISES["discrete"]
    start = Schedule.build(noise, "ddim", 10, "linspace")
    method = Evolution(population=4, mutations=2, crossovers=1, rounds=2, search_starts=False)
    result = tune(method, start, mixture(noise).denoiser(), teacher=start)
    assert len(result.history["fitness"]) == 2
