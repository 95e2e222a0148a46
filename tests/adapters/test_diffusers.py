"""Unmodified pipelines of diffusers on tuned schedules give what ttune's own loop does, and are themselves again afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ttune
from tests.adapters import diffusers_models as models
from tests.hosts import diffusers
from ttune.samplers import SAMPLERS

LINEAR = ttune.NoiseSchedule.linear()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator())


def bent(schedule: ttune.Schedule, denoiser: ttune.Denoiser | None = None) -> ttune.Schedule:
    """As a tuned one: with fractional network times beside the times."""
    network_times = 0.93 * schedule.network_times + 0.01 * schedule.noise.t_max
    return schedule.replace(network_times=network_times, model={} if denoiser is None else denoiser.identity())


@dataclass(frozen=True)
class Host:
    """A kind of pipeline: how to make one, to call it for its samples, and to sample the same with ttune."""

    make: Callable[[Path], Any]
    call: Callable[..., Tensor]  # (pipeline, steps) -> samples before the picture
    load: Callable[[Any], ttune.Denoiser]
    x_T: tuple[int, ...]
    conditions: Callable[[], dict[str, Tensor]] = dict


def assert_same(theirs: Tensor, ours: Tensor) -> None:
    """To 1e-5 of the largest element: networks of random weights make large ones."""
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5 * max(1.0, float(ours.abs().max())))


def pixels(images: Any) -> Tensor:
    return torch.as_tensor(images).permute(0, 3, 1, 2) * 2 - 1


def ddpm_call(pipeline: Any, steps: int, **more: Any) -> Tensor:
    return pixels(pipeline(batch_size=2, num_inference_steps=steps, output_type="np", generator=generator(), **more).images)


def dit_pipeline(folder: Path) -> Any:
    scheduler = diffusers().DDIMScheduler(clip_sample=False)
    made = diffusers().DiTPipeline(transformer=models.dit(), vae=models.vae(), scheduler=scheduler)
    return models.loaded("DiTPipeline", models.saved(made, folder))


def dit_call(pipeline: Any, steps: int) -> Tensor:
    """The latents: the VAE sees them last."""
    seen = []
    handle = pipeline.vae.post_quant_conv.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        pipeline([3, 5], guidance_scale=2.0, num_inference_steps=steps, generator=generator())
    finally:
        handle.remove()
    return seen[0] * pipeline.vae.config.scaling_factor


TEXT = {"prompt_embeds": torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(5)) * 2}
NULL = {"negative_prompt_embeds": torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(6)) * 2}
POOLED = {"pooled_prompt_embeds": torch.randn(2, 16, generator=torch.Generator().manual_seed(7)) * 2}
NULL_POOLED = {"negative_pooled_prompt_embeds": torch.randn(2, 16, generator=torch.Generator().manual_seed(8)) * 2}


def sd_pipeline(folder: Path, kind: str = "StableDiffusionPipeline", **parts: Any) -> Any:
    pytest.importorskip("transformers")
    scheduler = diffusers().PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1)
    absent = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    made = getattr(diffusers(), kind)(
        unet=models.unet_2d_condition(), vae=models.vae(), scheduler=scheduler, requires_safety_checker=False, **absent, **parts
    )
    return models.loaded(kind, models.saved(made, folder), **absent)


def sd_call(pipeline: Any, steps: int, guidance_scale: float = 3.0, **more: Any) -> Tensor:
    return pipeline(
        **TEXT, **NULL, height=16, width=16, guidance_scale=guidance_scale, num_inference_steps=steps, output_type="latent",
        generator=generator(), **more,
    ).images  # fmt: skip


def sd_load(source: Any) -> ttune.Denoiser:
    null = {"encoder_hidden_states": NULL["negative_prompt_embeds"]}
    return ttune.diffusers.load(source, guidance_scale=3.0, null=null)


def sd3_pipeline(folder: Path) -> Any:
    pytest.importorskip("transformers")
    absent = dict.fromkeys(f"{kind}{i}" for kind in ("text_encoder", "tokenizer") for i in ("", "_2", "_3"))
    scheduler = diffusers().FlowMatchEulerDiscreteScheduler(shift=3.0)
    made = diffusers().StableDiffusion3Pipeline(transformer=models.sd3(), vae=models.vae(), scheduler=scheduler, **absent)
    return models.loaded("StableDiffusion3Pipeline", models.saved(made, folder), **absent)


def sd3_call(pipeline: Any, steps: int) -> Tensor:
    return pipeline(
        **TEXT, **NULL, **POOLED, **NULL_POOLED, height=16, width=16, guidance_scale=3.0, num_inference_steps=steps, output_type="latent",
        generator=generator(),
    ).images  # fmt: skip


def sd3_load(source: Any) -> ttune.Denoiser:
    null = {
        "encoder_hidden_states": NULL["negative_prompt_embeds"],
        "pooled_projections": NULL_POOLED["negative_pooled_prompt_embeds"],
    }
    return ttune.diffusers.load(source, guidance_scale=3.0, null=null)


def pooled_conditions() -> dict[str, Tensor]:
    return {"encoder_hidden_states": TEXT["prompt_embeds"], "pooled_projections": POOLED["pooled_prompt_embeds"]}


def flux_pipeline(folder: Path) -> Any:
    pytest.importorskip("transformers")
    absent = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    scheduler = diffusers().FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    made = diffusers().FluxPipeline(transformer=models.flux(), vae=models.vae(4), scheduler=scheduler, **absent)
    return models.loaded("FluxPipeline", models.saved(made, folder), **absent)


def flux_call(pipeline: Any, steps: int, **more: Any) -> Tensor:
    return pipeline(
        **TEXT, **POOLED, height=16, width=16, guidance_scale=3.5, num_inference_steps=steps, output_type="latent", generator=generator(),
        **more,
    ).images  # fmt: skip


def flux_load(source: Any) -> ttune.Denoiser:
    return ttune.diffusers.load(source, height=16, width=16)


HOSTS = {
    "DDPM": Host(models.ddpm, ddpm_call, ttune.diffusers.load, (2, 1, 8, 8)),
    "DDIM": Host(lambda folder: models.ddpm(folder, "DDIMPipeline"), ddpm_call, ttune.diffusers.load, (2, 1, 8, 8)),
    "DiT": Host(
        dit_pipeline,
        dit_call,
        lambda source: ttune.diffusers.load(source, guidance_scale=2.0),
        (2, 4, 8, 8),
        lambda: {"class_labels": torch.tensor([3, 5])},
    ),
    "StableDiffusion": Host(sd_pipeline, sd_call, sd_load, (2, 4, 8, 8), lambda: {"encoder_hidden_states": TEXT["prompt_embeds"]}),
    "StableDiffusion3": Host(sd3_pipeline, sd3_call, sd3_load, (2, 4, 8, 8), pooled_conditions),
    "Flux": Host(flux_pipeline, flux_call, flux_load, (2, 16, 16), lambda: pooled_conditions() | {"guidance": torch.full((2,), 3.5)}),
}


def start(host: Host, pipeline: Any) -> Tensor:
    """The noise that the pipeline begins with, drawn as it draws it."""
    if isinstance(pipeline, diffusers().FluxPipeline):
        return pipeline._pack_latents(noise(2, 4, 8, 8), 2, 4, 8, 8)
    return noise(*host.x_T)


def schedule_for(denoiser: ttune.Denoiser, sampler: str = "dpmpp_2m", steps: int = 4, t_start: float | None = None) -> ttune.Schedule:
    t_start = t_start if t_start is None else t_start * denoiser.noise.t_max
    return bent(ttune.Schedule.build(denoiser.noise, sampler, steps, "linspace", t_start=t_start), denoiser)


@pytest.mark.parametrize("t_start", [None, 0.8], ids=["from T", "from .8 T"])
@pytest.mark.parametrize("host", HOSTS)
def test_an_unmodified_pipeline_gives_what_ttune_samples(host: str, t_start: float | None, tmp_path: Path) -> None:
    kind = HOSTS[host]
    pipeline = kind.make(tmp_path / "model")
    denoiser = kind.load(tmp_path / "model")  # its own copy of the weights, from the folder
    schedule = schedule_for(denoiser, t_start=t_start)
    before = kind.call(pipeline, 4)
    scheduler, hooks = (
        pipeline.scheduler,
        [len(m._forward_pre_hooks) for m in pipeline.components.values() if isinstance(m, torch.nn.Module)],
    )

    ttune.diffusers.apply(pipeline, schedule)
    tuned = kind.call(pipeline, 4)
    ours = ttune.sample(denoiser, schedule, start(kind, pipeline), conditions=kind.conditions())
    ours = ours.clamp(-1, 1) if host in ("DDPM", "DDIM") else ours  # what a picture keeps
    assert_same(tuned, ours)
    assert (tuned - before).abs().max() > 0.01 * before.abs().max()
    assert torch.equal(kind.call(pipeline, 4), tuned)  # a second run is a new one

    assert ttune.diffusers.remove(pipeline)
    assert pipeline.scheduler is scheduler
    assert [len(m._forward_pre_hooks) for m in pipeline.components.values() if isinstance(m, torch.nn.Module)] == hooks
    assert torch.equal(kind.call(pipeline, 4), before)
    assert not ttune.diffusers.remove(pipeline)


@pytest.fixture(scope="module")
def pixel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ttune.Denoiser]:
    """A pipeline that nothing bounds, and its denoiser."""
    folder = tmp_path_factory.mktemp("pixel")
    pipeline = models.ddpm(folder, clip_sample=False)
    return pipeline, ttune.diffusers.load(folder)


def run(pipeline: Any, steps: int, x: Tensor, seed: int | None = None) -> Tensor:
    """A pipeline's loop, without what it does to the picture: the state at the end."""
    pipeline.scheduler.set_timesteps(steps)
    draws = None if seed is None else torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for t in pipeline.scheduler.timesteps:
            output = pipeline.unet(pipeline.scheduler.scale_model_input(x, t), t).sample
            x = pipeline.scheduler.step(output, t, x, **({} if draws is None else {"generator": draws})).prev_sample
    return x


