"""What the code of README.md finds: a small U-Net, and a tiny Stable Diffusion in a folder with its ttune.json. Tunings are short."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

import ttune
from tests.adapters.small import Small, tuned


def given(folder: Path, block: str, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Names for ``block``; the files that it reads are put into ``folder``, and ``ttune.tune`` is made quick."""
    if "StableDiffusionPipeline" in block:
        _stable_diffusion(folder / "path" / "to" / "sd").save(folder / "ttune.json")
    patch.setattr(ttune, "tune", partial(ttune.tune, samples=8, validation_samples=8, iterations=1, search_starts=False, progress=False))
    return {"unet": Small(channels=3, scale=1000.0).float()}


def _stable_diffusion(folder: Path) -> ttune.Schedule:
    """A tiny Stable Diffusion with random weights, saved to ``folder``; a schedule of five steps as a tuning of it would leave it."""
    from tests.adapters import diffusers_models as models
    from tests.adapters.test_diffusers_load import tiny_clip
    from tests.hosts import diffusers

    encoder, tokenizer = tiny_clip()
    made = diffusers().StableDiffusionPipeline(
        unet=models.unet_2d_condition(), vae=models.vae(), text_encoder=encoder, tokenizer=tokenizer,
        scheduler=diffusers().DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    models.saved(made, folder)
    denoiser = ttune.diffusers.load(folder, prompts=["a cat"], guidance_scale=7.5)
    return tuned(denoiser.noise, "dpmpp_2m", 5).replace(model=denoiser.identity())
