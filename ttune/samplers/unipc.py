"""UniPC (Zhao et al. 2023, arXiv 2302.04867): a predictor and a corrector that shares its evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ttune.messages.names import must_be_one_of
from ttune.samplers.points import Point, expands, history, points
from ttune.samplers.steps import Steps
from ttune.samplers.tableau import Stage, Tableau

VARIANTS = ("bh1", "bh2")
# The corrector's row belongs to the stage before: its registers, as the stage that uses it has them.
_LATER = {"x": "x_c", "D_u": "D", "D": "D1", "D1": "D2", "D2": "D3"}
Weights = dict[str, float]


def unipc(schedule: Steps, *, order: int = 2, variant: str = "bh2", corrector: bool = True) -> Tableau:
    """UniP-p with data prediction, and UniC-p (algorithms 5 and 6); B(h) = h ("bh1") or e^h - 1 ("bh2").

    The evaluation at t_i first corrects the step that led there, then feeds the next prediction: one evaluation a step. The
    last state is not corrected. Orders 1 to 3, growing at the first steps; a step to a clean image is x_u = D, and with
    ``lower_order_final`` the last steps are of lower order.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1, 2 or 3, got {order}")
    must_be_one_of("variant", variant, list(VARIANTS))
    at = points(schedule)
    last, stages, before = len(at) - 2, [], 0  # before: the order of the step that led to this evaluation, 0 if not corrected
    for i in range(last + 1):
        t, u = at[i], at[i + 1]
        # The state to go on from, over the registers of this stage: predicted, or corrected with this evaluation.
        state: Weights = {"x": 1.0}
        if corrector and before:
            state = {_LATER[name]: weight for name, weight in _solve(at, i - 1, before, variant, corrects=True).items()}
        p = 1 if u.clean else min(order, i + 1, last + 1 - i if schedule.lower_order_final else order)
        while p > 1 and not (expands(t, u) and expands(at[i - p + 1], t)):
            p -= 1
        step = _solve(at, i, p, variant, corrects=False)
        update: Weights = {}
        for name, weight in step.items():
            for register, share in (state if name == "x" else {name: 1.0}).items():
                update[register] = update.get(register, 0.0) + weight * share
        retain = history("D", i, order) if i < last else {}
        before = p if corrector and i < last and expands(t, u) else 0
        if before:
            retain = retain | {"x_c": state}
        stages.append(Stage(t.t, t.alpha, t.sigma, update, retain))
    return Tableau("unipc", tuple(stages), at[-1].t, at[-1].alpha, at[-1].sigma)


def _solve(at: Sequence[Point], i: int, order: int, variant: str, *, corrects: bool) -> Weights:
    """The row of the step i -> i + 1 over "x", "D", "D1", "D2" and, for the corrector, "D_u", the prediction at its end."""
    t, u = at[i], at[i + 1]
    if not expands(t, u):
        return {"D": u.alpha} | ({"x": u.sigma / t.sigma} if not u.clean else {})
    h = u.lam - t.lam
    ratios = [(at[i - k].lam - t.lam) / h for k in range(1, order)]
    B = -h if variant == "bh1" else math.expm1(-h)
    # b_k = k! phi_{k+1}(-h) (-h)... in the recursion of the authors' code; row k of R holds the ratios' k-th powers.
    phi, factorial, b = math.expm1(-h) / -h - 1, 1, []
    for k in range(1, order + 1):
        b.append(phi * factorial / B)
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    nodes = np.array([*ratios, 1.0])
    R = np.vander(nodes, order, increasing=True).T
    if not corrects:
        # At order 2 the authors take 1/2 instead of solving the one equation, in both variants.
        rho = [0.5] if order == 2 else np.linalg.solve(R[:-1, :-1], b[:-1]).tolist()
    else:
        rho = [0.5] if order == 1 else np.linalg.solve(R, b).tolist()
    row: Weights = {"x": u.sigma / t.sigma, "D": -u.alpha * math.expm1(-h)}
    for k, weight in enumerate(rho):
        # The difference quotient (D_k - D) / r_k of a past prediction, or of the one at the end (r = 1).
        name, ratio = (f"D{k + 1}", ratios[k]) if k < len(ratios) else ("D_u", 1.0)
        share = -u.alpha * B * weight / ratio
        row[name] = share
        row["D"] -= share
    return row
