"""Latents to pictures as the configuration of the VAE says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.adapters import diffusers_models as models
from ttune.adapters.diffusers.vae_decoder import Decoder


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


def test_a_vae_that_the_memory_does_not_hold_decodes_fewer_at_a_time() -> None:
    vae, seen = models.vae(), []
    decode, z = vae.decode, torch.randn(6, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    wanted = Decoder(lambda: vae)(z)

    def little(latents: torch.Tensor, **options: Any) -> Any:
        seen.append(len(latents))
        if len(latents) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return decode(latents, **options)

    vae.decode = little
    with pytest.warns(RuntimeWarning, match="4 samples in one call of the VAE: going on with 2 at a time; a smaller batch of the decoder"):
        found = Decoder(lambda: vae)(z)
    torch.testing.assert_close(found, wanted)
    assert seen == [4, 2, 2, 2]
