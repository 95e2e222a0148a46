"""Samples as pictures for a page: a row of them as one PNG with clear gaps, legible on light and dark paper."""

from __future__ import annotations

import base64
import io

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from ttune.evaluation.features import to_uint8

_GAP = 2  # pixels between two samples
_LARGEST = 160  # pixels: eight in a row still fit a screen, and a page of several budgets a mail


def why_no_pictures(shape: tuple[int, ...]) -> str | None:
    """Why samples of this shape (without the batch) are no pictures; None if they are."""
    if len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) > 0:
        return None
    return f"samples of shape {shape} are no pictures of 1 or 3 channels, (C, H, W)"


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