@pytest.mark.parametrize("sampler", [*SAMPLERS, "ddim eta=1", "ddpm fixed_large", "heun final=min"])
def test_every_sampler_is_a_scheduler(sampler: str, pixel: tuple[Any, ttune.Denoiser]) -> None:
    pipeline, denoiser = pixel
    name, _, option = sampler.partition(" ")
    options = {"ddim eta=1": {"eta": 1.0}, "ddpm fixed_large": {"variance": "fixed_large"}}.get(sampler, {})
    final = "min" if option == "final=min" else "zero"
    steps = 6 if name == "dpm_solver_fast" else 3
    schedule = bent(ttune.Schedule.build(denoiser.noise, name, steps, "linspace", final=final, options=options), denoiser)
    ttune.diffusers.apply(pipeline, schedule)
    try:
        theirs = run(pipeline, schedule.steps, noise(2, 1, 8, 8), seed=11)
        assert len(pipeline.scheduler.timesteps) == len(schedule.network_times)
    finally:
        ttune.diffusers.remove(pipeline)
    seeds = torch.randint(2**62, (2,), dtype=torch.int64, generator=torch.Generator().manual_seed(11))
    ours = ttune.sample(denoiser, schedule, noise(2, 1, 8, 8), seeds=seeds)
    assert_same(theirs, ours)


