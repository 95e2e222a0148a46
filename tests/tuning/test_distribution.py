"""The distribution objective: its distance, its gradient, its search, and what decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ttune
from tests.oracles import mixture, standard_normal
from ttune import NoiseSchedule, Schedule
from ttune.evaluation import FeatureStatistics, frechet_distance
from ttune.evaluation.score import ScheduleScore
from ttune.tuning import Distribution, Endpoint
from ttune.tuning.distribution.decision import Judge, Measured, decide_by_distribution
from ttune.tuning.distribution.distance import Goal, Moments
from ttune.tuning.distribution.feature_maps import SideBySide, part_of, parts_to_judge, parts_to_tune
from ttune.tuning.distribution.gradient import features_of_schedule, loss_gradient
from ttune.tuning.distribution.loss import DistributionLoss
from ttune.tuning.distribution.reference import as_reference
from ttune.tuning.grid_search import Ranked
from ttune.tuning.methods.method import Found
from ttune.tuning.problem import Problem
from ttune.tuning.residuals import OwnActivations
from ttune.tuning.solvers.parameters import Parameters

NOISE = NoiseSchedule.linear()
START = Schedule.build(NOISE, "dpmpp_2m", 4, "linspace")
TEACHER = Schedule.build(NOISE, "dpmpp_2m", 48, "log_snr")
PARTS = parts_to_tune(None, (2,))


def test_the_distance_is_frechet_s() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(500, 5)), generator.normal(size=(400, 5)) @ generator.normal(size=(5, 5)) + 1
    goal = Goal.of(FeatureStatistics.of_features(b, "x"))
    features = torch.from_numpy(a).requires_grad_()
    distance = goal.distance(Moments.of(features))
    biased = FeatureStatistics(a.mean(0), np.cov(a.T, bias=True), 500, "x")
    assert float(distance.detach()) == pytest.approx(frechet_distance(biased, FeatureStatistics.of_features(b, "x")), rel=1e-9)
    (slope,) = torch.autograd.grad(distance, features)
    step = torch.from_numpy(generator.normal(size=a.shape)) * 1e-6
    two = [float(goal.distance(Moments.of(features.detach() + sign * step))) for sign in (1, -1)]
    assert (two[0] - two[1]) / 2 == pytest.approx(float((slope * step).sum()), rel=1e-5)


def test_wide_features_are_compared_in_the_reference_s_principal_directions() -> None:
    generator = np.random.default_rng(0)
    b = generator.normal(size=(300, 90)) * np.linspace(3, 0.01, 90)
    goal = Goal.of(FeatureStatistics.of_features(b, "x"), most=8)
    assert goal.width == 90
    assert goal.projected(torch.from_numpy(b)).shape == (300, 8)
    assert float(goal.covariance.trace()) == pytest.approx(np.sort(np.linalg.eigvalsh(np.cov(b.T)))[-8:].sum())


def _problem(n: int, batch_size: int = 16) -> Problem:
    x_T = standard_normal((n, 2))
    return Problem(mixture(NOISE).denoiser(), x_T, {}, x_T, batch_size)


def _loss(problem: Problem) -> tuple[SideBySide, DistributionLoss]:
    features = SideBySide((*PARTS, part_of(lambda x: x**2, 0.3)), problem.denoiser)
    found = features_of_schedule(problem, TEACHER, features)
    goals = tuple(Goal.of(FeatureStatistics.of_features(own, "x")) for own in (found[:, :2], found[:, 2:]))
    return features, DistributionLoss((2, 2), goals, (1.0, 0.3), (0.1, 0.2))


def test_the_gradient_is_the_loss_s_and_batches_do_not_matter() -> None:
    problem = _problem(24)
    features, loss = _loss(problem)
    inside = Schedule.build(NOISE, "dpmpp_2m", 4, "linspace", t_start=897.3)  # no parameter at a bound, no time at a kink of the table
    parameters = Parameters(inside, ("network_times", "times", "coefficients"))
    theta = parameters.start_vector

    def number(found: Tensor) -> Tensor:
        return loss.of_moments(loss.moments(found))

    def at(moved: np.ndarray) -> float:
        return float(number(torch.from_numpy(features_of_schedule(problem, parameters.schedule(moved), features))))

    value, g = loss_gradient(problem, parameters, theta, features, number)

    assert value == at(theta)
    for place in range(0, len(parameters.free), 3):
        step = np.zeros(len(theta))
        step[parameters.free[place]] = 1e-4
        assert (at(theta + step) - at(theta - step)) / 2e-4 == pytest.approx(g[place], rel=1e-3, abs=1e-4)
    other = replace(problem, batch_size=7)
    np.testing.assert_allclose(loss_gradient(other, parameters, theta, features, number)[1], g, rtol=1e-8)


def tune(distribution: Any = None, denoiser: ttune.Denoiser | None = None, **options: Any) -> ttune.TuneResult:
    stage = distribution or Distribution(PARTS, parts_to_judge(PARTS, (2,)), evaluations=6000, samples=32, many=256)
    settings: dict[str, Any] = {"method": Endpoint(iterations=2, search_starts=False), "sample_shape": (2,), "teacher": TEACHER}
    settings |= {"objective": stage, "samples": 32, "validation_samples": 128, "batch_size": 32, "progress": False}
    return ttune.tune(denoiser or mixture(NOISE).denoiser(), START, **(settings | options))


@pytest.mark.slow
def test_it_comes_nearer_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole = tune()
    front = {row["name"]: row for row in whole.validation["front"]}
    assert whole.improved
    assert front["candidate 1"]["to_teacher"] < 0.7 * front["candidate 2"]["to_teacher"] < front["the start"]["to_teacher"]
    assert whole.cost["distribution"] == pytest.approx(6000, rel=0.1)
    assert "4 tuned steps: distance to the teacher" in whole.headline
    assert whole.schedule.tuned["objective"] == "distribution"
    oracle, calls = mixture(NOISE), 0

    class Stop(Exception):
        pass

    def network(x: Tensor, tau: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise Stop
        return oracle(x, tau)

    stop_at = 0
    tune(denoiser=ttune.Denoiser(network, NOISE))
    total = calls
    for share in (0.6, 0.8):
        calls, stop_at, checkpoint = 0, int(share * total), tmp_path / str(share)
        with pytest.raises(Stop):
            tune(denoiser=ttune.Denoiser(network, NOISE), checkpoint=checkpoint)
        stop_at = 0
        resumed = tune(denoiser=ttune.Denoiser(network, NOISE), checkpoint=checkpoint, resume=True)
        assert resumed.schedule == whole.schedule
        assert resumed.history == whole.history
        assert {k: v for k, v in resumed.cost.items() if k != "seconds"} == {k: v for k, v in whole.cost.items() if k != "seconds"}


@pytest.mark.slow
def test_a_black_box_gets_the_detail_search() -> None:
    oracle = mixture(NOISE)

    def black_box(x: Tensor, tau: Tensor) -> Tensor:
        return torch.from_numpy(oracle(x.detach(), tau.detach()).numpy())

    result = tune(denoiser=ttune.Denoiser(black_box, NOISE), method=Endpoint(iterations=1, search_starts=False, optimizer="differences"))
    assert list(result.history) == ["given", "detail"]
    assert min(result.history["detail"]) < result.history["detail"][0]


@pytest.mark.slow
def test_cma_goes_on_from_the_detail_search_without_gradients() -> None:
    result = tune(Distribution(optimizer="cma", evaluations=6000), method=Endpoint(iterations=1, search_starts=False))
    front = {row["name"]: row["to_teacher"] for row in result.validation["front"]}
    assert list(result.history) == ["given", "detail", "evolution"]
    assert result.history["evolution"][-1] < 0.9 * result.history["evolution"][0]
    assert front["candidate 1"] < 0.5 * front["candidate 2"]


def test_what_a_distribution_has_of_its_own_is_not_given_twice() -> None:
    stage = Distribution(PARTS, fidelity=1.0)
    for name, value in (("features", lambda x: x), ("fidelity", 2.0)):
        with pytest.raises(ValueError, match=f"{name} must be given once"):
            tune(stage, **{name: value})


@pytest.mark.slow
def test_fidelity_keeps_near_the_teacher() -> None:
    goal = torch.cat([standard_normal((64, 2)) * 3, standard_normal((64, 2)) + 4])  # far from what the model makes
    reference = as_reference(goal, (2,))
    stage = Distribution(PARTS, (), reference, evaluations=1600, samples=16, many=128)
    free, held = (tune(replace(stage, fidelity=weight), fallback=False).validation["rmse"] for weight in (0.0, 100.0))
    assert held < free


class Labelled(nn.Module):
    """A network with layers, whose samples of label 1 lie elsewhere; without a label it is label 0."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2)).double()

    def forward(self, x: Tensor, tau: Tensor, label: Tensor | None = None) -> Tensor:
        made = x - 0.1 * torch.tanh(self.inner(x * (1 + tau[:, None] / 999)))
        return made if label is None else made + label[:, None]


