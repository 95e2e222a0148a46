"""Fractional times reach the network whole, whichever scheduler a pipeline came with; where they cannot, it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ttune
from tests.adapters import diffusers_models as models
from tests.adapters.test_diffusers import noise, run, sd3_call, sd3_pipeline
from tests.hosts import diffusers

TIMES = (950.5, 700.25, 400.75, 150.5, -1.0)
# diffusers' scheduler -> ttune's name of what it does.
SAMPLERS = {
    "EulerDiscrete": "euler",
    "HeunDiscrete": "heun",
    "DPMSolverMultistep": "dpmpp_2m",
    "DPMSolverSinglestep": "dpmpp_2s",
    "DDPM": "ddpm",
    "LCM": "ddim",
    "TCD": "ddim",
    "DDIM": "ddim",
    "PNDM": "pndm",
    "UniPCMultistep": "unipc",
    "DEISMultistep": "deis",
}
TRUNCATE = ("DPMSolverMultistep", "DPMSolverSinglestep", "DDPM", "LCM", "TCD")
TAKE_NONE = ("DDIM", "PNDM", "UniPCMultistep", "DEISMultistep")


def scheduler(name: str, **more: Any) -> Any:
    own = {"clip_sample": False} if name in ("DDPM", "DDIM", "LCM", "TCD") else {}
    linear = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    return getattr(diffusers(), f"{name}Scheduler")(**linear | own | more)


def pipeline_with(made: Any, folder: Path) -> tuple[Any, list[float]]:
    """A pipeline that came with the scheduler, and what times its network has been passed so far."""
    pipeline = models.loaded("DDPMPipeline", models.saved(diffusers().DDPMPipeline(models.unet_2d(), scheduler("DDPM")), folder))
    pipeline.scheduler = made
    passed: list[float] = []
    pipeline.unet.time_proj.register_forward_pre_hook(lambda module, args: passed.append(float(args[0][0])))
    return pipeline, passed


def tuned(sampler: str, times: Any = TIMES, **more: Any) -> ttune.Schedule:
    schedule = ttune.Schedule.build(ttune.NoiseSchedule.linear(), sampler, len(times) - 1, np.array(times), **more)
    return schedule.replace(network_times=0.95 * schedule.network_times + 0.125)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_tuned_scheduler_keeps_fractions(name: str, tmp_path: Path) -> None:
    pipeline, passed = pipeline_with(scheduler(name), tmp_path)
    schedule = tuned(SAMPLERS[name])
    ttune.diffusers.apply(pipeline, schedule)
    assert pipeline.scheduler.timesteps.dtype == torch.float32
    assert pipeline.scheduler.timesteps.tolist() == pytest.approx(schedule.tableau().times.tolist(), rel=1e-6)
    run(pipeline, schedule.steps, noise(1, 1, 8, 8), seed=1)
    assert passed == pytest.approx(schedule.network_times.tolist(), rel=1e-6)
    assert any(t % 1 for t in passed)


@pytest.mark.parametrize("name", [*TRUNCATE, *TAKE_NONE])
def test_a_scheduler_that_cannot_keep_fractions_is_not_kept(name: str, tmp_path: Path) -> None:
    made = scheduler(name)
    pipeline, _ = pipeline_with(made, tmp_path)
    said = r"it cuts them to whole times: \[950, " if name in TRUNCATE else r"it takes no timesteps|it refuses them"
    with pytest.raises(ValueError, match=rf"keep_scheduler: {name}Scheduler does not have the schedule's times .*{said}"):
        ttune.diffusers.apply(pipeline, tuned(SAMPLERS[name]), keep_scheduler=True)
    assert pipeline.scheduler is made
    assert {"step", "set_timesteps"}.isdisjoint(made.__dict__)


KEPT = {
    "EulerDiscrete": ("EulerDiscrete", {}, {}),
    "HeunDiscrete": ("HeunDiscrete", {}, {}),
    "DDIM, its own grid": ("DDIM", {"timestep_spacing": "trailing"}, {"times": (999.0, 749.0, 499.0, 249.0, -1.0)}),
    "whole times of 2M": ("DPMSolverMultistep", {}, {"times": (950.0, 700.0, 400.0, 150.0, -1.0)}),
}


@pytest.mark.parametrize("case", KEPT)
def test_a_scheduler_that_makes_the_steps_is_kept(case: str, tmp_path: Path) -> None:
    name, settings, more = KEPT[case]
    made = scheduler(name, **settings)
    pipeline, passed = pipeline_with(made, tmp_path)
    schedule = tuned(SAMPLERS[name], lower_order_final=name == "DPMSolverMultistep", **more)
    made.set_timesteps(4)
    before, own = run(pipeline, 4, noise(2, 1, 8, 8)), made.timesteps.clone()
    passed.clear()
    ttune.diffusers.apply(pipeline, schedule, keep_scheduler=True)
    assert pipeline.scheduler is made
    # As its pipelines do: some schedulers keep x / alpha.
    scale = 1.0 if name in ("DDIM", "DPMSolverMultistep") else float(1 / schedule.alphas[0])
    theirs = run(pipeline, 4, scale * noise(2, 1, 8, 8))
    assert passed == pytest.approx(schedule.network_times.tolist(), rel=1e-6)
    denoiser = ttune.diffusers.load(pipeline)
    ours = ttune.sample(denoiser, schedule, noise(2, 1, 8, 8))
    # Their tables are float32, and between whole times sigma / alpha is a straight line.
    torch.testing.assert_close(theirs, ours, rtol=5e-3, atol=5e-3 * float(ours.abs().max()))
    with pytest.raises(ValueError, match="num_inference_steps must be 4, which the schedule was tuned for, got 5"):
        made.set_timesteps(5)
    ttune.diffusers.remove(pipeline)
    assert torch.equal(run(pipeline, 4, noise(2, 1, 8, 8)), before)
    assert torch.equal(made.timesteps, own)


NOT_KEPT = {
    "another sampler": ("DPMSolverMultistep", {}, "ddim", {}),
    "another order at the end": ("EulerDiscrete", {}, "lms", {}),
    "clipping": ("DDIM", {"clip_sample": True, "timestep_spacing": "trailing"}, "ddim", {"times": (999.0, 749.0, 499.0, 249.0, -1.0)}),
    "the last time": ("DDIM", {"set_alpha_to_one": False}, "ddim", {"times": (750.0, 500.0, 250.0, 0.0, -1.0)}),
}


@pytest.mark.parametrize("why", NOT_KEPT)
def test_a_scheduler_that_makes_other_steps_is_not_kept(why: str, tmp_path: Path) -> None:
    name, settings, sampler, more = NOT_KEPT[why]
    whole = {"times": (950.0, 700.0, 400.0, 150.0, -1.0)} | more
    pipeline, _ = pipeline_with(scheduler(name, **settings), tmp_path)
    with pytest.raises(ValueError, match=rf"keep_scheduler: {name}Scheduler as it is does not make the steps of '{sampler}'"):
        ttune.diffusers.apply(pipeline, tuned(sampler, **whole), keep_scheduler=True)


def test_noise_of_ones_own_is_not_kept(tmp_path: Path) -> None:
    pipeline, _ = pipeline_with(scheduler("DDPM"), tmp_path)
    with pytest.raises(ValueError, match="make noise of their own"):
        ttune.diffusers.apply(pipeline, tuned("ddpm", (750.0, 500.0, 250.0, 0.0, -1.0)), keep_scheduler=True)


@pytest.mark.parametrize("keep", [False, True])
def test_flow_matching_keeps_fractions(keep: bool, tmp_path: Path) -> None:
    made = diffusers().FlowMatchEulerDiscreteScheduler()
    pipeline, passed = pipeline_with(made, tmp_path)
    times = np.array([1.0, 0.7105, 0.4053, 0.1505, 0.0])
    schedule = ttune.Schedule.build(ttune.NoiseSchedule.flow(), "euler", 4, times)
    schedule = schedule.replace(network_times=0.95 * schedule.network_times)
    ttune.diffusers.apply(pipeline, schedule, keep_scheduler=keep)
    pipeline.scheduler.set_timesteps(4)
    x = noise(2, 1, 8, 8)
    with torch.no_grad():
        for t in pipeline.scheduler.timesteps:
            x = pipeline.scheduler.step(pipeline.unet(x, t).sample, t, x).prev_sample
    assert passed == pytest.approx((1000 * schedule.network_times).tolist(), rel=1e-6)
    denoiser = ttune.diffusers.load(pipeline)
    ours = ttune.sample(denoiser, schedule, noise(2, 1, 8, 8))
    torch.testing.assert_close(x, ours, rtol=1e-4, atol=1e-4 * float(ours.abs().max()))


def test_a_network_with_a_table_of_times_is_passed_whole_ones(tmp_path: Path) -> None:
    network = models.unet_2d(time_embedding_type="learned", num_train_timesteps=1000)
    pipeline = models.ddpm(tmp_path, network=network, clip_sample=False)
    denoiser = ttune.diffusers.load(tmp_path)
    assert denoiser.integer_time
    schedule = tuned("ddim")
    with pytest.raises(ValueError, match=r"knows whole times only; use schedule\.with_integer_times"):
        ttune.diffusers.apply(pipeline, schedule)
    ttune.diffusers.apply(pipeline, schedule.with_integer_times())
    ours = ttune.sample(denoiser, schedule.with_integer_times(), noise(2, 1, 8, 8))
    torch.testing.assert_close(run(pipeline, 4, noise(2, 1, 8, 8)), ours, rtol=1e-5, atol=1e-5 * float(ours.abs().max()))


def sd3_with(folder: Path, **settings: Any) -> tuple[Any, list[float]]:
    """Stable Diffusion 3 with a scheduler of these settings, and what times its network is passed."""
    pipeline = sd3_pipeline(folder)
    pipeline.scheduler = diffusers().FlowMatchEulerDiscreteScheduler(**settings)
    passed: list[float] = []
    pipeline.transformer.time_text_embed.time_proj.register_forward_pre_hook(lambda module, args: passed.append(float(args[0][0])))
    return pipeline, passed


FLOWS = (
    {"shift": 3.0},
    {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15},
    {"use_dynamic_shifting": True, "time_shift_type": "linear", "base_shift": 1.5, "max_shift": 2.15},
)


@pytest.mark.parametrize("settings", FLOWS, ids=str)
def test_a_flow_scheduler_with_a_shift_is_kept(settings: dict[str, Any], tmp_path: Path) -> None:
    pipeline, passed = sd3_with(tmp_path, **settings)
    scheduler = pipeline.scheduler
    noise_schedule = ttune.diffusers.noise_of(scheduler)
    schedule = ttune.Schedule.build(noise_schedule, "euler", 6, [1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 0.0])
    schedule = schedule.replace(network_times=0.95 * schedule.network_times)
    ttune.diffusers.apply(pipeline, schedule)
    replaced = sd3_call(pipeline, 6)
    passed.clear()
    ttune.diffusers.apply(pipeline, schedule, keep_scheduler=True)
    assert pipeline.scheduler is scheduler
    kept = sd3_call(pipeline, 6)
    assert passed == pytest.approx((1000 * schedule.network_times).tolist(), rel=1e-6)
    torch.testing.assert_close(kept, replaced, rtol=1e-4, atol=1e-5 * float(replaced.abs().max()))
    np.testing.assert_allclose(scheduler.sigmas, schedule.times, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [{"shift_terminal": 0.05}, {"use_karras_sigmas": True}], ids=str)
def test_a_flow_scheduler_that_bends_what_it_is_given_is_not_kept(settings: dict[str, Any], tmp_path: Path) -> None:
    pipeline, _ = sd3_with(tmp_path, **settings)
    schedule = ttune.Schedule.build(ttune.NoiseSchedule.flow(), "euler", 4, [1.0, 0.8, 0.5, 0.2, 0.0])
    with pytest.raises(ValueError, match="keep_scheduler: FlowMatchEulerDiscreteScheduler does not have the schedule's times"):
        ttune.diffusers.apply(pipeline, schedule, keep_scheduler=True)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2s", "kdpm_2"])
def test_the_noise_levels_are_listed_one_per_evaluation(sampler: str) -> None:
    """Pipelines read ``scheduler.sigmas[i]`` at the i-th of ``timesteps`` (Wan); of Heun's it is the list that diffusers' own has."""
    schedule = ttune.Schedule.build(ttune.NoiseSchedule.flow(), sampler, 4, "linspace")
    made = ttune.diffusers.TunedScheduler.of([schedule], diffusers().FlowMatchEulerDiscreteScheduler(), {})
    made.set_timesteps(4)
    assert len(made.sigmas) == len(made.timesteps) + 1
    np.testing.assert_allclose(1000 * made.sigmas[:-1], made.timesteps, rtol=1e-6)
    if sampler == "heun":
        own = diffusers().FlowMatchHeunDiscreteScheduler()
        own.set_timesteps(4)
        assert [float(s) for s in own.sigmas].count(float(own.sigmas[1])) == 2
        assert len(own.sigmas) == len(made.sigmas)


def test_lists_of_a_schedule_are_its_own_with_and_without_the_end() -> None:
    noise = ttune.NoiseSchedule.linear()
    schedules = [ttune.Schedule.build(noise, "euler", k, "linspace") for k in (10, 11)]
    made = ttune.diffusers.TunedScheduler.of(schedules, scheduler("EulerDiscrete"), {})
    for schedule in schedules:
        for given in (schedule.sigmas, schedule.sigmas[:-1]):
            made.set_timesteps(sigmas=given.tolist())
            assert made.num_inference_steps == schedule.steps
        made.set_timesteps(timesteps=schedule.times[:-1].tolist())
        assert made.num_inference_steps == schedule.steps
    with pytest.raises(ValueError, match="sigmas must be the schedule's own"):
        made.set_timesteps(sigmas=np.linspace(0.9, 0.01, 10).tolist())


@pytest.mark.parametrize("last", [1 / 6, 1e-3])
def test_the_even_grids_that_pipelines_pass_are_nobodys_choice(last: float) -> None:
    schedule = ttune.Schedule.build(ttune.NoiseSchedule.flow(3.0), "euler", 6, "linspace")
    made = ttune.diffusers.TunedScheduler.of([schedule], diffusers().FlowMatchEulerDiscreteScheduler(shift=3.0), {})
    made.set_timesteps(sigmas=np.linspace(1.0, last, 6))
    assert made.timesteps.tolist() == pytest.approx((1000 * schedule.times[:-1]).tolist(), rel=1e-6)


def test_noise_is_added_at_the_level_of_a_time_that_is_passed_without_its_shift() -> None:
    """CogView4's network is passed times without the shift of the noise levels."""
    schedule, even = ttune.Schedule.build(ttune.NoiseSchedule.flow(), "euler", 4, [1.0, 0.9, 0.7, 0.4, 0.0]), np.linspace(1.0, 0.25, 4)
    base = diffusers().FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear")
    made = ttune.diffusers.TunedScheduler.of([schedule], base, {})
    made.set_timesteps(4, timesteps=1000 * even, sigmas=even, mu=3.0)
    assert made.timesteps[1] == pytest.approx(750.0)  # 3 t / (1 + 2 t) = 0.9
    assert [made.index_for_timestep(t) for t in made.timesteps] == [0, 1, 2, 3]
    added = made.scale_noise(torch.zeros(4, 1), made.timesteps, torch.ones(4, 1))
    assert added.flatten().tolist() == pytest.approx(schedule.sigmas[:-1].tolist(), rel=1e-6)
