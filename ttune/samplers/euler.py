"""Euler's method on the probability-flow ODE (Karras et al. 2022, arXiv 2206.00364, algorithm 1 without churn), and ancestral."""

from __future__ import annotations

import itertools

from ttune.samplers.dpmpp_singlestep import ancestral
from ttune.samplers.points import first_order, points
from ttune.samplers.steps import Steps
from ttune.samplers.tableau import Stage, Tableau


def euler(schedule: Steps) -> Tableau:
    """x_hat_u = x_hat_t + (s_u - s_t) eps with x_hat = x / alpha and s = sigma / alpha, eq. 4.

    In exact arithmetic this is DDIM with eta = 0. It is written through x instead of D, so that for EDM models
    (alpha = 1) the coefficients are k-diffusion's own. Where alpha = 0 (flow matching at t = 1) x_hat does not
    exist and the same step is taken through D.
    """
    at = points(schedule)
    stages = [Stage(t.t, t.alpha, t.sigma, first_order(t, u)) for t, u in itertools.pairwise(at)]
    return Tableau("euler", tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)


def euler_ancestral(schedule: Steps, *, eta: float = 1.0, s_noise: float = 1.0) -> Tableau:
    """k-diffusion's ``sample_euler_ancestral``: down to s_down, s_down^2 + s_up^2 = s_u^2, and noise back up.

    In exact arithmetic this is DDIM with the same ``eta`` (where that is at most 1). ``s_noise`` scales the noise.
    """
    at, stages = points(schedule), []
    for t, u in itertools.pairwise(at):
        down, noise = ancestral(t, u, eta)
        extra = {"noise": s_noise * noise} if noise > 0 else {}
        stages.append(Stage(t.t, t.alpha, t.sigma, first_order(t, down) | extra, excess=noise**2 * (s_noise**2 - 1)))
    return Tableau("euler_ancestral", tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)