@pytest.mark.slow
def test_own_activations_are_features_and_see_samples_as_they_see_the_reference() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Labelled().requires_grad_(False)
    denoiser = ttune.Denoiser(network, NOISE, draw_conditions=lambda seeds: {"label": seeds % 2})
    own, x = part_of(OwnActivations(denoiser)), standard_normal((16, 2))
    alone = own(x, {})
    assert alone.shape == (16, 2)
    assert torch.equal(SideBySide((own,), denoiser)(x, {"label": torch.ones(16, dtype=torch.int64)}), alone)
    few: dict[str, Any] = {"reference": standard_normal((32, 2)) * 2, "samples": 8, "validation_samples": 32, "fallback": False}
    stage = Distribution(optimizer="backpropagation", evaluations=300, samples=4, many=16)
    result = tune(stage, denoiser, features=OwnActivations(denoiser), method=Endpoint(iterations=1, search_starts=False), **few)
    assert own.name.startswith("own activations of the middle layer")
    assert own.name in result.validation["front"][0]["to_reference"]
    assert result.history["distribution"][-1] < result.history["distribution"][0]


def test_a_reference_is_halved_and_its_labels_are_drawn() -> None:
    samples = torch.arange(40.0)[:, None].expand(40, 2).contiguous()
    reference = as_reference((samples, {"label": torch.arange(40) % 4 + 5}), (2,))
    part = part_of(lambda x: x)
    tuned, judged = reference.to_tune(part), reference.to_judge(part)
    assert tuned.count == 20
    assert isinstance(judged, np.ndarray)
    assert judged[:, 0].tolist() == list(range(1, 40, 2))
    draw = reference.draw(0)
    assert draw is not None
    assert sorted(draw(torch.arange(40))["label"].tolist()) == sorted([5, 6, 7, 8] * 10)


