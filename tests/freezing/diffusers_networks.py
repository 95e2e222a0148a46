"""diffusers' networks with random weights, small: those of the benchmark, and others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.networks import Network, dit, import_diffusers, normal, sample_of, unet_with_text


def _of_flow(module: nn.Module, scale: float) -> Callable[..., Tensor]:
    return lambda x, t, **conditions: module(hidden_states=x, timestep=t / scale, return_dict=False, **conditions)[0]


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
    return Network("UNet2D", module.eval(), sample_of(module), (3, 8, 8), lambda n: {})


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
    text = lambda n: {"encoder_hidden_states": normal(n, 5, 32), "pooled_projections": normal(n, 24)}  # noqa: E731
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
    conditions = lambda n: {"encoder_hidden_states": normal(n, 5, 32), "pooled_projections": normal(n, 24)}  # noqa: E731
    return Network("SD3", module.eval(), _of_flow(module, 1.0), (4, 8, 8), conditions)


SMALL: dict[str, Callable[[], Network]] = {
    "dit": lambda: dit(small=True),
    "unet": unet,
    "unet_with_text": lambda: unet_with_text(small=True),
    "flux": flux,
    "sd3": sd3,
}
