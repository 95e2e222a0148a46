"""From a sampler's samples to the pictures that are judged: those of a latent model are decoded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ttune.network.denoiser import Denoiser
from ttune.network.identity import digest_of_weights

LATENTS = "latents"


@torch.no_grad()
def pictures_of(denoiser: Denoiser, x: Tensor) -> Tensor:
    """What :attr:`ttune.Denoiser.decode` makes of the samples ``x`` (b, ...); ``x`` itself where the model makes pictures.

    Raises:
        ValueError: a decoder that does not return one picture (C, H, W) for every sample.
    """
    if denoiser.decode is None:
        return x
    pictures = denoiser.decode(x.clone())
    if pictures.ndim != 4 or len(pictures) != len(x):
        raise ValueError(f"decode: must return pictures ({len(x)}, C, H, W) of {len(x)} samples, got {tuple(pictures.shape)}")
    return pictures.clone()  # the next may be written into the same memory


def decoder_modules(denoiser: Denoiser) -> list[torch.nn.Module]:
    """The networks of the decoder: itself, or what its method ``modules`` returns; of a plain function none is known."""
    decode: Any = denoiser.decode
    if isinstance(decode, torch.nn.Module):
        return [decode]
    return list(decode.modules()) if hasattr(decode, "modules") else []


def decoder_identity(denoiser: Denoiser) -> dict[str, Any] | None:
    """The decoder's name and weights; None where nothing is decoded."""
    decode = denoiser.decode
    if decode is None:
        return None
    named = decode if hasattr(decode, "__qualname__") else type(decode)
    return {"name": f"{named.__module__}.{named.__qualname__}", "weights": digest_of_weights(decoder_modules(denoiser))}
