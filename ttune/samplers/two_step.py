"""Two-step samplers, which run backwards exactly: BDIA and O-BELM.

With F(t -> u) the DDIM step from x_t, which is linear in x_t and the prediction there, and s, t, u three times that follow one another:

    x_u = F(t -> u) + w (x_s - F(t -> s))

The prediction at t alone is needed. Solved for x_s it is the same relation with 1 / w in the place of w, so that the way back is a
table of the same form. The first step, before which there is no state, is DDIM's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ttune.samplers.points import Point, first_order, points, straight
from ttune.samplers.steps import Steps
from ttune.samplers.tableau import Stage, Tableau

BEFORE = "x_s"  # the register of the state before


def bdia(schedule: Steps, *, gamma: float = 1.0) -> Tableau:
    """BDIA-DDIM (Zhang, Lewis and Kleijn 2023, arXiv 2307.10829): w = ``gamma``, in (0, 1].

    Its inverse multiplies rounding by 1 / ``gamma`` at every step, so that only 1 can be inverted over many steps.
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must lie in (0, 1], got {gamma}")
    at = points(schedule)
    return _tableau("bdia", at, [gamma] * (schedule.steps - 1))


def belm(schedule: Steps) -> Tableau:
    """O-BELM (Wang et al. 2024, arXiv 2410.07273): the parabola through x_s and x_t with the slope at t. Second order.

    In x / alpha over sigma / alpha, w is the squared ratio of the two steps; for flow matching in x over sigma, which is not in the paper.
    """
    at = points(schedule)
    return _tableau("belm", at, _parabola(at))


def _parabola(at: Sequence[Point]) -> list[float]:
    flow, weights = straight(at), []
    for s, t, u in zip(at, at[1:], at[2:], strict=False):
        if flow:
            weights.append(((t.sigma - u.sigma) / (s.sigma - t.sigma)) ** 2)
        else:  # 0 from alpha = 0, where x / alpha does not exist
            weights.append(((t.rho - u.rho) / (s.rho - t.rho)) ** 2 * u.alpha / s.alpha if s.alpha > 0 else 0.0)
    return weights


def _tableau(name: str, at: Sequence[Point], weights: Sequence[float]) -> Tableau:
    stages = []
    for i, (t, u) in enumerate(itertools.pairwise(at)):
        update = first_order(t, u)
        if i and weights[i - 1]:
            update = _sum(update, {BEFORE: 1.0}, first_order(t, at[i - 1]), weights[i - 1])
        stages.append(Stage(t.t, t.alpha, t.sigma, update, {BEFORE: {"x": 1.0}}))
    return Tableau(name, tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)


def _sum(step: dict[str, float], state: dict[str, float], back: dict[str, float], weight: float) -> dict[str, float]:
    """``step`` + ``weight`` (``state`` - ``back``)."""
    return {name: step.get(name, 0.0) + weight * (state.get(name, 0.0) - back.get(name, 0.0)) for name in {**step, **state, **back}}


def reversed_tableau(schedule: Steps, tableau: Tableau, *, exact: bool) -> Tableau:
    """``schedule`` from its last time to its first: stage k is evaluated at the k-th time from the end, a clean one too.

    ``exact``: the steps of ``tableau``, one of this file's, solved for the state before; the stages after the first need that of the
    stage before, :data:`BEFORE`. Without, DDIM's steps, each with the prediction at its less noisy end.
    ZeroDivisionError where a step of ``tableau`` does not depend on the state before.
    """
    weights = [1 / stage.update.get(BEFORE, 0.0) for stage in tableau.stages[:0:-1]] if exact else [0.0] * (schedule.steps - 1)
    return _tableau(f"{tableau.sampler} backwards", points(schedule)[::-1], weights)
