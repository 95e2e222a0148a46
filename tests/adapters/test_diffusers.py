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

LINEAR = ttune.NoiseSchedule.linear()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator())


def bent(schedule: ttune.Schedule, denoiser: ttune.Denoiser | None = None) -> ttune.Schedule:
    """As a tuned one: told fractional times beside the positions."""
    told = 0.93 * schedule.conditioning + 0.01 * schedule.noise.t_max
    return schedule.replace(conditioning=told, model={} if denoiser is None else denoiser.identity())


@dataclass(frozen=True)
class Host:
    """A kind of pipeline: how to make one, to call it for its samples, and to sample the same with ttune."""

    make: Callable[[Path], Any]
    call: Callable[..., Tensor]  # (pipeline, steps) -> samples before the picture
    load: Callable[[Any], ttune.Denoiser]
    x_T: tuple[int, ...]
    conditions: Callable[[], dict[str, Tensor]] = dict


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
    "Flux": Host(
        flux_pipeline, flux_call, ttune.diffusers.load, (2, 16, 16), lambda: pooled_conditions() | {"guidance": torch.full((2,), 3.5)}
    ),
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
    torch.testing.assert_close(tuned, ours, rtol=1e-5, atol=1e-5 * float(ours.abs().max().clamp(min=1)))
    assert (tuned - before).abs().max() > 0.01 * before.abs().max()
    assert torch.equal(kind.call(pipeline, 4), tuned)  # a second run is a new one

    assert ttune.diffusers.remove(pipeline)
    assert pipeline.scheduler is scheduler
    assert [len(m._forward_pre_hooks) for m in pipeline.components.values() if isinstance(m, torch.nn.Module)] == hooks
    assert torch.equal(kind.call(pipeline, 4), before)
    assert not ttune.diffusers.remove(pipeline)
