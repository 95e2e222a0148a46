"""DPM-Solver++ multistep, deterministic and as an SDE (Lu et al. 2022, arXiv 2211.01095)."""

from __future__ import annotations

import math

from ttune.messages.names import must_be_one_of
from ttune.samplers.points import Point, expands, history, points
from ttune.samplers.steps import Steps
from ttune.samplers.tableau import Row, Stage, Tableau

SOLVER_TYPES = ("midpoint", "heun")


def dpmpp_2m(schedule: Steps, *, solver_type: str = "midpoint") -> Tableau:
    """x_u = (sigma_u / sigma_t) x - alpha_u (e^-h - 1) [D + (D - D1) / 2r], algorithm 2, with r = h_prev / h.

    First order at the first step, and on the way to a clean image, where it is x_u = D; with ``lower_order_final`` the
    last step is first order in any case. ``solver_type`` "heun" weighs D - D1 by the exact integral of a straight line.
    """
    return multistep("dpmpp_2m", schedule, 2, 0.0, 1.0, solver_type)


def dpmpp_3m(schedule: Steps, *, solver_type: str = "midpoint") -> Tableau:
    """The third-order multistep solver (its authors' code, ``multistep_dpm_solver_third_update``).

    The first two steps are of order 1 and 2 (``solver_type`` as for 2M). With ``lower_order_final`` the last two are of
    order 2 and 1, otherwise only a step to a clean image is lowered.
    """
    return multistep("dpmpp_3m", schedule, 3, 0.0, 1.0, solver_type)


def dpmpp_2m_sde(schedule: Steps, *, eta: float = 1.0, s_noise: float = 1.0, solver_type: str = "midpoint") -> Tableau:
    """SDE-DPM-Solver++(2M): x_u = (sigma_u / sigma_t) e^(-eta h) x + alpha_u (1 - e^(-h (1 + eta))) [D + ...] + noise.

    Section 5 of the paper for ``eta`` = 1; k-diffusion's ``sample_dpmpp_2m_sde`` for others. ``s_noise`` scales the noise.
    """
    return multistep("dpmpp_2m_sde", schedule, 2, eta, s_noise, solver_type)


def dpmpp_3m_sde(schedule: Steps, *, eta: float = 1.0, s_noise: float = 1.0) -> Tableau:
    """SDE-DPM-Solver++(3M), k-diffusion's ``sample_dpmpp_3m_sde``; ``eta`` and ``s_noise`` as for 2M."""
    return multistep("dpmpp_3m_sde", schedule, 3, eta, s_noise, "heun")


def multistep(name: str, schedule: Steps, order: int, eta: float, s_noise: float, solver_type: str) -> Tableau:
    """The tableau of all of them, under ``name``; ``solver_type`` is of second-order steps."""
    must_be_one_of("solver_type", solver_type, list(SOLVER_TYPES))
    if not 0 <= eta < math.inf or not 0 <= s_noise < math.inf:
        raise ValueError(f"eta and s_noise must be numbers >= 0, got {eta} and {s_noise}")
    at = points(schedule)
    last = len(at) - 2
    stages = []
    for i in range(last + 1):
        p = min(order, i + 1)
        if schedule.lower_order_final:
            p = min(p, last + 1 - i)
        update, noise = _step(at, i, p, eta, solver_type)
        if noise > 0:
            update["noise"] = s_noise * noise
        retain = history("D", i, order - 1) if i < last else {}
        stages.append(Stage(at[i].t, at[i].alpha, at[i].sigma, update, retain, excess=noise**2 * (s_noise**2 - 1)))
    return Tableau(name, tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)


def _step(at: list[Point], i: int, order: int, eta: float, solver_type: str) -> tuple[dict[str, float], float]:
    """One step's row, and the standard deviation of its noise."""
    t, u = at[i], at[i + 1]
    if u.clean:
        return {"D": u.alpha}, 0.0
    if not expands(t, u):  # from alpha = 0, where the state is noise alone
        down = u.sigma / t.sigma if eta == 0 else 0.0
        return ({"x": down} if down else {}) | {"D": u.alpha}, math.sqrt(u.sigma**2 - (down * t.sigma) ** 2)
    h = u.lam - t.lam
    H = (1 + eta) * h
    data = -u.alpha * math.expm1(-H)  # without the cancellation that small steps would bring
    while order > 1 and not expands(at[i - order + 1], t):
        order -= 1
    row: Row
    if order == 1:
        row = {"D": data}
    elif order == 2:
        r = (t.lam - at[i - 1].lam) / h
        slope = 0.5 * data if solver_type == "midpoint" else u.alpha * (math.expm1(-H) / H + 1)
        row = {"D": data + slope / r, "D1": -slope / r}
    else:
        r0, r1 = (t.lam - at[i - 1].lam) / h, (at[i - 1].lam - at[i - 2].lam) / h
        phi_2 = math.expm1(-H) / H + 1
        phi_3 = phi_2 / H - 0.5
        # D' = d0 + (d0 - d1) r0 / (r0 + r1), D'' = (d0 - d1) / (r0 + r1), with d0 = (D - D1) / r0, d1 = (D1 - D2) / r1
        on_d0 = u.alpha * (phi_2 * (1 + r0 / (r0 + r1)) - phi_3 / (r0 + r1))
        on_d1 = u.alpha * (-phi_2 * r0 / (r0 + r1) + phi_3 / (r0 + r1))
        row = {"D": data + on_d0 / r0, "D1": -on_d0 / r0 + on_d1 / r1, "D2": -on_d1 / r1}
    noise = u.sigma * math.sqrt(-math.expm1(-2 * eta * h))
    return {"x": u.sigma / t.sigma * math.exp(-eta * h), **row}, noise
