"""Second-order Runge-Kutta methods on the probability-flow ODE: Heun's and the midpoint in log sigma."""

from __future__ import annotations

import itertools
import math

from ttune.samplers.dpmpp_singlestep import ancestral
from ttune.samplers.points import Point, at_log_snr, between, expands, first_order, points, straight
from ttune.samplers.steps import Steps
from ttune.samplers.tableau import Row, Stage, Start, Tableau

DERIVATIVES = ("noise", "velocity")


def heun(schedule: Steps, *, derivative: str = "auto") -> Tableau:
    """x_u = x_t + (step / 2) (d_t + d_u), d_u at the end of an Euler step (Karras et al. 2022, algorithm 1 without churn).

    ``derivative``: "noise" integrates x / alpha over sigma / alpha, whose slope is eps; "velocity" integrates x over sigma,
    whose slope is eps - D where alpha + sigma = 1 (flow matching). "auto" takes "velocity" exactly there. Two evaluations a
    step; one to a clean image is Euler's.
    """
    at = points(schedule)
    flow = straight(at)
    derivative = ("velocity" if flow else "noise") if derivative == "auto" else derivative
    if derivative not in DERIVATIVES or (derivative == "velocity" and not flow):
        raise ValueError(f"derivative must be 'noise', or 'velocity' for flow matching (alpha + sigma = 1), got {derivative!r}")
    stages = []
    for t, u in itertools.pairwise(at):
        if u.clean or (derivative == "noise" and t.alpha == 0):
            stages.append(Stage(t.t, t.alpha, t.sigma, first_order(t, u)))
            continue
        update, retain = _corrected(t, u, derivative)
        stages.append(Stage(t.t, t.alpha, t.sigma, first_order(t, u), retain))
        stages.append(Stage(u.t, u.alpha, u.sigma, update))
    return Tableau("heun", tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)


def edm_heun(schedule: Steps, *, s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = 0.0, s_noise: float = 1.0) -> Tableau:
    """Karras et al. 2022, algorithm 2: before each step the noise level rises from s to (1 + gamma) s, then Heun's step.

    gamma = min(s_churn / steps, sqrt(2) - 1) where s = sigma / alpha lies in [s_tmin, s_tmax]; ``s_tmax`` = 0 means no upper
    bound. The rise ends at the largest trained time. ``s_noise`` scales the noise.
    """
    for name, value in (("s_churn", s_churn), ("s_tmin", s_tmin), ("s_tmax", s_tmax), ("s_noise", s_noise)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a number >= 0, got {value}")
    at = points(schedule)
    gamma = min(s_churn / schedule.steps, math.sqrt(2) - 1)
    risen: list[tuple[Point, float, float]] = []  # where each step starts, its factor on x, the noise that was added
    for t in at[:-1]:
        hat = t
        if gamma > 0 and s_tmin <= t.rho <= (s_tmax or math.inf) and math.isfinite(t.rho):
            hat = at_log_snr(schedule.noise, t.lam - math.log1p(gamma))
        added = hat.alpha * math.sqrt(hat.rho**2 - t.rho**2) if hat.rho > t.rho else 0.0
        risen.append((hat, hat.alpha / t.alpha, added) if added > 0 else (t, 1.0, 0.0))
    risen.append((at[-1], 1.0, 0.0))

    def excess(added: float) -> float:
        return added**2 * (s_noise**2 - 1)

    stages = []
    for i, (t, _, _) in enumerate(risen[:-1]):
        u, (_, factor, added) = at[i + 1], risen[i + 1]
        noise = {"noise": s_noise * added} if added > 0 else {}
        if u.clean or t.alpha == 0:
            stages.append(Stage(t.t, t.alpha, t.sigma, _times(factor, first_order(t, u)) | noise, excess=excess(added)))
            continue
        update, retain = _corrected(t, u, "noise")
        stages.append(Stage(t.t, t.alpha, t.sigma, first_order(t, u), retain))
        stages.append(Stage(u.t, u.alpha, u.sigma, _times(factor, update) | noise, excess=excess(added)))
    _, factor, added = risen[0]
    start = Start(at[0].alpha, at[0].sigma, {"x": factor, "noise": s_noise * added}, excess(added)) if added > 0 else None
    return Tableau("edm_heun", tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma, start)


def kdpm_2(schedule: Steps, *, eta: float = 0.0, s_noise: float = 1.0) -> Tableau:
    """k-diffusion's ``sample_dpm_2``: the slope at the middle of the step in log-SNR carries x / alpha all the way.

    ``eta`` > 0 is ``sample_dpm_2_ancestral``. Two evaluations a step; one to a clean image is Euler's.
    """
    at, stages = points(schedule), []
    for t, u in itertools.pairwise(at):
        down, noise = ancestral(t, u, eta)
        extra = {"noise": s_noise * noise} if noise > 0 else {}
        excess = noise**2 * (s_noise**2 - 1)
        if down.clean or not expands(t, down):
            stages.append(Stage(t.t, t.alpha, t.sigma, first_order(t, down) | extra, excess=excess))
            continue
        s = between(schedule.noise, t, down, 0.5)
        stages.append(Stage(t.t, t.alpha, t.sigma, first_order(t, s), {"x_t": {"x": 1.0}}))
        update = {"x_t": u.alpha / t.alpha, "eps": down.sigma - u.alpha * t.rho}
        stages.append(Stage(s.t, s.alpha, s.sigma, update | extra, excess=excess))
    return Tableau("kdpm_2", tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)


def _corrected(t: Point, u: Point, derivative: str) -> tuple[dict[str, float], dict[str, Row]]:
    """The row of Heun's second evaluation, at u, and what the first retains for it."""
    if derivative == "velocity":
        half = 0.5 * (u.sigma - t.sigma)
        return {"x_t": 1.0, "eps_t": half, "D_t": -half, "eps": half, "D": -half}, {
            "x_t": {"x": 1.0},
            "eps_t": {"eps": 1.0},
            "D_t": {"D": 1.0},
        }
    half = 0.5 * u.alpha * (u.rho - t.rho)
    return {"x_t": u.alpha / t.alpha, "eps_t": half, "eps": half}, {"x_t": {"x": 1.0}, "eps_t": {"eps": 1.0}}


def _times(factor: float, row: Row) -> dict[str, float]:
    return {name: factor * value for name, value in row.items()}
