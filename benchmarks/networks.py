"""diffusers' networks with random weights, at their published sizes and at sizes for a test."""

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


def _sample(module: nn.Module) -> Callable[..., Tensor]:
    return lambda x, t, **conditions: module(x, t, **conditions).sample


def _of_flow(module: nn.Module, scale: float) -> Callable[..., Tensor]:
    return lambda x, t, **conditions: module(hidden_states=x, timestep=t / scale, return_dict=False, **conditions)[0]


def dit(*, small: bool) -> Network:
    """DiT-XL/2 on latents of 32 x 32 (Peebles and Xie 2023), or three narrow layers."""
    size = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3, "sample_size": 8} if small else {}
    module = import_diffusers().DiTTransformer2DModel(in_channels=4, patch_size=2, num_embeds_ada_norm=1000, **size).eval()
    side = 8 if small else 32
    return Network("DiT-XL/2", module, _sample(module), (4, side, side), lambda n: {"class_labels": torch.arange(n) + 1})


def unet() -> Network:
    """UNet2DModel with attention, small."""
    module = import_diffusers().UNet2DModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    return Network("UNet2D", module.eval(), _sample(module), (3, 8, 8), lambda n: {})


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
    text = lambda n: {"encoder_hidden_states": _normal(n, length, size["cross_attention_dim"])}  # noqa: E731
    return Network("SD-1.5 U-Net", module, _sample(module), (4, side, side), text)


def flux() -> Network:
    """FluxTransformer2DModel, small: times in [0, 1], text of fixed length, guidance embedded."""
    module = import_diffusers().FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=24,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    ids = {"img_ids": torch.arange(16.0)[:, None].expand(16, 3).contiguous(), "txt_ids": torch.zeros(5, 3)}
    text = lambda n: {"encoder_hidden_states": _normal(n, 5, 32), "pooled_projections": _normal(n, 24)}  # noqa: E731
    conditions = lambda n: text(n) | ids | {"guidance": torch.full((n,), 3.5)}  # noqa: E731
    return Network("Flux", module.eval(), _of_flow(module, 1000.0), (16, 4), conditions)


def sd3() -> Network:
    """SD3Transformer2DModel, small."""
    module = import_diffusers().SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=24,
        out_channels=4,
    )
    conditions = lambda n: {"encoder_hidden_states": _normal(n, 5, 32), "pooled_projections": _normal(n, 24)}  # noqa: E731
    return Network("SD3", module.eval(), _of_flow(module, 1.0), (4, 8, 8), conditions)


SMALL: dict[str, Callable[[], Network]] = {
    "dit": lambda: dit(small=True),
    "unet": unet,
    "unet_with_text": lambda: unet_with_text(small=True),
    "flux": flux,
    "sd3": sd3,
}


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))
