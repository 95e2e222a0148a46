"""Latents to pictures as the configuration of the VAE says."""

from __future__ import annotations

import copy

import torch

from tests.adapters import diffusers_models as models
from ttune.adapters.diffusers.picture import Decoder


def test_latents_have_the_mean_and_deviation_of_the_configuration() -> None:
    vae = models.vae()
    mean, std = torch.tensor([0.5, -0.5, 0.1, 0.0]), torch.tensor([2.0, 1.0, 0.5, 3.0])
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = z * std[:, None, None] / vae.config.scaling_factor + mean[:, None, None]
        theirs = vae.decode(latents, return_dict=False)[0].clamp(-1, 1)
    torch.testing.assert_close(Decoder(lambda: vae)(z), theirs)


def test_a_half_precision_vae_that_would_overflow_is_decoded_in_float32() -> None:
    half = models.vae().half()
    half.register_to_config(force_upcast=True)
    with torch.no_grad():
        half.decoder.conv_in.weight.mul_(3e4)
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    wide = Decoder(lambda: copy.deepcopy(half).float())(z)
    assert wide.isfinite().all()
    torch.testing.assert_close(Decoder(lambda: half)(z), wide)
