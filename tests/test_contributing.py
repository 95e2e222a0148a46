"""The recipes of CONTRIBUTING.md do what they say."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import ttune
from ttune.noise.grids import GRIDS

RECIPES = re.findall(r"```python\n(.*?)```", (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(), re.DOTALL)


@pytest.fixture
def registries() -> Iterator[None]:
    """A recipe's entry does not outlive its test."""
    before = [(registry, dict(registry)) for registry in (ttune.SAMPLERS, GRIDS)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


@pytest.mark.usefixtures("registries")
def test_a_sampler_and_a_grid_of_the_recipes_work_together() -> None:
    for recipe in RECIPES:
        exec(recipe, {})
    noise = ttune.NoiseSchedule.linear()
    schedule = ttune.Schedule.build(noise, "half_way", 4, "cubic")
    np.testing.assert_allclose(schedule.times[:-1], 999 * np.array([1, 0.75, 0.5, 0.25]) ** 3)
    denoiser = ttune.Denoiser(lambda x, tau: 0.1 * x, noise)
    x_T = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reference = schedule.replace(sampler="ddim")
    torch.testing.assert_close(ttune.sample(denoiser, schedule, x_T), ttune.sample(denoiser, reference, x_T))
