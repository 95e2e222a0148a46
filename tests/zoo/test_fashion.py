"""The bundled model and the schedules that ship with it."""

import numpy as np
import pytest
import torch

import ttune
from ttune import zoo
from ttune.evaluation import frechet_distance, lenet64, lenet64_train_statistics, rmse_to
from ttune.evaluation.features.feature_statistics import FeatureStatistics
from ttune.evaluation.judge import CandidateMetrics
from ttune.tuning import Teacher
from ttune.tuning.starting_points import drawn_points
from ttune.zoo.lenet import load_lenet64
from ttune.zoo.unet import NULL_CLASS


@pytest.fixture(scope="module")
def judge() -> CandidateMetrics:
    """128 x_T that no tuning saw, and where the teacher arrives from them."""
    denoiser = zoo.load("fashion")
    x_T, conditions = drawn_points(denoiser, torch.arange(128) + 2**42)
    judge = CandidateMetrics(denoiser, x_T, conditions, lenet64(), lenet64_train_statistics(), progress=False)
    teacher = Teacher.default(ttune.Schedule.build(denoiser.noise, "ddim", 5)).source
    assert isinstance(teacher, ttune.Schedule)
    return judge.with_teacher(judge.samples(teacher))


def test_size_and_shape() -> None:
    denoiser = zoo.load("fashion")
    assert isinstance(denoiser.network, torch.nn.Module)
    assert 1.5e6 < sum(p.numel() for p in denoiser.network.parameters()) < 2.5e6
    assert denoiser.clip_sample == 1.0
    assert not any(p.requires_grad for p in denoiser.network.parameters())


def test_samples_are_clothes_of_their_class(judge: CandidateMetrics) -> None:
    """The feature network, which never saw a generated image, names the class that was asked for."""
    assert judge.target is not None
    with torch.no_grad():
        named = load_lenet64()(judge.target).argmax(1)
    assert (named == judge.conditions["class_label"]).float().mean() > 0.8


def test_samples_are_near_real_images(judge: CandidateMetrics) -> None:
    assert judge.target is not None
    features = judge.features(judge.target)
    noise = judge.features(torch.randn(judge.target.shape, generator=torch.Generator().manual_seed(0)))
    assert judge.real is not None
    near, far = (frechet_distance(FeatureStatistics.of_features(f, judge.features.name), judge.real) for f in (features, noise))
    assert near < 0.25 * far  # 128 real images alone have about 3


def test_fractional_times_are_distinguished() -> None:
    """The embedding is sinusoidal: half a step moves the output, and about half as far as a whole one."""
    denoiser = zoo.load("fashion")
    x, conditions = drawn_points(denoiser, torch.arange(4))
    with torch.no_grad():
        here, half, whole = (denoiser.outputs(x, torch.tensor(t), conditions)[0] for t in (500.0, 500.5, 501.0))
    ratio = ((half - here).norm() / (whole - here).norm()).item()
    assert 0.4 < ratio < 0.6


def test_null_class_is_the_unconditional_model_and_guidance_moves_away_from_it() -> None:
    plain, guided = zoo.fashion(), zoo.fashion(guidance_scale=2.0)
    x, conditions = drawn_points(plain, torch.arange(4))
    tau = torch.tensor(600.0)
    with torch.no_grad():
        (with_class,) = plain.outputs(x, tau, conditions)
        (without,) = plain.outputs(x, tau, {})
        (null,) = plain.outputs(x, tau, {"class_label": torch.full((4,), NULL_CLASS)})
        outputs = guided.outputs(x, tau, conditions)
    torch.testing.assert_close(null, without)
    torch.testing.assert_close(outputs[0], with_class, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs[1], without, atol=1e-4, rtol=1e-4)
    assert (with_class - without).abs().max() > 0.01


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_shipped_schedules_beat_the_best_untuned_grid(judge: CandidateMetrics, sampler: str) -> None:
    """The gate of five steps, on fewer x_T than ``make figures`` has: RMSE ratio <= .92 against the best grid and t_0."""
    tuned = zoo.schedule(f"{sampler}_5")
    assert judge.target is not None
    base = judge.denoiser.noise
    grids = [
        ttune.Schedule.build(base, sampler, 5, spacing, t_start=fraction * 999)
        for spacing in ("linspace", "trailing", "quadratic", "log_snr")
        for fraction in (1.0, 0.9, 0.85, 0.8)
    ]
    rmse = [np.sqrt(rmse_to(judge.samples(s), judge.target).square().mean().item()) for s in (tuned, *grids)]
    assert rmse[0] <= 0.92 * min(rmse[1:])


def test_shipped_timetuner_ratios_are_on_its_own_grid() -> None:
    schedule = zoo.schedule("timetuner_ddim_5")
    assert schedule.times.tolist() == [801, 601, 401, 201, 1, 0]
    assert schedule.tuned["method"] == "timetuner"
    ratios = ttune.timetuner_ratios(schedule)
    assert ratios[-1] == pytest.approx(1.0)
    assert (ratios[:-1] != 1.0).all()


def test_unknown_model_is_named() -> None:
    with pytest.raises(ValueError, match=r"name must be one of .*'fashion'.*got 'faces'"):
        zoo.load("faces")
