"""Tuned corrections of a solver's coefficients: what is added to the rows of a tableau.

The general form of a linear sampler is x_{i+1} = a_i x_i + sum_j b_ij D_j over the predictions so far (Bespoke non-stationary
solvers, arXiv 2403.01329). A correction adds to a_i and to the b_ij of the newest prediction and a few before it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ttune.samplers.tableau import Stage, Tableau

MAX_DEPTH = 8  # of past predictions; two are nearly as good as all
STATE_AND_NEWEST = 2  # columns before those of past predictions: x, D


def corrected(tableau: Tableau, coefficients: np.ndarray) -> Tableau:
    """``tableau`` with ``coefficients`` (n_evaluations, 2 + depth) added: to those of x, of D, and of D at the ``depth``
    evaluations before. Zeros are added too, so that every corrected tableau of one shape has the same terms; columns of
    evaluations before the first must be zero. What it lands on is no longer checked: that is what was tuned."""
    depth = coefficients.shape[1] - STATE_AND_NEWEST
    prefix = "D" if all(_is_history(stage) for stage in tableau.stages) else "past_D"
    stages = []
    for i, (stage, row) in enumerate(zip(tableau.stages, coefficients.tolist(), strict=True)):
        known = min(i, depth)
        if any(row[STATE_AND_NEWEST + known :]):
            raise ValueError(f"coefficients of evaluation {i} must be 0 for predictions before the first, got {row}")
        names = ["x", "D", *(f"{prefix}{k}" for k in range(1, known + 1))]
        update = dict(stage.update)
        for name, value in zip(names, row, strict=False):
            update[name] = update.get(name, 0.0) + value
        retain = (
            {f"{prefix}1": {"D": 1.0}} | {f"{prefix}{k + 1}": {f"{prefix}{k}": 1.0} for k in range(1, min(i + 1, depth))} if depth else {}
        )
        stages.append(replace(stage, update=update, retain={**stage.retain, **retain}))
    return replace(tableau, stages=tuple(stages), free=True)


def _is_history(stage: Stage) -> bool:
    """Whether the registers "D1", "D2", ... mean the predictions before (or nothing) in this sampler."""
    expected = {"D1": {"D": 1.0}} | {f"D{k + 1}": {f"D{k}": 1.0} for k in range(1, MAX_DEPTH)}
    return all(stage.retain[name] == expected[name] for name in expected if name in stage.retain)
