"""Images as rows of 2 x 2 patches, as Flux has them."""

from __future__ import annotations

import torch
from torch import Tensor

Grid = tuple[int, int]  # rows and columns of patches


def check_grid(count: int, grid: Grid | None) -> Grid:
    """The ``grid``; ValueError if ``count`` patches are not its: 16 may be of an image of 4 x 4, 2 x 8 or 1 x 16."""
    if grid is None or grid[0] * grid[1] != count:
        known = "the size of the image is not known" if grid is None else f"the model was loaded for {grid[0]} x {grid[1]}"
        raise ValueError(
            f"x has {count} patches, and {known}: load it with height and width (--height, --width), or give img_ids (patches, 3) among "
            f"the conditions"
        )
    return grid


def patch_ids(height: int, width: int) -> Tensor:
    """(height * width, 3): the row and the column of every patch, as Flux numbers them."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).float()


def unpacked(rows: Tensor, grid: Grid | None) -> Tensor:
    """(B, patches, 4 C) to (B, C, height, width), twice the ``grid``."""
    batch, count, channels = rows.shape
    height, width = check_grid(count, grid)
    image = rows.reshape(batch, height, width, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return image.reshape(batch, channels // 4, 2 * height, 2 * width)
