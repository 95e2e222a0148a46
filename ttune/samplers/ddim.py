"""DDIM (Song, Meng and Ermon 2021, arXiv 2010.02502) and DDPM (Ho et al. 2020) on a subsequence of times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from ttune.messages.names import must_be_one_of
from ttune.samplers.points import Point, points
from ttune.samplers.steps import Steps
from ttune.samplers.tableau import Stage, Tableau

VARIANCES = ("fixed_small", "fixed_large", "learned_range", "analytic")


def ddim(schedule: Steps, *, gammas: Sequence[float] = ()) -> Tableau:
    """x_u = alpha_u D + sqrt(sigma_u^2 - s^2) eps + s noise, eq. 12.

    s = eta sigma_u sqrt(1 - SNR_t / SNR_u), which for alpha^2 + sigma^2 = 1 is eq. 16 and also holds for other schedules.
    ``gammas``: makes it Analytic-DDIM (see :func:`ddpm`).
    """
    at = points(schedule)
    s = [schedule.eta * _posterior(t, u) for t, u in pairwise(at)]
    return _tableau("ddim", at, s, _optimal(at, s, gammas) if gammas else None)


def ddpm(schedule: Steps, *, variance: str = "fixed_small", gammas: Sequence[float] = ()) -> Tableau:
    """Ancestral sampling (Ho et al. 2020, algorithm 2): the posterior mean of x_u given x_t and D, and noise.

    The mean is that of DDIM with eta = 1. ``variance``: of the noise, which is not added on the way to a clean image:
    "fixed_small" is the posterior's; "fixed_large" is beta = 1 - alpha_t^2 / alpha_u^2 of the step (for models with
    alpha^2 + sigma^2 = 1), more than the next level asks for; "analytic" is the optimal one of Analytic-DPM (Bao et al.
    2022, arXiv 2201.06503, theorem 1), which needs ``gammas``: E ||eps(x_t, t)||^2 / d at each evaluated time;
    "learned_range" lets the network choose between the logarithms of the first two (Nichol and Dhariwal 2021, eq. 15).
    """
    must_be_one_of("variance", variance, list(VARIANCES))
    if (variance == "analytic") != bool(gammas):
        raise ValueError(f"gammas must come with variance 'analytic' and only there, got variance={variance!r}, gammas={list(gammas)}")
    at = points(schedule)
    posterior = [_posterior(t, u) for t, u in pairwise(at)]
    if variance == "fixed_small":
        return _tableau("ddpm", at, posterior)
    if variance == "analytic":
        return _tableau("ddpm", at, posterior, _optimal(at, posterior, gammas))
    if any(abs(math.hypot(p.alpha, p.sigma) - 1) > 1e-6 for p in at):
        raise ValueError(f"variance {variance!r} is defined for alpha^2 + sigma^2 = 1 only; use 'fixed_small'")
    large = [0.0 if u.clean else math.sqrt(1 - (t.alpha / u.alpha) ** 2) for t, u in pairwise(at)]
    if variance == "fixed_large":
        return _tableau("ddpm", at, posterior, large)
    stages = []
    for stage, s, most in zip(_tableau("ddpm", at, posterior).stages, posterior, large, strict=True):
        if s > 0:
            unit = {**stage.update, "noise": 1.0}
            stage = replace(stage, update=unit, excess=1 - s**2, log_variance=(2 * math.log(s), 2 * math.log(most)))
        stages.append(stage)
    return Tableau("ddpm", tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)


def _optimal(at: Sequence[Point], s: Sequence[float], gammas: Sequence[float]) -> list[float]:
    """s*^2 = s^2 + (sigma_t alpha_u / alpha_t - sqrt(sigma_u^2 - s^2))^2 (1 - Gamma_t)."""
    if len(gammas) != len(s) or not all(0 <= g < math.inf for g in gammas):
        raise ValueError(f"gammas must be {len(s)} numbers >= 0, one per step, got {list(gammas)}")
    optimal = []
    for (t, u), deviation, gamma in zip(pairwise(at), s, gammas, strict=True):
        slope = 0.0 if t.alpha == 0 else t.rho * u.alpha - math.sqrt(max(0.0, u.sigma**2 - deviation**2))
        optimal.append(0.0 if u.clean else math.sqrt(deviation**2 + slope**2 * max(0.0, 1 - gamma)))
    return optimal


def _posterior(t: Point, u: Point) -> float:
    """The standard deviation of q(x_u | x_t, x_0): sigma_u sqrt(1 - SNR_t / SNR_u)."""
    return u.sigma * math.sqrt(max(0.0, 1.0 - (t.alpha * u.sigma / (u.alpha * t.sigma)) ** 2))


def _tableau(name: str, at: Sequence[Point], s: Sequence[float], added: Sequence[float] | None = None) -> Tableau:
    """DDIM's rows with standard deviations ``s``; the noise itself has ``added`` instead, where that is given."""
    stages = []
    for (t, u), deviation, noise in zip(pairwise(at), s, added or s, strict=True):
        update = {"D": u.alpha, "eps": math.sqrt(max(0.0, u.sigma**2 - deviation**2))}
        fresh = {"noise": noise} if noise > 0 else {}
        stages.append(Stage(t.t, t.alpha, t.sigma, update | fresh, excess=noise**2 - deviation**2))
    return Tableau(name, tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)