def test_one_generator_per_sample_gives_each_the_same_noise_in_any_batch(pixel: tuple[Any, ttune.Denoiser]) -> None:
    pipeline, denoiser = pixel
    schedule = bent(ttune.Schedule.build(denoiser.noise, "euler_ancestral", 3, "linspace"))
    ttune.diffusers.apply(pipeline, schedule)
    try:
        x = noise(2, 1, 8, 8)
        both, alone = [], []
        for batch, made in (([0, 1], both), ([1], alone)):
            pipeline.scheduler.set_timesteps(3)
            state, draws = x[batch], [torch.Generator().manual_seed(i) for i in batch]
            for t in pipeline.scheduler.timesteps:
                with torch.no_grad():
                    output = pipeline.unet(state, t).sample
                state = pipeline.scheduler.step(output, t, state, generator=draws, return_dict=False)[0]
            made.append(state)
        assert_same(both[0][1:], alone[0])
        pipeline.scheduler.set_timesteps(3)
        pipeline.unet(x, pipeline.scheduler.timesteps[0])
        with pytest.raises(ValueError, match="generator must be one, or one per sample, 2, got 1"):
            pipeline.scheduler.step(x, pipeline.scheduler.timesteps[0], x, generator=[torch.Generator()])
    finally:
        ttune.diffusers.remove(pipeline)


