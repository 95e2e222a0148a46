"""RES, exponential integrators whose weights are the exact integrals (Zhang et al. 2023, arXiv 2308.02157).

x_u = e^-h x + h (b1 D + b2 D') where alpha = 1, with h the step's length in log-SNR, phi1(-h) = (1 - e^-h) / h and
phi2(-h) = (e^-h - 1 + h) / h^2. b2 = phi2 / c, b1 = phi1 - phi2 / c, and D' is the prediction at the fraction c of the step.
DPM-Solver++ has phi1 / 2 in the place of phi2, which is the same only for short steps.
"""

from __future__ import annotations

import itertools

from ttune.samplers.dpmpp_multistep import multistep
from ttune.samplers.dpmpp_singlestep import first_order
from ttune.samplers.points import between, check_fractions, expands, points
from ttune.samplers.singlestep_grid import second
from ttune.samplers.steps import Steps
from ttune.samplers.tableau import Stage, Tableau


def res_2m(schedule: Steps) -> Tableau:
    """The multistep form: D' is the prediction before, c = -h_prev / h. One evaluation a step. ComfyUI's ``res_multistep``.

    It is :func:`ttune.samplers.dpmpp_multistep.dpmpp_2m` with ``solver_type`` "heun". First order at the first step and to a clean
    image. RES4LYF's ``res_2m_ode`` is another: its first two steps, and those of h >= 1, are :func:`res_2s`'s.
    """
    return multistep("res_2m", schedule, 2, 0.0, 1.0, "heun")


def res_2s(schedule: Steps, *, r: float = 0.5) -> Tableau:
    """The singlestep form: D' at the fraction c = ``r`` of the step in log-SNR. Two evaluations a step; to a clean image x_u = D.

    RES4LYF's ``res_2s_ode``, whose ``c2`` is ``r``.
    """
    check_fractions(r=r)
    at, stages = points(schedule), []
    for t, u in itertools.pairwise(at):
        if u.clean or not expands(t, u):
            update = {"D": u.alpha} | ({"x": u.sigma / t.sigma} if not u.clean else {})
            stages.append(Stage(t.t, t.alpha, t.sigma, update))
            continue
        s = between(schedule.noise, t, u, r)
        stages.append(Stage(t.t, t.alpha, t.sigma, first_order(t, s), {"x_t": {"x": 1.0}, "D_t": {"D": 1.0}}))
        stages.append(Stage(s.t, s.alpha, s.sigma, second(t, s, u, "D", "heun")))
    return Tableau("res_2s", tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)
