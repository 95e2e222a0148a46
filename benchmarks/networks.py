"""diffusers' networks with random weights, at their published sizes and small."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ttune.evaluation.features import torchvision_shim


def import_diffusers() -> Any:
    """diffusers, also beside a torchvision that was built for another torch."""
    torchvision_shim.ensure()
    return importlib.import_module("diffusers")


@dataclass(frozen=True)
class Network:
    """``call(x, t, **conditions)`` returns the prediction; ``conditions(batch)`` are those of ``batch`` different samples."""

    name: str
    module: nn.Module
    call: Callable[..., Tensor]
    shape: tuple[int, ...]
    conditions: Callable[[int], dict[str, Any]]


def sample_of(module: nn.Module) -> Callable[..., Tensor]:
    return lambda x, t, **conditions: module(x, t, **conditions).sample


def dit(*, small: bool) -> Network:
    """DiT-XL/2 on latents of 32 x 32 (Peebles and Xie 2023), or three narrow layers."""
    size = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3, "sample_size": 8} if small else {}
    module = import_diffusers().DiTTransformer2DModel(in_channels=4, patch_size=2, num_embeds_ada_norm=1000, **size).eval()
    side = 8 if small else 32
    return Network("DiT-XL/2", module, sample_of(module), (4, side, side), lambda n: {"class_labels": torch.arange(n) + 1})


def unet_with_text(*, small: bool) -> Network:
    """Stable Diffusion 1.5's U-Net on latents of 32 x 32 (images of 256 x 256), or two narrow levels."""
    size: dict[str, Any] = {"cross_attention_dim": 768}
    if small:
        size = {
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "norm_num_groups": 8,
            "cross_attention_dim": 24,
        }
    side, length = (8, 7) if small else (32, 77)
    module = import_diffusers().UNet2DConditionModel(sample_size=side, attention_head_dim=8, **size).eval()
    text = lambda n: {"encoder_hidden_states": normal(n, length, size["cross_attention_dim"])}  # noqa: E731
    return Network("SD-1.5 U-Net", module, sample_of(module), (4, side, side), text)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))
