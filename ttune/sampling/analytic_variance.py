"""What Analytic-DPM needs to know of a network: how large its noise prediction is, on the average over real data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ttune import ops
from ttune.network.denoiser import Denoiser, select
from ttune.sampling.plan import evaluations_of
from ttune.sampling.sample import check_fits, seed_tensor
from ttune.schedule.schedule import Schedule


@torch.no_grad()
def estimate_gammas(
    denoiser: Denoiser,
    schedule: Schedule,
    x_0: Tensor,
    *,
    conditions: Mapping[str, Any] | None = None,
    seeds: Tensor | Sequence[int] | None = None,
    batch_size: int = 256,
    progress: bool = False,
) -> list[float]:
    """Gamma_t = E ||eps(x_t, t)||^2 / d at each evaluation of ``schedule`` (Bao et al. 2022, arXiv 2201.06503, eq. 8).

    x_t = alpha x_0 + sigma noise from clean data ``x_0`` (B, ...), one noise per sample and evaluation from its seed; a few
    hundred samples do (the paper used 1,000 to 50,000). The network is passed the solver time, and its prediction
    is not clipped. Returns what ``options={"variance": "analytic", "gammas": ...}`` of the sampler ``ddpm`` takes.
    ValueError: no samples. FloatingPointError: a network that returns NaN or infinity.
    """
    if x_0.ndim < 1 or x_0.shape[0] == 0:
        raise ValueError(f"x_0 must hold at least one sample, got shape {tuple(x_0.shape)}")
    check_fits(denoiser, schedule)
    denoiser.check_conditions(conditions, x_0.shape[0])
    seeds = seed_tensor(seeds, x_0)
    noise, gammas = schedule.noise, []
    stages = schedule.tableau().stages
    bar = tqdm(total=len(stages) * x_0.shape[0], desc="gammas", unit="image", disable=None if progress else True)
    for i, (stage, evaluation) in enumerate(zip(stages, evaluations_of(denoiser, schedule), strict=True)):
        tau = min(max(stage.time, noise.t_min), noise.t_max)
        total = 0.0
        for begin in range(0, x_0.shape[0], batch_size):
            rows = slice(begin, begin + batch_size)
            part = x_0[rows]
            x = stage.alpha * part + stage.sigma * ops.philox_normal(tuple(part.shape[1:]), seeds[rows], draw=i, dtype=part.dtype)
            D = denoiser.unclipped(x, tau, select(conditions or {}, rows, x_0.shape[0], denoiser.shared), evaluation)
            total += float(((x - stage.alpha * D) / stage.sigma).double().square().sum())
            bar.update(len(part))
        if not total < float("inf"):
            raise FloatingPointError(f"the network returned NaN or infinity at evaluation {i} (t = {stage.time:g})")
        gammas.append(total / x_0.numel())
    bar.close()
    return gammas
