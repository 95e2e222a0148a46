"""The network of the bundled model: a small class-conditional U-Net on 2 x 2 pixel blocks.

A 28 x 28 image enters as 14 x 14 x 4 (pixel unshuffle), which quarters the cost of every
convolution at the top level; most of the parameters are at 7 x 7, where they are cheap.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_SHAPE = (1, 28, 28)
CLASSES = 10
NULL_CLASS = CLASSES  # the label that means "no label"


def sinusoidal_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding of fractional times: (B,) -> (B, dim), in float32 whatever the model's dtype."""
    frequencies = torch.exp(-math.log(max_period) / (dim // 2) * torch.arange(dim // 2, device=t.device))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResidualBlock(nn.Module):
    """GroupNorm-SiLU-conv twice; time and class enter as a scale and a shift between the two."""

    def __init__(self, c_in: int, c_out: int, c_emb: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.modulation = nn.Linear(c_emb, 2 * c_out)
        self.norm2 = nn.GroupNorm(8, c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(emb)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


class Attention(nn.Module):
    """Self-attention over the pixels of a feature map, with a residual connection."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w).transpose(3, 4)
        mixed = F.scaled_dot_product_attention(qkv[:, 0], qkv[:, 1], qkv[:, 2])
        return x + self.out(mixed.transpose(2, 3).reshape(b, c, h, w))


class UNet(nn.Module):
    """Predicts the noise epsilon in x_t = alpha_t x_0 + sigma_t epsilon.

    ``forward(x, t, class_label=None)``: x (B, 1, 28, 28) in [-1, 1] units; t (B,) or a 0-d tensor,
    times in [0, 999], fractional ones included; class_label (B,) int64 in [0, 9], or 10 (also the
    default) for no label. Returns (B, 1, 28, 28).
    """

    def __init__(self, top: int = 48, bottom: int = 128, c_emb: int = 192) -> None:
        super().__init__()
        self.c_time = top
        self.time_mlp = nn.Sequential(nn.Linear(self.c_time, c_emb), nn.SiLU(), nn.Linear(c_emb, c_emb))
        self.class_embedding = nn.Embedding(CLASSES + 1, c_emb)
        self.conv_in = nn.Conv2d(4, top, 3, padding=1)
        self.down1 = ResidualBlock(top, top, c_emb)
        self.downsample = nn.Conv2d(top, bottom, 3, stride=2, padding=1)
        self.down2 = ResidualBlock(bottom, bottom, c_emb)
        self.down2_attention = Attention(bottom, heads=4)
        self.middle = ResidualBlock(bottom, bottom, c_emb)
        self.up2 = ResidualBlock(2 * bottom, bottom, c_emb)
        self.up2_attention = Attention(bottom, heads=4)
        self.upsample = nn.Conv2d(bottom, top, 3, padding=1)
        self.up1 = ResidualBlock(2 * top, top, c_emb)
        self.norm_out = nn.GroupNorm(8, top)
        self.conv_out = nn.Conv2d(top, 4, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor, t: Tensor, class_label: Tensor | None = None) -> Tensor:
        if class_label is None:
            class_label = torch.full((x.shape[0],), NULL_CLASS, device=x.device)
        time = sinusoidal_embedding(t.reshape(-1).expand(x.shape[0]), self.c_time).to(x.dtype)
        emb = F.silu(self.time_mlp(time) + self.class_embedding(class_label))
        h1 = self.conv_in(F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last))
        h1 = self.down1(h1, emb)
        h2 = self.down2_attention(self.down2(self.downsample(h1), emb))
        h = self.middle(h2, emb)
        h = self.up2_attention(self.up2(torch.cat([h, h2], 1), emb))
        h = self.upsample(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.up1(torch.cat([h, h1], 1), emb)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), 2)
