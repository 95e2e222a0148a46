"""DDIM (Song, Meng and Ermon 2021, arXiv 2010.02502) and DDPM (Ho et al. 2020) on a subsequence of times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ttune.samplers.tableau import Stage, Tableau

if TYPE_CHECKING:
    from ttune.schedule import Schedule


def ddim(schedule: Schedule) -> Tableau:
    """x_u = alpha_u D + sqrt(sigma_u^2 - s^2) eps + s noise, eq. 12.

    s = eta sigma_u sqrt(1 - SNR_t / SNR_u), which for alpha^2 + sigma^2 = 1 is eq. 16 and also holds for other schedules.
    """
    return _ddim("ddim", schedule, schedule.eta)


def ddpm(schedule: Schedule) -> Tableau:
    """Ancestral sampling with the fixed-small (posterior) variance: DDIM with eta = 1, section 4.1 of the DDIM paper."""
    return _ddim("ddpm", schedule, 1.0)


def _ddim(name: str, schedule: Schedule, eta: float) -> Tableau:
    t, alpha, sigma = schedule.positions, schedule.alphas, schedule.sigmas
    stages = []
    for i in range(len(t) - 1):
        # The variance of q(x_u | x_t, x_0): sigma_u^2 (1 - SNR_t / SNR_u); nothing is added on the way to a clean image.
        snr_ratio = (alpha[i] * sigma[i + 1] / (alpha[i + 1] * sigma[i])) ** 2
        s = eta * sigma[i + 1] * np.sqrt(max(0.0, 1.0 - snr_ratio))
        update = {"D": alpha[i + 1], "eps": np.sqrt(max(0.0, sigma[i + 1] ** 2 - s**2))}
        stages.append(Stage(t[i], alpha[i], sigma[i], update | ({"noise": s} if s > 0 else {})))
    return Tableau(name, tuple(stages), t[-1], alpha[-1], sigma[-1])
