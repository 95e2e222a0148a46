"""Samples as pictures for a page: a row of them as one PNG with clear gaps, legible on light and dark paper."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ttune.evaluation.features.extractor import to_uint8

if TYPE_CHECKING:
    from ttune.network.denoiser import Denoiser

_GAP = 2  # pixels between two samples
_LARGEST = 160  # pixels: eight in a row still fit a screen, and a page of several budgets a mail


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


def strip(images: Tensor) -> tuple[bytes, int, int]:
    """(PNG, width, height in pixels) of (N, 1 or 3, H, W) images in [-1, 1], side by side; values beyond are clamped.

    Pictures wider than 160 pixels are averaged over blocks of pixels.
    """
    from PIL import Image

    block = -(-images.shape[3] // _LARGEST)
    small = images if block == 1 else F.avg_pool2d(images.float(), block, ceil_mode=True)
    pixels = to_uint8(small).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    n, height, width, _ = pixels.shape
    canvas = np.zeros((height, n * (width + _GAP) - _GAP, 4), np.uint8)
    for i, picture in enumerate(pixels):
        x = i * (width + _GAP)
        canvas[:, x : x + width, :3], canvas[:, x : x + width, 3] = picture, 255
    buffer = io.BytesIO()
    Image.fromarray(canvas, "RGBA").save(buffer, format="PNG", optimize=True)
    return buffer.getvalue(), canvas.shape[1], height


def data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
