"""Small pipelines of diffusers with random weights, each saved to a folder and loaded from there as a user would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.hosts import diffusers


def scrambled(network: Any, scale: float = 0.2) -> Any:
    """Weights that matter everywhere: diffusers starts some layers at zero, DiT's modulations and last layer among them."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def unet_2d(**more: Any) -> Any:
    torch.manual_seed(0)
    settings = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 1,
        "block_out_channels": (8, 8),
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
    }
    return scrambled(diffusers().UNet2DModel(**settings | more))


def dit(**more: Any) -> Any:
    torch.manual_seed(0)
    settings = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 1,
        "sample_size": 8,
        "patch_size": 2,
        "attention_bias": True,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
    }
    return scrambled(diffusers().DiTTransformer2DModel(**settings | more), 0.05)


def unet_2d_condition(**more: Any) -> Any:
    torch.manual_seed(0)
    settings = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return scrambled(diffusers().UNet2DConditionModel(**settings | more))


def sd3(**more: Any) -> Any:
    torch.manual_seed(0)
    settings = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "num_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 16,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 16,
        "out_channels": 4,
        "pos_embed_max_size": 8,
    }
    return scrambled(diffusers().SD3Transformer2DModel(**settings | more), 0.05)


def flux(**more: Any) -> Any:
    torch.manual_seed(0)
    settings = {
        "patch_size": 1,
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 16,
        "pooled_projection_dim": 16,
        "axes_dims_rope": (4, 4, 8),
        "guidance_embeds": True,
    }
    return scrambled(diffusers().FluxTransformer2DModel(**settings | more), 0.05)


def vae(latent_channels: int = 4, **more: Any) -> Any:
    torch.manual_seed(0)
    return (
        diffusers()
        .AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
            up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
            block_out_channels=(4, 4),
            norm_num_groups=2,
            latent_channels=latent_channels,
            sample_size=16,
            **more,
        )
        .eval()
    )


def saved(pipeline: Any, folder: Path) -> Path:
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def loaded(kind: str, folder: Path, **more: Any) -> Any:
    pipeline = getattr(diffusers(), kind).from_pretrained(folder, use_safetensors=True, **more)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def ddpm(folder: Path, kind: str = "DDPMPipeline", network: Any = None, **scheduler: Any) -> Any:
    made = getattr(diffusers(), kind)(unet=network or unet_2d(), scheduler=diffusers().DDPMScheduler(**scheduler))
    return loaded(kind, saved(made, folder))