def test_an_npz_brings_its_labels(tmp_path: Path) -> None:
    path = tmp_path / "real.npz"
    images = np.random.default_rng(0).integers(0, 255, (20, 8, 8), np.uint8)
    np.savez(path, images=images, labels=np.arange(20) % 3)
    reference = as_reference(path, (1, 8, 8), ["class_label"])
    assert reference.conditions is not None
    assert reference.conditions["class_label"].tolist() == [i % 3 for i in range(20)]
    assert as_reference(path, (1, 8, 8), ["a", "b"]).conditions is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"objective": "distance"}, "objective must be one of"),
        ({"objective": "endpoint", "reference": "fashion"}, "reference and fidelity are for"),
        ({"objective": "distribution", "x_T": standard_normal((16, 2))}, "new x_T in every iteration"),
        ({"objective": "distribution", "fidelity": -1.0}, "fidelity must be"),
        ({"objective": "distribution", "reference": standard_normal((4, 2))}, "at least 16 samples"),
        ({"objective": "distribution", "reference": standard_normal((40, 3))}, "reference must be"),
        ({"objective": "distribution", "features": 3}, "features must be"),
        ({"objective": "distribution", "method": "shifted"}, "a distribution is tuned over some of"),
        ({"detail": (1.0,)}, "detail must be"),
        ({"detail": "0.1,x"}, "detail must be"),
        ({"detail": "much"}, "detail must be"),
    ],
)
def test_what_cannot_be_is_refused_before_any_call(wrong: dict[str, Any], words: str) -> None:
    def never(x: Tensor, tau: Tensor) -> Tensor:
        raise AssertionError

    with pytest.raises((ValueError, TypeError), match=words):
        tune(denoiser=ttune.Denoiser(never, NOISE), **wrong)


def test_nearer_in_what_was_tuned_but_farther_in_the_rest_is_refused() -> None:
    problem = _problem(64)
    judge = Judge(problem, [part_of(lambda x: x)], [replace(part_of(lambda x: x.abs()), name="other")], None)
    right = [own.features for own in judge.teacher.score.spaces]

    def measured(name: str, shift: float, other_shift: float, scatter: float = 0.0) -> Measured:
        tuned = np.flip(right[0], 0) * (1 + scatter) if scatter else right[0]
        spaces = zip(judge.teacher.score.spaces, (tuned + shift, right[1] + other_shift), strict=True)
        return Measured(name, START, ScheduleScore(np.ones(64), tuple(replace(own, features=new) for own, new in spaces)))

    far = measured("far", 1.0, 0.0)
    assert judge.faults(measured("near", 0.1, 0.0), far) == []
    (fault,) = judge.faults(measured("near in one", 0.1, 1.0), far)
    assert fault.startswith("in other, which was not tuned on")
    (fault,) = judge.faults(measured("hardly another", 0.99, 0.0, scatter=0.01), far)
    assert "not lower than that of far by more than two" in fault


def test_the_best_that_passes_is_returned_else_the_best_untuned() -> None:
    near, untuned = (Schedule.build(NOISE, "dpmpp_2m", 4, spacing) for spacing in ("karras", "log_snr"))
    near = near.replace(network_times=near.network_times * 0.9)
    problem = _problem(256, 64)
    judge = Judge(replace(problem, target=problem.samples(near)), PARTS, parts_to_judge(PARTS, (2,)), None)
    grids = [Ranked("log_snr", untuned, 0.0, 0.0)]
    chosen, outcome, figures = decide_by_distribution(judge, START, Found([near], grids=grids), True)
    assert (chosen, outcome, figures["returned"], figures["refused"]) == (near, "tuned", "candidate 1", [])
    worse = START.replace(network_times=START.network_times * 0.5)
    chosen, outcome, figures = decide_by_distribution(judge, START, Found([worse], grids=grids), True)
    assert (chosen, outcome) == (untuned, "untuned")
    assert "not lower" in figures["refused"][0]
    assert decide_by_distribution(judge, START, Found([worse], grids=grids), False)[0] == worse