def test_several_budgets_at_once(pixel: tuple[Any, ttune.Denoiser], tmp_path: Path) -> None:
    pipeline, denoiser = pixel
    schedules = {k: bent(ttune.Schedule.build(denoiser.noise, "ddim", k)) for k in (3, 4)}
    ttune.save_schedules(schedules, tmp_path / "several.json")
    ttune.diffusers.apply(pipeline, tmp_path / "several.json")
    try:
        for k, schedule in schedules.items():
            ours = ttune.sample(denoiser, schedule, noise(2, 1, 8, 8))
            assert_same(run(pipeline, k, noise(2, 1, 8, 8)), ours)
        with pytest.raises(ValueError, match="num_inference_steps must be 3 or 4, which this schedule was tuned for, got 50"):
            pipeline(num_inference_steps=50)
    finally:
        ttune.diffusers.remove(pipeline)


def test_a_denoiser_of_an_applied_pipeline_is_passed_its_own_times(pixel: tuple[Any, ttune.Denoiser]) -> None:
    pipeline, denoiser = pixel
    shared = ttune.diffusers.load(pipeline)
    schedule = bent(ttune.Schedule.build(denoiser.noise, "ddim", 3))
    ttune.diffusers.apply(pipeline, schedule)
    try:
        assert_same(ttune.sample(shared, schedule, noise(2, 1, 8, 8)), ttune.sample(denoiser, schedule, noise(2, 1, 8, 8)))
    finally:
        ttune.diffusers.remove(pipeline)


