"""A stage of a tableau as rows over what a loop really holds: the state, the network's outputs, retained tensors.

A tableau speaks of ``D`` and ``eps``; a loop has the network's outputs "o0" (and "o1" with classifier-free guidance).
Prediction type and guidance are linear, so they fold into the same row; clipping leaves one more column, the clamped D.
Numbers only, no tensors: loops in PyTorch and in NumPy start from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ttune.samplers.tableau import Row, Stage

Rows = Mapping[str, Row]

START_DRAW = -2  # the noise before the first evaluation; draws from 0 on belong to the stages, -1 to x_T


PREDICTION = "prediction"  # D as a tensor of its own, where something bounds it that is not linear


def fold(stage: Stage, data_row: Sequence[float], clips: bool, clip_epsilon: str = "recompute", *, separate: bool = False) -> Rows:
    """New register -> its row over "x", "o0", "o1", retained registers, "D" (the clamped prediction) and "noise".

    ``data_row``: coefficients of the x_0 prediction over (x, *outputs). With ``clips``, the first row is "D", the
    prediction before it is clamped; ``clip_epsilon``: whether epsilon is recomputed from the clamped D or kept. With
    ``separate`` the rows use the register "prediction" for D instead.
    """
    alpha, sigma = stage.alpha, stage.sigma
    x_weight, *output_weights = data_row
    raw_D = {"x": x_weight} | {f"o{j}": weight for j, weight in enumerate(output_weights)}
    D: Row = {"D": 1.0} if clips else {PREDICTION: 1.0} if separate else raw_D
    eps = _sum((1 / sigma, {"x": 1.0}), (-alpha / sigma, D if clip_epsilon == "recompute" else raw_D))
    meaning = {"D": D, "eps": eps}

    def folded(row: Row) -> Row:
        return _sum(*((value, meaning.get(name, {name: 1.0})) for name, value in row.items()))

    first = {"D": raw_D} if clips else {}
    return first | {"x": folded(stage.update)} | {name: folded(row) for name, row in stage.retain.items()}


@dataclass(frozen=True)
class Block:
    """Rows as arrays: ``outputs`` = ``coeffs`` @ (``terms``, then the clamped D with ``clips``, then noise with ``stochastic``).

    ``renames``: registers (new name, old name) that need no arithmetic, only another name.
    """

    terms: tuple[str, ...]
    outputs: tuple[str, ...]
    coeffs: np.ndarray  # (R, C)
    stochastic: bool
    renames: tuple[tuple[str, str], ...]


def block(rows: Rows) -> Block:
    """One stage's rows with the columns that it uses."""
    aliases = {name: old for name, row in rows.items() if name != "D" and (old := _alias(row)) is not None}
    computed = {name: row for name, row in rows.items() if name not in aliases}
    columns = dict.fromkeys(name for row in computed.values() for name in row)
    terms = tuple(name for name in columns if name not in ("D", "noise"))
    coeffs = _dense(computed, tuple(computed), terms, "D" in rows, "noise" in columns)
    return Block(terms, tuple(computed), coeffs, "noise" in columns, tuple(aliases.items()))


def _alias(row: Row) -> str | None:
    """The register that ``row`` repeats. A network's output is copied, never given another name: the network may
    write the next one into the same memory (CUDA graphs)."""
    if len(row) == 1:
        ((old, value),) = row.items()
        if value == 1.0 and old != "noise" and not (old.startswith("o") and old[1:].isdigit()):
            return old
    return None


def _dense(rows: Rows, outputs: Sequence[str], terms: Sequence[str], clips: bool, stochastic: bool) -> np.ndarray:
    columns = [*terms, *(["D"] if clips else []), *(["noise"] if stochastic else [])]
    return np.array([[rows.get(name, {}).get(column, 0.0) for column in columns] for name in outputs], np.float64)


def _sum(*weighted: tuple[float, Row]) -> dict[str, float]:
    total: dict[str, float] = {}
    for weight, row in weighted:
        for name, value in row.items():
            total[name] = total.get(name, 0.0) + weight * value
    return {name: value for name, value in total.items() if value != 0.0}
