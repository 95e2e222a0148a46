"""Linear multistep methods in the noise prediction: LMS, DEIS, iPNDM, PNDM.

x / alpha has the slope eps over rho = sigma / alpha, so x_u / alpha_u = x_t / alpha_t + integral of eps d rho. Each method
puts a polynomial through the last few eps and integrates it; they differ in the coordinate of the polynomial.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ttune.messages.names import must_be_one_of
from ttune.samplers.points import Point, expands, first_order, grows, history, points
from ttune.samplers.steps import Steps
from ttune.samplers.tableau import Stage, Tableau

COORDINATES = ("rho", "log_rho", "time")
# Gauss-Legendre in log rho, in which the integrands are smooth: exact to rounding for LMS and DEIS with 32 points on steps
# of up to 10 in log rho (against 200 points); with "time" limited by the schedule's own table.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def lms(schedule: Steps, *, order: int = 4, full_order_to_clean: bool = False) -> Tableau:
    """k-diffusion's ``sample_lms``: the polynomial in rho itself (Adams-Bashforth on any grid), order 1 to 4.

    ``full_order_to_clean``: a step to a clean image keeps its order, as k-diffusion's does, instead of being x_u = D.
    """
    return _adams("lms", schedule, order, "rho", full_order_to_clean)


def deis(schedule: Steps, *, order: int = 3, coordinate: str = "log_rho") -> Tableau:
    """DEIS, tAB-DEIS (Zhang and Chen 2022, arXiv 2204.13902, eq. 15), order 1 to 4 (tAB0 to tAB3).

    ``coordinate``: of the polynomial: "time" as in the paper's tAB, "rho" (rhoAB), or "log_rho" (diffusers' ``logrho``).
    """
    return _adams("deis", schedule, order, coordinate, False)


def ipndm(schedule: Steps, *, order: int = 4, full_order_to_clean: bool = False) -> Tableau:
    """iPNDM (Zhang and Chen 2022, section 3.3; Liu et al. 2022): Adams-Bashforth weights of an even grid, whatever the grid is.

    eps' = (55 eps - 59 eps1 + 37 eps2 - 9 eps3) / 24, with fewer of them at the first steps, in a DDIM step.
    ``full_order_to_clean``: as for :func:`lms`.
    """
    _check_order(order)
    at = points(schedule)
    return Tableau("ipndm", tuple(_even_steps(schedule, at, 0, order, full_order_to_clean)), at[-1].t, at[-1].alpha, at[-1].sigma)


def pndm(schedule: Steps, *, order: int = 4, full_order_to_clean: bool = False) -> Tableau:
    """PNDM without its Runge-Kutta start, "PLMS" (Liu et al. 2022, arXiv 2202.09778, eq. 11 and 12, as latent diffusion has it).

    iPNDM whose first step averages the eps at both of its ends: one evaluation more than steps. ``full_order_to_clean``: as
    for :func:`lms`.
    """
    _check_order(order)
    at, stages = points(schedule), []
    t, u = at[:2]
    if expands(t, u) and len(at) > 2:
        half = u.alpha * _span(t, u) / 2
        stages.append(Stage(t.t, t.alpha, t.sigma, first_order(t, u), {"x_t": {"x": 1.0}, "eps1": {"eps": 1.0}}))
        corrected = {"x_t": u.alpha / t.alpha, "eps1": half, "eps": half}
        stages.append(Stage(u.t, u.alpha, u.sigma, corrected, {"eps1": {"eps1": 1.0}}))
        stages += _even_steps(schedule, at, 1, order, full_order_to_clean)
    else:
        stages += _even_steps(schedule, at, 0, order, full_order_to_clean)
    return Tableau("pndm", tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)


def _even_steps(schedule: Steps, at: Sequence[Point], first: int, order: int, full: bool) -> list[Stage]:
    last, stages = len(at) - 2, []
    for i in range(first, last + 1):
        t, u = at[i], at[i + 1]
        p = _lowered(schedule, at, i, order, full)
        stages.append(_stage(t, u, [w * _span(t, u) for w in _EVEN[p]] if p > 1 else None, i, order, i < last))
    return stages


def _check_order(order: int) -> None:
    if order not in (1, 2, 3, 4):
        raise ValueError(f"order must be 1, 2, 3 or 4, got {order}")


_EVEN = {1: (1.0,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}


def _adams(name: str, schedule: Steps, order: int, coordinate: str, full: bool) -> Tableau:
    _check_order(order)
    must_be_one_of("coordinate", coordinate, list(COORDINATES))
    at = points(schedule)
    last, stages = len(at) - 2, []
    for i in range(last + 1):
        t, u = at[i], at[i + 1]
        p = _lowered(schedule, at, i, order, full)
        weights = _integrals(schedule, [at[i - j] for j in range(p)], u, coordinate) if p > 1 else None
        stages.append(_stage(t, u, weights, i, order, i < last))
    return Tableau(name, tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)


def _lowered(schedule: Steps, at: Sequence[Point], i: int, order: int, full: bool) -> int:
    """The order at step i: as much history as there is (and has a finite rho), less at the end with ``lower_order_final``.

    ``full``: a step to a clean image is not lowered; rho = 0 is a fine end for polynomials in rho.
    """
    if at[i + 1].clean and not full:
        return 1
    p = min(order, i + 1, len(at) - 1 - i if schedule.lower_order_final else order)
    if not grows(at[i], at[i + 1]):
        return 1
    while p > 1 and not (math.isfinite(at[i - p + 1].rho) and math.isfinite(at[i].rho)):
        p -= 1
    return p


def _span(t: Point, u: Point) -> float:
    return u.rho - t.rho


def _stage(t: Point, u: Point, weights: Sequence[float] | None, i: int, order: int, more: bool) -> Stage:
    """``weights``: what eps, eps1, ... add to x / alpha; None for a first-order step."""
    if weights is None:
        update = first_order(t, u)
    else:
        names = ["eps", *(f"eps{j}" for j in range(1, len(weights)))]
        update = {"x": u.alpha / t.alpha} | {name: u.alpha * w for name, w in zip(names, weights, strict=True)}
    return Stage(t.t, t.alpha, t.sigma, update, history("eps", i, order - 1) if more else {})


def _integrals(schedule: Steps, nodes: Sequence[Point], u: Point, coordinate: str) -> list[float]:
    """The integral over rho, from the first node to u, of each node's Lagrange polynomial in ``coordinate``."""
    t = nodes[0]
    if coordinate == "rho":
        rho = t.rho + _span(t, u) * (_NODES + 1) / 2
        return _weighted(rho, np.array([p.rho for p in nodes]), _WEIGHTS / 2 * _span(t, u), _span(t, u))
    log_rho = -t.lam + (-u.lam + t.lam) * (_NODES + 1) / 2
    rho = np.exp(log_rho)
    measure = _WEIGHTS / 2 * (t.lam - u.lam) * rho  # d rho = rho d log rho
    if coordinate == "log_rho":
        y, known = log_rho, np.array([-p.lam for p in nodes])
    else:
        y, known = schedule.noise.time(-log_rho), np.array([p.t for p in nodes])
    return _weighted(y, known, measure, _span(t, u))


def _weighted(y: np.ndarray, known: np.ndarray, measure: np.ndarray, total: float) -> list[float]:
    """The quadrature ``measure`` of each Lagrange polynomial on the nodes ``known``, at the points ``y``."""
    weights = []
    for j in range(len(known)):
        others = [k for k in range(len(known)) if k != j]
        basis = np.prod([(y - known[k]) / (known[j] - known[k]) for k in others], axis=0)
        weights.append(float(measure @ basis))
    # The polynomials sum to one, so the weights sum to the length of the step: exactly, whatever the quadrature left.
    weights[0] = total - sum(weights[1:])
    return weights
