"""What the code on docs/how-to/hosts.md finds: the host, and small networks in the places of the reader's own."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ttune
from tests.adapters.small import Small, tuned

VP = ttune.NoiseSchedule.scaled_linear()


def given(page: Path, folder: Path) -> dict[str, Any]:
    """Names for the blocks of ``page``; the files that they read are put into ``folder``."""
    if page.name != "hosts.md":
        return {}
    # Skips where a host is not installed, so not at the top.
    from tests.adapters import edm_convention, k_diffusion_modules, test_guided_diffusion, test_latent_diffusion, test_onnx

    torch.manual_seed(0)
    sampling, external, layers = k_diffusion_modules.modules()
    (folder / "unet.onnx").write_bytes(test_onnx.model())
    tuned(VP, "dpmpp_2m", 5).save(folder / "ttune.json")
    tuned(ttune.NoiseSchedule.edm(), "heun", 5).save(folder / "edm.json")
    latent = test_latent_diffusion.Latent()
    diffusion = test_guided_diffusion.diffusion()
    tuned(ttune.latent_diffusion.noise(latent), "ddim", 5).save(folder / "ldm.json")
    tuned(ttune.guided_diffusion.noise(diffusion), "ddim", 5).save(folder / "guided.json")
    tuned(ttune.NoiseSchedule.linear(), "dpmpp_2m", 5).save(folder / "onnx.json")
    return {
        "K": types.SimpleNamespace(sampling=sampling, external=external, layers=layers),
        "unet": Small(scale=1000, dtype=torch.float32),
        "alphas_cumprod": torch.from_numpy(VP.alpha(np.arange(1000.0)) ** 2).float(),
        "net": edm_convention.EDMPrecond(torch.float32),
        "edm_sampler": edm_convention.edm_sampler,
        "model": Small(scale=1000, dtype=torch.float32),
        "diffusion": diffusion,
        "latent_model": latent,
        "x_T": torch.randn(3, 2, 6, 6),
        "c": torch.tensor([1, 2, 3]),
        "uc": torch.zeros(3, dtype=torch.long),
    }
