"""The recipes of CONTRIBUTING.md do what they say."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ttune
from tests.oracles import mixture
from ttune.evaluation import CachedSamples, Candidate, FeatureExtractor, print_metrics
from ttune.evaluation.evaluate import Real, evaluate
from ttune.evaluation.images.image_source import ArrayPictures
from ttune.evaluation.metrics.registry import FEATURE_METRICS
from ttune.noise.grids import GRIDS, grid
from ttune.tuning import METHODS

RECIPES = re.findall(r"```python\n(.*?)```", (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(), re.DOTALL)


@pytest.fixture
def registries() -> Iterator[None]:
    """A recipe's entry does not outlive its test."""
    before = [(registry, dict(registry)) for registry in (ttune.SAMPLERS, GRIDS, METHODS, FEATURE_METRICS)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


@pytest.fixture
def recipes(registries: None) -> dict[str, Any]:
    """What the recipes define, by name."""
    defined: dict[str, Any] = {}
    for recipe in RECIPES:
        exec(recipe, defined)
    return defined


NOISE = ttune.NoiseSchedule.linear()
X_T = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.usefixtures("recipes")
def test_a_sampler_and_a_grid_of_the_recipes_work_together() -> None:
    schedule = ttune.Schedule.build(NOISE, "half_way", 4, "cubic")
    np.testing.assert_allclose(schedule.times[:-1], 999 * np.array([1, 0.75, 0.5, 0.25]) ** 3)
    denoiser = ttune.Denoiser(lambda x, tau: 0.1 * x, NOISE)
    torch.testing.assert_close(ttune.sample(denoiser, schedule, X_T), ttune.sample(denoiser, schedule.replace(sampler="ddim"), X_T))


@pytest.mark.usefixtures("recipes")
def test_the_method_of_the_recipes_finds_the_share_that_the_teacher_has() -> None:
    denoiser = ttune.Denoiser(lambda x, tau: x * tau.view(-1, 1) / 1000, NOISE)
    start = ttune.Schedule.build(NOISE, "ddim", 4, "linspace")
    teacher = start.replace(network_times=start.network_times * 0.98)
    result = ttune.tune(denoiser, start, method="lower", x_T=X_T, teacher=teacher, progress=False)
    assert result.outcome == "tuned"
    np.testing.assert_allclose(result.schedule.network_times, teacher.network_times)
    with pytest.raises(ValueError, match=r"tuple\[float, \.\.\.\], got .0\+\.01.; join its numbers by \+"):
        ttune.tune(denoiser, start, method="lower:shares=0+.01", x_T=X_T, teacher=teacher, progress=False)
    with pytest.raises(ValueError, match="shares"):
        ttune.tune(denoiser, start, method="lower:share=1", x_T=X_T, teacher=teacher, progress=False)


def test_the_objective_of_the_recipes_is_what_was_compared(recipes: dict[str, Any]) -> None:
    denoiser = ttune.Denoiser(lambda x, tau: x * tau.view(-1, 1) / 1000, NOISE)
    start = ttune.Schedule.build(NOISE, "ddim", 4, "linspace")
    settings: dict[str, Any] = {"method": "lower", "x_T": X_T, "progress": False}
    teacher = start.replace(network_times=start.network_times * 0.98)
    result = ttune.tune(denoiser, start, residual=recipes["radii"], teacher=teacher, **settings)
    assert result.record["residual"] == "features radii"
    np.testing.assert_allclose(result.schedule.network_times, teacher.network_times)
    torch.testing.assert_close(recipes["radii"](torch.tensor([[3.0, 4.0]])), torch.tensor([[3.0, 4.0, 5.0]]))


@pytest.mark.parametrize("noise", [NOISE, ttune.NoiseSchedule.flow(3.0)], ids=["linear", "flow"])
@pytest.mark.parametrize("final", ["zero", "min"])
@pytest.mark.usefixtures("recipes")
def test_the_spacing_of_the_recipes_ends_above_the_smallest_time(noise: ttune.NoiseSchedule, final: str) -> None:
    times = grid(noise, "cubic", 37, t_start=noise.t_max / 2, final=final)
    assert times[0] == noise.t_max / 2
    assert noise.t_min < times[-2]


def test_the_host_of_the_recipes_passes_the_tuned_times(recipes: dict[str, Any]) -> None:
    denoiser = recipes["wrap"](mixture(NOISE), NOISE)
    start = ttune.Schedule.build(NOISE, "ddim", 4, "linspace")
    schedule = start.replace(network_times=start.network_times * 0.98)
    model, x_T = recipes["apply"](mixture(NOISE), schedule), X_T[:, :2]

    x, t, alpha, sigma = x_T, schedule.times, schedule.alphas, schedule.sigmas
    for i in range(4):  # the host's own DDIM
        epsilon = model(x, torch.full((12,), t[i], dtype=torch.float64))
        x = alpha[i + 1] * (x - sigma[i] * epsilon) / alpha[i] + sigma[i + 1] * epsilon
    torch.testing.assert_close(x, ttune.sample(denoiser, schedule, x_T))
    with pytest.raises(ValueError, match=r"give its sampler schedule\.times"):
        model(x_T, torch.full((12,), 3.0))


@pytest.mark.usefixtures("recipes")
def test_the_metric_of_the_recipes_is_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTUNE_CACHE", str(tmp_path / "cache"))
    denoiser = ttune.Denoiser(lambda x, tau: 0.1 * x, NOISE)
    schedule = ttune.Schedule.build(NOISE, "ddim", 2)

    def points(seeds: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        return torch.ones(len(seeds), 1, 4, 4) * seeds.view(-1, 1, 1, 1) / 100, {}

    features = FeatureExtractor("the first pixel", lambda images: images.flatten(1)[:, :1])
    samples = CachedSamples(denoiser, points, features, 20, 8, 0, tmp_path / "work", progress=False)
    made = ttune.sample(denoiser, schedule, points(torch.arange(20))[0])
    white = Real("white", ArrayPictures("white", np.full((9, 1, 4, 4), 255, np.uint8)))
    (row,) = evaluate(samples, [Candidate("two steps", "base", schedule)], metrics=["mean_shift"], real=white, splits=2)
    entry = row["others"]["mean_shift"]
    assert entry["value"] == pytest.approx(1 - float(made.clamp(-1, 1)[:, 0, 0, 0].mean()), rel=1e-5)
    assert entry["interval"] is not None
    assert "mean_shift (the first pixel)" in print_metrics([row])