WRONG = {
    "steps": (lambda p: p(num_inference_steps=5), ValueError, r"num_inference_steps must be 3, which this schedule was tuned for, got 5"),
    "default steps": (
        lambda p: p(),
        ValueError,
        r"num_inference_steps must be 3, .* got 1000; write pipe\(\.\.\., num_inference_steps=3\)",
    ),
    "time": (lambda p: p.unet(noise(1, 1, 8, 8), 998), ValueError, r"timestep must be one of the schedule's times, got 998"),
    "truncated": (
        lambda p: p.unet(noise(1, 1, 8, 8), p.scheduler.timesteps[1].long()),
        ValueError,
        r"timestep must be one of the schedule's times, got \d+; .* fractions included",
    ),
    "timesteps": (lambda p: p.scheduler.set_timesteps(timesteps=[9.0, 8.0, 7.0]), ValueError, r"timesteps must be the schedule's own"),
    "eta": (
        lambda p: p.scheduler.step(noise(1, 1, 8, 8), p.scheduler.timesteps[0], noise(1, 1, 8, 8), eta=0.5),
        ValueError,
        r"eta must be the schedule's own, 0, got 0\.5",
    ),
    "not passed": (
        lambda p: p.scheduler.step(noise(1, 1, 8, 8), p.scheduler.timesteps[0], noise(1, 1, 8, 8)),
        RuntimeError,
        r"no network was passed 939\.06 instead of 999",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_would_not_be_the_tuned_sampling_raises(what: str, pixel: tuple[Any, ttune.Denoiser]) -> None:
    pipeline, denoiser = pixel
    call, kind, message = WRONG[what]
    ttune.diffusers.apply(pipeline, bent(ttune.Schedule.build(denoiser.noise, "ddim", 3, "log_snr")))
    try:
        with pytest.raises(kind, match=message):
            call(pipeline)
    finally:
        ttune.diffusers.remove(pipeline)


def test_a_schedule_of_another_model_is_refused(pixel: tuple[Any, ttune.Denoiser]) -> None:
    pipeline, denoiser = pixel
    good = ttune.Schedule.build(denoiser.noise, "ddim", 3).replace(model=denoiser.identity())
    refused = {
        "noise schedule": good.replace(noise=ttune.NoiseSchedule.cosine()),
        "prediction_type is 'epsilon', the schedule was tuned for 'sample'": good.replace(model={"prediction_type": "sample"}),
        "parameter_shapes": good.replace(model=good.model | {"parameter_shapes": "0"}),
        "times per sample": good.replace(shift=ttune.Shift(100.0, 100.0)),
        "variants": good.replace(variants=(0, 1, 0)),
        "noise before the first evaluation": ttune.Schedule.build(
            denoiser.noise, "edm_heun", 3, "linspace", options={"s_churn": 1.0}, t_start=900.0
        ),
        "guidance that changes": good.replace(model=good.model | {"guidance_scale": [1.0, 2.0, 3.0]}),
    }
    for message, schedule in refused.items():
        with pytest.raises(ValueError, match=message):
            ttune.diffusers.apply(pipeline, schedule)
        assert not ttune.diffusers.remove(pipeline)


def test_a_refused_schedule_leaves_the_one_before_in_place(pixel: tuple[Any, ttune.Denoiser]) -> None:
    pipeline, denoiser = pixel
    ttune.diffusers.apply(pipeline, bent(ttune.Schedule.build(denoiser.noise, "ddim", 3)))
    tuned = pipeline.scheduler
    with pytest.raises(ValueError, match="noise schedule"):
        ttune.diffusers.apply(pipeline, ttune.Schedule.build(ttune.NoiseSchedule.cosine(), "ddim", 3))
    assert pipeline.scheduler is tuned
    assert run(pipeline, 3, noise(1, 1, 8, 8)).isfinite().all()
    assert ttune.diffusers.remove(pipeline)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_network_is_passed_the_same(in_place: bool, tmp_path: Path) -> None:
    pipeline = models.ddpm(tmp_path, clip_sample=False)
    denoiser = ttune.diffusers.load(tmp_path)
    schedule = bent(ttune.Schedule.build(denoiser.noise, "dpmpp_2m", 3, "log_snr"), denoiser)
    if in_place:
        pipeline.unet.compile(backend="eager")
    else:
        pipeline.unet = torch.compile(pipeline.unet, backend="eager")
    ttune.diffusers.apply(pipeline, schedule)
    for _ in range(2):
        assert_same(run(pipeline, 3, noise(2, 1, 8, 8)), ttune.sample(denoiser, schedule, noise(2, 1, 8, 8)))


def test_clipping_is_the_tuned_one_and_noise_learned_where_the_model_learned_it(tmp_path: Path) -> None:
    """A DDPM with learned variance: DDPMPipeline hands its scheduler both halves of the output."""
    pipeline = models.ddpm(tmp_path, network=models.unet_2d(out_channels=2), variance_type="learned_range")
    denoiser = ttune.diffusers.load(tmp_path)
    assert (denoiser.clip_sample, denoiser.learned_variance) == (1.0, True)
    options = {"variance": "learned_range"}
    schedule = bent(ttune.Schedule.build(denoiser.noise, "ddpm", 3, "linspace", options=options), denoiser)
    ttune.diffusers.apply(pipeline, schedule)
    theirs = run(pipeline, 3, noise(2, 1, 8, 8), seed=4)
    seeds = torch.randint(2**62, (2,), dtype=torch.int64, generator=torch.Generator().manual_seed(4))
    ours = ttune.sample(denoiser, schedule, noise(2, 1, 8, 8), seeds=seeds)
    assert_same(theirs, ours)
    assert theirs.abs().max() <= 1


def test_controlnet_is_passed_the_same_time(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(1)
    controlnet = models.scrambled(
        diffusers().ControlNetModel.from_unet(models.unet_2d_condition(), conditioning_embedding_out_channels=(4, 8))
    )
    pipeline = sd_pipeline(tmp_path, "StableDiffusionControlNetPipeline", controlnet=controlnet)
    passed: dict[str, list[float]] = {"unet": [], "controlnet": []}
    for name, times in passed.items():
        getattr(pipeline, name).time_proj.register_forward_pre_hook(lambda module, args, times=times: times.append(float(args[0][0])))
    noise_schedule = ttune.diffusers.noise_of(pipeline.scheduler)
    schedule = bent(ttune.Schedule.build(noise_schedule, "dpmpp_2m", 4, "log_snr"))
    ttune.diffusers.apply(pipeline, schedule)
    image = torch.rand(2, 3, 16, 16, generator=generator())
    tuned = sd_call(pipeline, 4, image=image)
    assert tuned.isfinite().all()
    assert passed["controlnet"] == passed["unet"] == pytest.approx(schedule.network_times.tolist())
    ttune.diffusers.remove(pipeline)
    plain = sd_call(pipeline, 4, image=image)
    assert not torch.equal(plain, tuned)


def test_guidance_other_than_the_tuned_is_refused(tmp_path: Path) -> None:
    pipeline = sd_pipeline(tmp_path)
    denoiser = sd_load(pipeline)
    schedule = schedule_for(denoiser)
    assert schedule.model["guidance_scale"] == 3.0
    ttune.diffusers.apply(pipeline, schedule)
    for scale, has in ((7.5, "7.5"), (1.0, "1")):
        with pytest.raises(ValueError, match=rf"guidance_scale must be 3 \(guidance_rescale 0\), .* got {has} \(0\)"):
            sd_call(pipeline, 4, guidance_scale=scale)
    with pytest.raises(ValueError, match=r"guidance_rescale 0\), .* got 3 \(0\.5\)"):
        sd_call(pipeline, 4, guidance_rescale=0.5)
    ttune.diffusers.apply(pipeline, schedule, check_guidance=False)
    assert sd_call(pipeline, 4, guidance_scale=7.5).isfinite().all()


def test_true_guidance_of_two_calls_a_step(tmp_path: Path) -> None:
    pipeline = flux_pipeline(tmp_path)
    denoiser = flux_load(pipeline)
    schedule = schedule_for(denoiser)
    ttune.diffusers.apply(pipeline, schedule)
    theirs = flux_call(pipeline, 4, true_cfg_scale=2.0, **NULL, **NULL_POOLED)
    # The same by ttune's guidance, in two calls.
    null = {"encoder_hidden_states": NULL["negative_prompt_embeds"], "pooled_projections": NULL_POOLED["negative_pooled_prompt_embeds"]}
    denoiser.guidance = ttune.ClassifierFree(2.0, null, batched=False)
    ours = ttune.sample(denoiser, schedule.replace(model={}), start(HOSTS["Flux"], pipeline), conditions=HOSTS["Flux"].conditions())
    assert_same(theirs, ours)


def test_image_to_image_starts_in_the_middle(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pipeline = sd_pipeline(tmp_path)
    denoiser = ttune.diffusers.load(pipeline, conditions={"encoder_hidden_states": TEXT["prompt_embeds"]})
    schedule = schedule_for(denoiser)
    ttune.diffusers.apply(pipeline, schedule)
    again = diffusers().StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    again.set_progress_bar_config(disable=True)
    latents = noise(2, 4, 8, 8)
    made = again(
        **TEXT, image=latents, strength=0.5, guidance_scale=1.0, num_inference_steps=4, output_type="latent", generator=generator()
    ).images  # fmt: skip
    part = schedule.part(2)
    x = float(part.alphas[0]) * latents + float(part.sigmas[0]) * noise(2, 4, 8, 8)
    ours = ttune.sample(denoiser, part, x, conditions={"encoder_hidden_states": TEXT["prompt_embeds"]}, from_state=True)
    assert_same(made, ours)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tells_times_in_full(dtype: torch.dtype, pixel: tuple[Any, ttune.Denoiser], tmp_path: Path) -> None:
    pipeline = models.ddpm(tmp_path, clip_sample=False).to(dtype)
    passed: list[Tensor] = []
    pipeline.unet.time_proj.register_forward_pre_hook(lambda module, args: passed.append(args[0]))
    schedule = bent(ttune.Schedule.build(LINEAR, "dpmpp_2m", 3, "log_snr"))
    ttune.diffusers.apply(pipeline, schedule)
    assert run(pipeline, 3, noise(2, 1, 8, 8).to(dtype)).dtype == dtype
    assert [float(t[0]) for t in passed] == pytest.approx(schedule.network_times.tolist(), rel=1e-6)
    assert passed[0].dtype == torch.float32
