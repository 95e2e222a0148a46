"""From the samples of a diffusers model to pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ttune.adapters.diffusers.patches import Grid, unpacked
from ttune.network.oom_batching import Batches


@dataclass(frozen=True)
class Decoder:
    """``decoder(samples)``: latents (B, ...) to pictures (B, 3, H, W) in [-1, 1], by the model's VAE, loaded at the first call.

    ``patches``: the samples are rows (B, patches, channels) of 2 x 2 patches of an image (Flux), in the ``grid`` of rows and columns.
    ``name``: what the pipeline calls the VAE, since it scales latents for one and not for another.
    """

    vae: Callable[[], Any]
    patches: bool = False
    grid: Grid | None = None
    name: str = "vae"
    batch: int = 4  # a VAE's activations are large; where these are too many, fewer from then on
    batches: Batches = field(
        default_factory=lambda: Batches("one call of the VAE", smaller="a smaller batch of the decoder"),
        init=False,
        repr=False,
        compare=False,
    )

    @torch.no_grad()
    def __call__(self, samples: Tensor) -> Tensor:
        vae = self._loaded()
        if vae.dtype == torch.float16 and vae.config.get("force_upcast"):
            vae.to(torch.float32)  # its activations overflow in half precision (SDXL)
        latents = unpacked(samples, self.grid) if self.patches else samples
        latents = latents if self.name == "movq" else unscaled(latents, vae.config)
        chunks = latents.to(vae.device, vae.dtype).split(self.batch)
        pictures = torch.cat([self._decoded(vae, chunk) for chunk in chunks])
        return pictures.to(samples.dtype).clamp(-1, 1)

    def _decoded(self, vae: Any, latents: Tensor) -> Tensor:
        options = {"force_not_quantize": True} if self.name == "movq" else {}

        def decode(rows: slice | None) -> Tensor:
            return vae.decode(latents if rows is None else latents[rows], return_dict=False, **options)[0]

        return self.batches.through(decode, len(latents), lambda parts: torch.cat(list(parts)))

    def modules(self) -> list[torch.nn.Module]:
        """The VAE, whose weights say which decoder it is."""
        return [self._loaded()]

    def _loaded(self) -> Any:
        if "_vae" not in self.__dict__:
            object.__setattr__(self, "_vae", self.vae())
        return self.__dict__["_vae"]


def unscaled(latents: Tensor, config: Any) -> Tensor:
    """The VAE's own latents from those that the network was trained on: with a mean and deviation per channel where ``config`` has
    them, else a shift."""
    mean, std, factor = config.get("latents_mean"), config.get("latents_std"), config.get("scaling_factor")
    if factor is None:
        raise ValueError("pictures cannot be made: the configuration of what decodes has no scaling_factor; decode the samples yourself")
    if mean is None or std is None:
        return latents / factor + (config.get("shift_factor") or 0.0)
    shape = (1, len(mean), *(1 for _ in latents.shape[2:]))
    mean, std = (torch.tensor(values, dtype=latents.dtype, device=latents.device).reshape(shape) for values in (mean, std))
    return latents * std / factor + mean
