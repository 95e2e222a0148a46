"""Scores of schedules: against the formulas they stand for, in several feature spaces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ttune
from tests import tiny_model
from ttune.evaluation import FeatureStatistics, frechet_distance, frechet_standard_error, paired_interval, precision_recall
from ttune.evaluation.features.pooled_pixels import pooled_features
from ttune.evaluation.score import FeatureScore, FeatureSpace, ScheduleScore, lead
from ttune.tuning import Teacher
from ttune.tuning.problem import Problem
from ttune.tuning.scoring import Scorer

N = 40


@pytest.fixture(scope="module")
def problem() -> Problem:
    denoiser = tiny_model.factory()
    assert denoiser.sample_shape is not None
    x_T = torch.randn(N, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    target = Teacher.default(start(denoiser)).endpoint(denoiser, x_T, {})
    return Problem(denoiser, x_T, {}, target, batch_size=16)


def start(denoiser: ttune.Denoiser) -> ttune.Schedule:
    return ttune.Schedule.build(denoiser.noise, "ddim", 3, "leading")


def means(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x.flatten(1).mean(1), x.flatten(1).std(1)], 1)


def test_every_figure_is_that_of_the_samples_in_each_space(problem: Problem) -> None:
    schedule = start(problem.denoiser)
    real = np.random.default_rng(0).normal(size=(30, 2))
    x = torch.cat([ttune.sample(problem.denoiser, schedule, rows) for rows in problem.x_T.split(16)])
    score = Scorer(problem, [FeatureSpace(means, "means", reference=real), FeatureSpace(pooled_features, "pixels")])(schedule)
    errors = (x.double() - problem.target.double()).square().flatten(1).mean(1).numpy()
    np.testing.assert_array_equal(score.errors, errors)
    assert score.rmse == np.sqrt(errors.mean())
    first, second = score.spaces
    own, teachers = means(x).double().numpy(), means(problem.target).double().numpy()
    assert score.frechet == first.to_teacher == frechet_distance(own, teachers)
    assert second.to_teacher == frechet_distance(pooled_features(x), pooled_features(problem.target))
    assert first.to_reference == frechet_distance(own, real)
    assert first.to_reference_error == frechet_standard_error(own, real)
    assert first.precision_recall == precision_recall(own, real)


def test_what_a_space_does_not_know_is_named(problem: Problem) -> None:
    statistics = FeatureStatistics.of_features(np.random.default_rng(0).normal(size=(30, 2)), "means")
    known, unknown = Scorer(problem, [FeatureSpace(means, "means", reference=statistics), FeatureSpace(means)])(
        start(problem.denoiser)
    ).spaces
    assert known.to_reference > 0
    with pytest.raises(ValueError, match=r"^reference: precision and recall in 'means' need features of real images"):
        _ = known.precision_recall
    with pytest.raises(ValueError, match=r"^reference: a distance to real images in 'features' needs their features or statistics"):
        _ = unknown.to_reference
    with pytest.raises(ValueError, match=r"^teacher: a distance to the teacher in 'features' needs features of its samples"):
        _ = FeatureScore(FeatureSpace(means), known.features).to_teacher


def test_the_rmse_alone_asks_for_no_features(problem: Problem) -> None:
    score = Scorer(problem, ())(start(problem.denoiser))
    assert score.spaces == ()
    assert score.rmse > 0


def test_standard_errors_are_those_of_many_draws() -> None:
    rng = np.random.default_rng(0)
    scores = [ScheduleScore(rng.normal(size=400) ** 2) for _ in range(2000)]
    assert np.std([score.rmse for score in scores]) == pytest.approx(np.mean([score.rmse_error for score in scores]), rel=0.06)
    assert ScheduleScore(np.zeros(5)).rmse_error == 0.0
    a, b = scores[:2]
    assert a.over(b) == paired_interval(np.sqrt(a.errors), np.sqrt(b.errors))
    assert a.over(ScheduleScore(np.zeros(400))) is None


def test_a_lead_is_paired() -> None:
    """Two schedules with the same scatter: their difference is certain, though either distance is not."""
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(200, 3))
    space = FeatureSpace(means, teacher=teacher)
    near, far = (FeatureScore(space, teacher * scale + shift) for scale, shift in ((1.3, 0.1), (1.3, 0.3)))
    forward = lead(near.to_teacher, near.to_teacher_draws, far.to_teacher, far.to_teacher_draws)
    unpaired = (far.to_teacher - near.to_teacher) / np.hypot(near.to_teacher_error, far.to_teacher_error)
    assert forward > 1.5 * unpaired > 1.5
    assert forward == -lead(far.to_teacher, far.to_teacher_draws, near.to_teacher, near.to_teacher_draws)
    assert lead(near.to_teacher, near.to_teacher_draws, near.to_teacher, near.to_teacher_draws) == 0.0
