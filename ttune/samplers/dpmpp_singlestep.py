"""DPM-Solver++ singlestep, and its stochastic relatives (Lu et al. 2022, arXiv 2211.01095)."""

from __future__ import annotations

import itertools
import math

from ttune.samplers.points import Point, between, check_fractions, expands, points
from ttune.samplers.singlestep_grid import check_inner, on_grid
from ttune.samplers.steps import Steps
from ttune.samplers.tableau import Stage, Tableau


def dpmpp_2s(
    schedule: Steps,
    *,
    r: float = 0.5,
    eta: float = 0.0,
    s_noise: float = 1.0,
    inner: str = "log_snr",
    solver_type: str = "midpoint",
) -> Tableau:
    """Algorithm 1: to s at the fraction ``r`` of the step in log-SNR, then x_u with (1 - 1/2r) D_t + (1/2r) D_s.

    Two evaluations a step; a step to a clean image is x_u = D. ``eta`` > 0 is k-diffusion's ``sample_dpmpp_2s_ancestral``:
    the step goes further down and noise comes back up. ``inner`` "grid": s is the next time instead (diffusers'
    ``DPMSolverSinglestepScheduler``), where ``solver_type`` "heun" weighs D_s - D_t by the exact integral of a straight line.
    """
    check_inner(inner, solver_type)
    if inner == "grid":
        if eta:
            raise ValueError(f"eta must be 0 with inner='grid', got {eta}")
        return on_grid("dpmpp_2s", schedule, 2, "D", solver_type)
    check_fractions(r=r)
    at, stages = points(schedule), []
    for t, u in itertools.pairwise(at):
        down, noise = ancestral(t, u, eta)
        extra = {"noise": s_noise * noise} if noise > 0 else {}
        excess = noise**2 * (s_noise**2 - 1)
        if down.clean or not expands(t, down):
            update = {"D": u.alpha} | ({"x": down.sigma / t.sigma} if not down.clean else {})
            stages.append(Stage(t.t, t.alpha, t.sigma, update | extra, excess=excess))
            continue
        s = between(schedule.noise, t, down, r)
        r_ = (s.lam - t.lam) / (down.lam - t.lam)  # as it is, after the trip through the model's own time
        stages.append(Stage(t.t, t.alpha, t.sigma, first_order(t, s), {"x_t": {"x": 1.0}, "D_t": {"D": 1.0}}))
        data = -down.alpha * math.expm1(t.lam - down.lam)
        update = {"x_t": down.sigma / t.sigma} | _mixed(data, 1 / (2 * r_))
        stages.append(Stage(s.t, s.alpha, s.sigma, update | extra, excess=excess))
    return Tableau("dpmpp_2s", tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)


def dpmpp_3s(schedule: Steps, *, r1: float = 1 / 3, r2: float = 2 / 3, inner: str = "log_snr", solver_type: str = "midpoint") -> Tableau:
    """Third order with evaluations at the fractions ``r1`` and ``r2`` (the authors' code, ``singlestep_dpm_solver_third_update``).

    ``inner`` "grid": they are the next two times instead (see :func:`dpmpp_2s`); ``solver_type`` "heun" then uses both.
    """
    check_inner(inner, solver_type)
    if inner == "grid":
        return on_grid("dpmpp_3s", schedule, 3, "D", solver_type)
    check_fractions(r1=r1, r2=r2)
    at, stages = points(schedule), []
    for t, u in itertools.pairwise(at):
        if u.clean or not expands(t, u):
            update = {"D": u.alpha} | ({"x": u.sigma / t.sigma} if not u.clean else {})
            stages.append(Stage(t.t, t.alpha, t.sigma, update))
            continue
        h = u.lam - t.lam
        s1, s2 = between(schedule.noise, t, u, r1), between(schedule.noise, t, u, r2)
        q1, q2 = (s1.lam - t.lam) / h, (s2.lam - t.lam) / h
        retain = {"x_t": {"x": 1.0}, "D_t": {"D": 1.0}}
        stages.append(Stage(t.t, t.alpha, t.sigma, first_order(t, s1), retain))
        slope = s2.alpha * (math.expm1(-q2 * h) / (q2 * h) + 1) * q2 / q1
        update = {"x_t": s2.sigma / t.sigma, "D_t": -s2.alpha * math.expm1(-q2 * h) - slope, "D": slope}
        stages.append(Stage(s1.t, s1.alpha, s1.sigma, update, {"x_t": {"x_t": 1.0}, "D_t": {"D_t": 1.0}}))
        slope = u.alpha * (math.expm1(-h) / h + 1) / q2
        update = {"x_t": u.sigma / t.sigma, "D_t": -u.alpha * math.expm1(-h) - slope, "D": slope}
        stages.append(Stage(s2.t, s2.alpha, s2.sigma, update))
    return Tableau("dpmpp_3s", tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)


def dpmpp_sde(schedule: Steps, *, r: float = 0.5, eta: float = 1.0, s_noise: float = 1.0) -> Tableau:
    """k-diffusion's ``sample_dpmpp_sde``: 2S with noise also on the way to the intermediate evaluation."""
    check_fractions(r=r)
    at, stages = points(schedule), []
    for t, u in itertools.pairwise(at):
        if u.clean or not expands(t, u):
            update = {"D": u.alpha} | ({"x": u.sigma / t.sigma} if not u.clean else {})
            stages.append(Stage(t.t, t.alpha, t.sigma, update))
            continue
        s = between(schedule.noise, t, u, r)
        for here, there, on in ((t, s, None), (s, u, 1 / (2 * r))):
            down, noise = ancestral(t, there, eta)
            data = -down.alpha * math.expm1(t.lam - down.lam)
            weights = {"D": data} if on is None else _mixed(data, on)
            update = {("x" if on is None else "x_t"): down.sigma / t.sigma} | weights | ({"noise": s_noise * noise} if noise > 0 else {})
            retain = {"x_t": {"x": 1.0}, "D_t": {"D": 1.0}} if on is None else {}
            stages.append(Stage(here.t, here.alpha, here.sigma, update, retain, excess=noise**2 * (s_noise**2 - 1)))
    return Tableau("dpmpp_sde", tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)


def _mixed(data: float, on: float) -> dict[str, float]:
    """``data`` shared by D_t and D, the latter's share being ``on``; D_t is not kept for a share that is only rounding."""
    return {"D": data} if abs(1 - on) < 1e-9 else {"D_t": data * (1 - on), "D": data * on}


def first_order(t: Point, u: Point) -> dict[str, float]:
    """x_u = (sigma_u / sigma_t) x - alpha_u (e^-h - 1) D: DDIM, written for data prediction."""
    return {"x": u.sigma / t.sigma, "D": -u.alpha * math.expm1(t.lam - u.lam)}


def ancestral(t: Point, u: Point, eta: float) -> tuple[Point, float]:
    """Where an ancestral step goes before its noise, with the signal of ``u``, and the noise's standard deviation.

    In x / alpha: rho_up = min(rho_u, eta rho_u sqrt(1 - rho_u^2 / rho_t^2)) and rho_down^2 = rho_u^2 - rho_up^2.
    """
    if not 0 <= eta < math.inf:
        raise ValueError(f"eta must be a number >= 0, got {eta}")
    ratio = u.rho / t.rho if math.isfinite(t.rho) else 0.0
    up = min(1.0, eta * math.sqrt(1 - ratio**2))
    return Point(u.t, u.alpha, u.sigma * math.sqrt(1 - up**2)), u.sigma * up
