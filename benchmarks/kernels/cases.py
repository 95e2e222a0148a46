"""Every case, and every figure with its target. A new operator's cases are added here; tests and the command iterate CASES.

Targets on the CPU hold for one thread. On a GPU an update beyond the second-level cache is to reach 90 % of the
bandwidth that a copy reaches.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.kernels import embeddings, loops, losses, updates
from benchmarks.kernels.baselines import DDIM, MULTISTEP
from benchmarks.kernels.case import BEYOND_CACHE, LARGER, SMALLEST, Case, Ratio

F32, BF16 = torch.float32, torch.bfloat16
_BANDWIDTH = Ratio("ttune", "copy", 1 / 0.9, shapes=(BEYOND_CACHE,), device="cuda")

_UPDATE = (
    Ratio("ttune", "copy", 1.25, shapes=LARGER, dtypes=(F32,)),
    Ratio("ttune", "copy", 1.5, shapes=LARGER, dtypes=(BF16,)),
    _BANDWIDTH,
    Ratio("operator", "empty", 2.0, shapes=(SMALLEST,)),
    Ratio("ttune", "empty"),
    Ratio("ttune", "compiled", 1.0, device=None),
    Ratio("ttune", "diffusers", 0.2),
)
_NOISE = (Ratio("ttune", "randn + update", 0.2), Ratio("ttune", "copy"), _BANDWIDTH)
_LOSS = (Ratio("ttune", "mse_loss", 0.5, dtypes=(F32,)), Ratio("ttune", "copy"))
_EMBEDDING = (Ratio("ttune", "empty + copy", 2.0), Ratio("ttune", "empty"))

_IN_PLACE = ("linear_update_",)
_EMBEDDING_SHAPES = ((16, 320),)

CASES = (
    Case("ddim + cfg", partial(updates.update, DDIM), _UPDATE, _IN_PLACE),
    Case("2m + cfg", partial(updates.update, MULTISTEP), _UPDATE, _IN_PLACE),
    Case("noise step", updates.noise_step, _NOISE, _IN_PLACE),
    Case("clip", updates.clipping, (Ratio("ttune", "without clip"), Ratio("ttune", "copy"), _BANDWIDTH), _IN_PLACE),
    Case("functional", updates.functional, (Ratio("ttune", "in place"),), ("linear_update", *_IN_PLACE), dtypes=(F32,)),
    Case("mse", losses.mse, _LOSS, ("trajectory_loss",), grad=True),
    Case("ddim + cfg + mse", losses.update_and_mse, _LOSS, ("trajectory_loss",), dtypes=(F32,), grad=True),
    Case(
        "gradient in coeffs",
        updates.coefficient_gradient,
        (Ratio("ttune", "sums of products"), Ratio("ttune", "copy")),
        ("linear_update", "inner_products"),
        grad=True,
    ),
    Case(
        "whole loop",
        loops.whole_loop,
        (Ratio("ttune", "plain loop"), Ratio("CUDA graph", "plain loop")),
        ("linear_update", *_IN_PLACE, "embedding_lookup"),
        (SMALLEST, (16, 4, 64, 64)),
        (SMALLEST, (16, 4, 64, 64)),
        (F32,),
        rotate=False,
    ),
    Case("embedding", embeddings.direct, _EMBEDDING, ("timestep_embedding",), _EMBEDDING_SHAPES, _EMBEDDING_SHAPES, (F32,)),
    Case("lookup", embeddings.lookup, _EMBEDDING, ("embedding_lookup",), _EMBEDDING_SHAPES, _EMBEDDING_SHAPES, (F32,)),
)
