"""DPM-Solver (Lu et al. 2022, arXiv 2206.00927): exponential integrators for the noise prediction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ttune.messages.names import must_be_one_of
from ttune.samplers.points import Point, between, check_fractions, expands, first_order, history, points
from ttune.samplers.singlestep_grid import check_inner, on_grid
from ttune.samplers.steps import Steps
from ttune.samplers.tableau import Stage, Tableau

if TYPE_CHECKING:
    from ttune.noise.schedules import NoiseSchedule


def dpm_solver_1(schedule: Steps) -> Tableau:
    """Eq. 3.7, which is DDIM: x_u = (alpha_u / alpha_t) x - sigma_u (e^h - 1) eps."""
    return _singlestep("dpm_solver_1", schedule, [1] * schedule.steps)


def dpm_solver_2(schedule: Steps, *, r: float = 0.5, inner: str = "log_snr", solver_type: str = "midpoint") -> Tableau:
    """Algorithm 1: an evaluation at the fraction ``r`` of the step in log-SNR, and its slope. A step to a clean image is first order.

    ``inner`` "grid" and ``solver_type``: as for :func:`ttune.samplers.dpmpp_singlestep.dpmpp_2s`.
    """
    check_inner(inner, solver_type)
    if inner == "grid":
        return on_grid("dpm_solver_2", schedule, 2, "eps", solver_type)
    return _singlestep("dpm_solver_2", schedule, [2] * schedule.steps, r=r)


def dpm_solver_3(
    schedule: Steps, *, r1: float = 1 / 3, r2: float = 2 / 3, inner: str = "log_snr", solver_type: str = "midpoint"
) -> Tableau:
    """Algorithm 2: evaluations at the fractions ``r1`` and ``r2``. A step to a clean image is first order.

    ``inner`` "grid" and ``solver_type``: as for :func:`ttune.samplers.dpmpp_singlestep.dpmpp_3s`.
    """
    check_inner(inner, solver_type)
    if inner == "grid":
        return on_grid("dpm_solver_3", schedule, 3, "eps", solver_type)
    return _singlestep("dpm_solver_3", schedule, [3] * schedule.steps, r1=r1, r2=r2)


def dpm_solver_fast(schedule: Steps, *, tail: str = "1") -> Tableau:
    """DPM-Solver-fast (section 3.4): third-order steps, and at the end those of ``tail``, "2,1", "2" or "1".

    K steps are 3 (K - 2) + 3, 3 (K - 1) + 2 or 3 (K - 1) + 1 evaluations.
    """
    tails = {"1": [1], "2": [2], "2,1": [2, 1]}
    must_be_one_of("tail", tail, list(tails))
    orders = [3] * (schedule.steps - len(tails[tail])) + tails[tail]
    return _singlestep("dpm_solver_fast", schedule, orders[-schedule.steps :])


def dpm_solver_multistep(schedule: Steps, *, order: int = 2, solver_type: str = "midpoint") -> Tableau:
    """The multistep form for the noise prediction (the authors' code), of order 1, 2 or 3.

    x_u = (alpha_u / alpha_t) x - sigma_u (e^h - 1) [eps + (eps - eps1) / 2r], r = h_prev / h; third order by the divided
    differences of three. With ``lower_order_final`` the last steps are of lower order; one to a clean image always is.
    ``solver_type`` "heun" weighs eps - eps1 at second order by the exact integral of a straight line.
    """
    check_inner("grid", solver_type)
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order}")
    at = points(schedule)
    last, stages = len(at) - 2, []
    for i in range(last + 1):
        t, u = at[i], at[i + 1]
        p = min(order, i + 1, last + 1 - i if schedule.lower_order_final else order)
        while p > 1 and not (expands(t, u) and expands(at[i - p + 1], t)):
            p -= 1
        if p == 1:
            update = first_order(t, u)
        else:
            h = u.lam - t.lam
            update = {"x": u.alpha / t.alpha}
            r0 = (t.lam - at[i - 1].lam) / h
            noise = -u.sigma * math.expm1(h)
            if p == 2:
                slope = 0.5 * noise if solver_type == "midpoint" else -u.sigma * (math.expm1(h) / h - 1)
                update |= {"eps": noise + slope / r0, "eps1": -slope / r0}
            else:
                r1 = (at[i - 1].lam - at[i - 2].lam) / h
                phi_2 = math.expm1(h) / h - 1
                phi_3 = phi_2 / h - 0.5
                on_d0 = -u.sigma * (phi_2 * (1 + r0 / (r0 + r1)) + phi_3 / (r0 + r1))
                on_d1 = u.sigma * (phi_2 * r0 + phi_3) / (r0 + r1)
                update |= {"eps": noise + on_d0 / r0, "eps1": -on_d0 / r0 + on_d1 / r1, "eps2": -on_d1 / r1}
        stages.append(Stage(t.t, t.alpha, t.sigma, update, history("eps", i, order - 1) if i < last else {}))
    return Tableau("dpm_solver_multistep", tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)


def _singlestep(name: str, schedule: Steps, orders: list[int], r: float = 0.5, r1: float = 1 / 3, r2: float = 2 / 3) -> Tableau:
    check_fractions(r=r)
    check_fractions(r1=r1, r2=r2)
    at, stages = points(schedule), []
    for t, u, order in zip(at, at[1:], orders, strict=False):
        if order == 1 or not expands(t, u):
            stages.append(Stage(t.t, t.alpha, t.sigma, first_order(t, u)))
        else:
            stages += _second(schedule.noise, t, u, r) if order == 2 else _third(schedule.noise, t, u, r1, r2)
    return Tableau(name, tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)


_RETAINED = {"x_t": {"x": 1.0}, "eps_t": {"eps": 1.0}}


def _second(noise: NoiseSchedule, t: Point, u: Point, r: float) -> list[Stage]:
    s = between(noise, t, u, r)
    h = u.lam - t.lam
    r = (s.lam - t.lam) / h  # as it is, after the trip through the model's own time
    slope = -u.sigma * math.expm1(h) / (2 * r)
    update = {"x_t": u.alpha / t.alpha, "eps_t": -u.sigma * math.expm1(h) - slope, "eps": slope}
    return [Stage(t.t, t.alpha, t.sigma, first_order(t, s), _RETAINED), Stage(s.t, s.alpha, s.sigma, update)]


def _third(noise: NoiseSchedule, t: Point, u: Point, r1: float, r2: float) -> list[Stage]:
    s1, s2 = between(noise, t, u, r1), between(noise, t, u, r2)
    h = u.lam - t.lam
    r1, r2 = (s1.lam - t.lam) / h, (s2.lam - t.lam) / h
    slope = -s2.sigma * (math.expm1(r2 * h) / (r2 * h) - 1) * r2 / r1
    to_s2 = {"x_t": s2.alpha / t.alpha, "eps_t": -s2.sigma * math.expm1(r2 * h) - slope, "eps": slope}
    slope = -u.sigma * (math.expm1(h) / h - 1) / r2
    to_u = {"x_t": u.alpha / t.alpha, "eps_t": -u.sigma * math.expm1(h) - slope, "eps": slope}
    return [
        Stage(t.t, t.alpha, t.sigma, first_order(t, s1), _RETAINED),
        Stage(s1.t, s1.alpha, s1.sigma, to_s2, {"x_t": {"x_t": 1.0}, "eps_t": {"eps_t": 1.0}}),
        Stage(s2.t, s2.alpha, s2.sigma, to_u),
    ]
