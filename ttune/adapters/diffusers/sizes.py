"""Of what shape a sample is: from an image's height and width, as the pipelines have it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ttune.adapters.diffusers.network import HostNetwork, sample_shape_of
from ttune.adapters.diffusers.patches import Grid
from ttune.messages.warn import warn

FLUX_SIDE = 64  # patches of a 1024 x 1024 image, its pipeline's default
Shape = tuple[int, ...]


def size_of(
    host: HostNetwork, config: Any, pixels: int, sample_shape: Sequence[int] | None, height: int | None, width: int | None
) -> tuple[Shape | None, Grid | None]:
    """(shape of a sample, rows and columns of its patches where a sample is a row of them).

    ``pixels``: of an image, along one side of a latent. ValueError for sizes that do not fit.
    """
    if (height is None) != (width is None):
        raise ValueError(f"height and width go together, got height={height} and width={width}")
    if height is not None and width is not None:
        if sample_shape is not None:
            raise ValueError(f"sample_shape and height, width cannot both be given, got {tuple(sample_shape)} and {height} x {width}")
        return _of_image(host, config, pixels, height, width)
    if not host.family.patches:
        return (tuple(sample_shape) if sample_shape is not None else sample_shape_of(config)), None
    if sample_shape is None:
        return (FLUX_SIDE**2, host.channels), (FLUX_SIDE, FLUX_SIDE)
    count = int(sample_shape[0])
    side = math.isqrt(count)
    if side * side != count:
        return tuple(sample_shape), None
    warn(
        f"sample_shape: {count} patches are taken for a square image of {side} x {side} patches; height={2 * side * pixels} and "
        f"width={2 * side * pixels} say so, and other sizes"
    )
    return tuple(sample_shape), (side, side)


def _of_image(host: HostNetwork, config: Any, pixels: int, height: int, width: int) -> tuple[Shape, Grid | None]:
    patches = host.family.patches
    patch = 2 if patches else int(config.get("patch_size") or 1)
    for name, side in (("height", height), ("width", width)):
        if side < 1 or side % (pixels * patch):
            raise ValueError(f"{name} must be a multiple of {pixels * patch} pixels for this model, got {side}")
    rows, columns = height // pixels, width // pixels
    if not patches:
        return (host.channels, rows, columns), None
    grid = (rows // 2, columns // 2)
    return (grid[0] * grid[1], host.channels), grid
