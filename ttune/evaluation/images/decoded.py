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


@torch.no_grad()
def shown_of(denoiser: Denoiser, x: Tensor) -> Tensor:
    """What a page shows of the samples ``x`` (n, ...), on the CPU: decoded where the denoiser knows how, else as they are."""
    if denoiser.decode is None or len(x) == 0:
        return x.cpu()
    # In memory of its own: a decoder may write into its argument, and return the same memory at every call.
    return denoiser.decode(x.clone()).to("cpu", torch.float32, copy=True)


def why_no_pictures(shape: tuple[int, ...], *, decoded: bool = False) -> str | None:
    """Why samples of this shape (without the batch) cannot be shown as pictures; None if they can.

    ``decoded``: whether this is the shape that the denoiser's ``decode`` returned.
    """
    if len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) > 0:
        return None
    rule = "no pictures of 1 or 3 channels, (C, H, W)"
    if decoded:
        return f"decoded samples of shape {shape} are {rule}"
    hint = "; video is not shown" if len(shape) == 4 else "; for latents give the denoiser a decode" if len(shape) == 3 else ""
    return f"samples of shape {shape} are {rule}{hint}"
