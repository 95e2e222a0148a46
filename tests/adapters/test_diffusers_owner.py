"""A schedule lies on one pipeline: refused ones change nothing, copies and sharers are distinguished, nothing is kept alive."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import ttune
from tests.adapters import diffusers_models as models
from tests.hosts import diffusers

WHOLE = (950.0, 700.0, 400.0, 150.0, -1.0)


def tuned(sampler: str = "ddim", times: tuple[float, ...] = WHOLE) -> ttune.Schedule:
    noise = ttune.NoiseSchedule.linear()
    schedule = ttune.Schedule.build(noise, sampler, len(times) - 1, list(times))
    return schedule.replace(network_times=0.95 * schedule.network_times)


def images(pipeline: Any, steps: int = 4) -> torch.Tensor:
    made = pipeline(batch_size=1, num_inference_steps=steps, output_type="np", generator=torch.manual_seed(0)).images
    return torch.from_numpy(made)


def hooks(pipeline: Any) -> int:
    return len(pipeline.unet._forward_pre_hooks)


def test_a_refused_keep_scheduler_leaves_the_schedule_before_it(tmp_path: Path) -> None:
    pipeline = models.ddpm(tmp_path, clip_sample=False)
    ttune.diffusers.apply(pipeline, tuned())
    before, scheduler = images(pipeline), pipeline.scheduler
    with pytest.raises(ValueError, match="does not make the steps"):
        ttune.diffusers.apply(pipeline, tuned("dpmpp_2m"), keep_scheduler=True)
    assert pipeline.scheduler is scheduler
    assert torch.equal(images(pipeline), before)


def test_a_pipeline_is_freed_after_apply(tmp_path: Path) -> None:
    pipeline = models.ddpm(tmp_path, clip_sample=False)
    ttune.diffusers.apply(pipeline, tuned())
    alive = weakref.ref(pipeline)
    network = pipeline.unet
    del pipeline
    gc.collect()
    assert alive() is None
    again = diffusers().DDPMPipeline(network, diffusers().DDPMScheduler(clip_sample=False))
    ttune.diffusers.apply(again, tuned())  # what the first left on the network is taken off
    images(again)
    assert hooks(again) == 1


def test_a_second_pipeline_on_one_network_is_refused(tmp_path: Path) -> None:
    pipeline = models.ddpm(tmp_path, clip_sample=False)
    sharer = diffusers().DDPMPipeline(pipeline.unet, diffusers().DDPMScheduler(clip_sample=False))
    ttune.diffusers.apply(pipeline, tuned())
    before = images(pipeline)
    with pytest.raises(ValueError, match="its unet is shared with another pipeline that has a schedule applied"):
        ttune.diffusers.apply(sharer, tuned())
    assert not ttune.diffusers.remove(sharer)
    assert torch.equal(images(pipeline), before)
    ttune.diffusers.remove(pipeline)
    ttune.diffusers.apply(sharer, tuned())
    assert torch.equal(images(sharer), before)


def test_a_copy_of_an_applied_pipeline_can_be_cleaned(tmp_path: Path) -> None:
    pipeline = models.ddpm(tmp_path, clip_sample=False)
    untuned = images(pipeline)
    ttune.diffusers.apply(pipeline, tuned())
    before, copied, third = images(pipeline), copy.deepcopy(pipeline), copy.deepcopy(pipeline)
    assert ttune.diffusers.remove(copied)
    assert hooks(copied) == 0
    torch.testing.assert_close(images(copied), untuned)
    ttune.diffusers.apply(third, tuned())
    assert hooks(third) == 1
    torch.testing.assert_close(images(third), before)
    torch.testing.assert_close(images(pipeline), before)


@pytest.mark.parametrize("spacing", ["linspace", "leading"])
def test_a_kept_scheduler_must_start_with_the_noise_of_the_schedule(spacing: str, tmp_path: Path) -> None:
    pipeline = models.ddpm(tmp_path, clip_sample=False)
    settings = {k: v for k, v in pipeline.scheduler.config.items() if k.startswith("beta")}
    pipeline.scheduler = diffusers().EulerDiscreteScheduler(**settings, timestep_spacing=spacing)
    low = tuned("euler", (400.0, 300.0, 150.0, 50.0, -1.0))
    if spacing == "linspace":  # its noise is sigma, not sqrt(1 + sigma^2)
        with pytest.raises(ValueError, match=r"starts with noise 0\.\d+ times as large as the schedule's"):
            ttune.diffusers.apply(pipeline, low, keep_scheduler=True)
        assert hooks(pipeline) == 0
    else:
        ttune.diffusers.apply(pipeline, low, keep_scheduler=True)
        assert hooks(pipeline) == 1
