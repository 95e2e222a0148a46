"""Singlestep DPM-Solver and DPM-Solver++ with the intermediate evaluations on the schedule's own times.

Times are grouped into steps of up to ``order`` evaluations. The state at every time of a group is a solution of its
own, of growing order, from the group's first time: K times are K evaluations (diffusers' singlestep scheduler).
"""

from __future__ import annotations

import itertools
import math

from ttune.messages.names import must_be_one_of
from ttune.samplers.points import Point, expands, first_order, points
from ttune.samplers.steps import Steps
from ttune.samplers.tableau import Row, Stage, Tableau

INNER = ("log_snr", "grid")
SOLVER_TYPES = ("midpoint", "heun")


def on_grid(name: str, schedule: Steps, order: int, register: str, solver_type: str) -> Tableau:
    """``register``: what is integrated, "D" (DPM-Solver++) or "eps" (DPM-Solver)."""
    at, stages, first = points(schedule), [], 0
    for size in _groups(at, order, schedule.lower_order_final):
        nodes = at[first : first + size + 1]
        if not (expands(nodes[0], nodes[-2]) and (size == 1 or expands(nodes[0], nodes[-1]))):
            stages += [Stage(t.t, t.alpha, t.sigma, first_order(t, u)) for t, u in itertools.pairwise(nodes)]
        else:
            stages += _group(nodes, register, solver_type)
        first += size
    return Tableau(name, tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)


def check_inner(inner: str, solver_type: str) -> None:
    """ValueError for what ``inner`` and ``solver_type`` cannot be."""
    must_be_one_of("inner", inner, list(INNER))
    must_be_one_of("solver_type", solver_type, list(SOLVER_TYPES))
    if inner != "grid" and solver_type != "midpoint":
        raise ValueError(f"solver_type is an option of inner='grid', got {solver_type!r} with inner={inner!r}")


def _groups(at: list[Point], order: int, lowered: bool) -> list[int]:
    """How many evaluations each step has: ``order``, fewer at the end. A step to a clean image has one."""
    steps = len(at) - 1
    full, rest = divmod(steps, order)
    sizes = [order] * full + ([rest] if rest else [])
    last = sizes[-1]
    if last > 1 and (at[-1].clean or (lowered and not rest)):
        sizes[-1:] = [last - 1, 1]
    return sizes


def _group(nodes: list[Point], register: str, solver_type: str) -> list[Stage]:
    t, size = nodes[0], len(nodes) - 1
    stages = [Stage(t.t, t.alpha, t.sigma, first_order(t, nodes[1]), {"x_t": {"x": 1.0}, f"{register}_t": {register: 1.0}})]
    if size > 1:
        s = nodes[1]
        update = second(t, s, nodes[2], register, solver_type)
        retain = {name: {name: 1.0} for name in ("x_t", f"{register}_t")} | {f"{register}_s": {register: 1.0}}
        stages.append(Stage(s.t, s.alpha, s.sigma, update, retain))
    if size > 2:
        update = _third(t, nodes[1], nodes[2], nodes[3], register, solver_type)
        stages.append(Stage(nodes[2].t, nodes[2].alpha, nodes[2].sigma, update))
    return stages


def _weights(t: Point, u: Point, register: str) -> tuple[float, float, float, float, float]:
    """The step's length h, the factor on x, and what a register of 1, r and r^2 / 2 adds, r being the fraction of the step."""
    h = u.lam - t.lam
    data = register == "D"
    z, scale, keep = (-h, u.alpha, u.sigma / t.sigma) if data else (h, u.sigma, u.alpha / t.alpha)
    linear = math.expm1(z) / z - 1
    return h, keep, -scale * math.expm1(z), -scale * linear, -scale * (linear / z - 0.5)


def second(t: Point, s: Point, u: Point, register: str, solver_type: str) -> Row:
    """The row of t -> u at the evaluation at ``s``, over "x_t", the register at t ("D_t") and the register."""
    h, keep, one, linear, _ = _weights(t, u, register)
    slope = (0.5 * one if solver_type == "midpoint" else linear) * h / (s.lam - t.lam)
    return {"x_t": keep, f"{register}_t": one - slope, register: slope}


def _third(t: Point, s1: Point, s2: Point, u: Point, register: str, solver_type: str) -> Row:
    """ "midpoint" looks at the last evaluation only (the papers' algorithms); "heun" at both."""
    h, keep, one, linear, square = _weights(t, u, register)
    r1, r2 = (s1.lam - t.lam) / h, (s2.lam - t.lam) / h
    if solver_type == "midpoint":
        return {"x_t": keep, f"{register}_t": one - linear / r2, register: linear / r2}
    # o' and o'' at t in units of h, from (o_1 - o) / r1 and (o_2 - o) / r2
    first_1, first_2 = r2 / (r2 - r1), -r1 / (r2 - r1)
    second_1, second_2 = -2 / (r2 - r1), 2 / (r2 - r1)
    on_1 = (linear * first_1 + square * second_1) / r1
    on_2 = (linear * first_2 + square * second_2) / r2
    return {"x_t": keep, f"{register}_t": one - on_1 - on_2, f"{register}_s": on_1, register: on_2}
