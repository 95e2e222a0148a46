"""Euler's method on the probability-flow ODE (Karras et al. 2022, arXiv 2206.00364, algorithm 1 without churn)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttune.samplers.tableau import Stage, Tableau

if TYPE_CHECKING:
    from ttune.schedule import Schedule


def euler(schedule: Schedule) -> Tableau:
    """x_hat_u = x_hat_t + (s_u - s_t) eps with x_hat = x / alpha and s = sigma / alpha, eq. 4.

    In exact arithmetic this is DDIM with eta = 0. It is written through x instead of D, so that for EDM models
    (alpha = 1) the coefficients are k-diffusion's own. Where alpha = 0 (flow matching at t = 1) x_hat does not
    exist and the same step is taken through D.
    """
    t, alpha, sigma = schedule.positions, schedule.alphas, schedule.sigmas
    stages = []
    for i in range(len(t) - 1):
        if alpha[i] > 0:
            growth = alpha[i + 1] / alpha[i]
            update = {"x": growth, "eps": sigma[i + 1] - growth * sigma[i]}
        else:
            update = {"D": alpha[i + 1], "eps": sigma[i + 1]}
        stages.append(Stage(t[i], alpha[i], sigma[i], update))
    return Tableau("euler", tuple(stages), t[-1], alpha[-1], sigma[-1])
