"""Where a command among several processes runs its network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ttune.distributed import Ranks
    from ttune.network.denoiser import Denoiser


def on_own_device(denoiser: Denoiser, ranks: Ranks) -> Denoiser:
    """Of several processes on a machine with GPUs each has its own, the current one; networks that are no modules must see to it."""
    if ranks.world > 1 and torch.cuda.is_available():
        for module in denoiser.modules():
            module.to("cuda")
    return denoiser
