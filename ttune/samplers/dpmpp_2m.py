"""DPM-Solver++(2M), multistep, midpoint (Lu et al. 2022, arXiv 2211.01095, algorithm 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ttune.samplers.tableau import Stage, Tableau

if TYPE_CHECKING:
    from ttune.schedule import Schedule


def dpmpp_2m(schedule: Schedule) -> Tableau:
    """x_u = (sigma_u / sigma_t) x - alpha_u (e^-h - 1) [(1 + 1/2r) D - (1/2r) D_prev], eq. 4.2 with r = h_prev / h.

    First order at the first step, and on the way to a clean image, where it is x_u = D. With
    ``lower_order_final`` the last step is first order in any case.
    """
    t, alpha, sigma = schedule.positions, schedule.alphas, schedule.sigmas
    lam = schedule.noise.half_log_snr(t)
    last = len(t) - 2
    first_order = [
        i == 0 or not np.isfinite(lam[i - 1]) or sigma[i + 1] == 0 or (schedule.lower_order_final and i == last) for i in range(last + 1)
    ]
    stages = []
    for i in range(last + 1):
        # alpha_u (1 - e^-h), without the cancellation that small steps would bring
        data = -alpha[i + 1] * np.expm1(lam[i] - lam[i + 1])
        update = {"x": sigma[i + 1] / sigma[i]} if sigma[i + 1] > 0 else {}
        if first_order[i]:
            update["D"] = data
        else:
            half_inverse_r = 0.5 * (lam[i + 1] - lam[i]) / (lam[i] - lam[i - 1])
            update |= {"D": data * (1 + half_inverse_r), "D_prev": -data * half_inverse_r}
        needed_next = i < last and not first_order[i + 1]
        stages.append(Stage(t[i], alpha[i], sigma[i], update, {"D_prev": {"D": 1.0}} if needed_next else {}))
    return Tableau("dpmpp_2m", tuple(stages), t[-1], alpha[-1], sigma[-1])
