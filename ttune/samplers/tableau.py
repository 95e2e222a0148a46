"""A sampler as numbers: what is combined with what, at every network evaluation.

At each evaluation a sampler forms linear combinations of a few tensors, its *registers*:

========  ====================================================================
``x``     the state that the network just saw
``D``     the prediction of x_0 at that state (clipped, if the denoiser clips)
``eps``   the prediction of the noise, epsilon
``noise`` fresh unit Gaussian noise
others    tensors that an earlier stage retained, under the sampler's own names
========  ====================================================================

A :data:`Row` maps registers to coefficients, float64 and known before the loop starts. How the network's
own output becomes ``D`` and ``eps`` (prediction type, guidance, clipping) is the denoiser's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

Row = Mapping[str, float]

# Rounding of float64 coefficients; the largest over every sampler, grid and noise schedule with 1 to 500 steps was 1e-12.
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Stage:
    """One network evaluation and the update that follows it.

    ``time``, ``alpha``, ``sigma`` are those of the evaluation; ``update`` makes the next ``x``;
    ``retain`` makes the tensors that later stages may use (what is not retained again is forgotten).
    ``excess``: the variance that fresh noise adds on purpose beyond what the next stage's sigma asks for.
    ``log_variance``: the ends, low and high, between which a network with a learned variance chooses the logarithm of the noise's
    variance for every element; ``noise`` is then multiplied by the chosen deviation before its coefficient.
    """

    time: float
    alpha: float
    sigma: float
    update: Row
    retain: Mapping[str, Row] = field(default_factory=dict)
    excess: float = 0.0
    log_variance: tuple[float, float] | None = None

    @property
    def stochastic(self) -> bool:
        return self.update.get("noise", 0.0) != 0.0


@dataclass(frozen=True)
class Start:
    """What a sampler does to the state before its first evaluation: ``update`` over "x" and "noise", from alpha, sigma."""

    alpha: float
    sigma: float
    update: Row
    excess: float = 0.0


@dataclass(frozen=True)
class Tableau:
    """All stages of a sampler on a schedule, and where the last update arrives.

    Construction verifies the sampler's invariants, so a wrong table fails before it meets an image: with the
    true x_0 and epsilon as predictions every update must land on alpha x_0 + sigma epsilon of the next stage,
    and fresh noise must fill up exactly the variance that the deterministic part leaves.

    ``start``: what happens before the first evaluation, None for nothing. What is retained and never used is dropped.
    ``free``: the rows were corrected by tuning (:mod:`ttune.samplers.correction`) and need not land there.
    """

    sampler: str
    stages: tuple[Stage, ...]
    end_time: float
    end_alpha: float
    end_sigma: float
    start: Start | None = None
    free: bool = False

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError(f"stages: the tableau of {self.sampler!r} needs at least one stage, got none")
        if self.start is not None:
            known = {"x": (self.start.alpha, self.start.sigma), "noise": (0.0, 0.0)}
            self._check_landing("start", self.start, known, (self.stages[0].alpha, self.stages[0].sigma))
        retained: dict[str, tuple[float, float]] = {}
        for i, stage in enumerate(self.stages):
            known = {"x": (stage.alpha, stage.sigma), "D": (1.0, 0.0), "eps": (0.0, 1.0), "noise": (0.0, 0.0), **retained}
            for row in stage.retain.values():
                self._check_row(f"stages[{i}]", row, known)
            self._check_landing(f"stages[{i}]", stage, known, self._destination(i))
            retained = {name: _applied(row, known) for name, row in stage.retain.items()}
        object.__setattr__(self, "stages", _without_unused(self.stages))

    def _destination(self, i: int) -> tuple[float, float]:
        if i + 1 < len(self.stages):
            return self.stages[i + 1].alpha, self.stages[i + 1].sigma
        return self.end_alpha, self.end_sigma

    def _check_landing(
        self, where: str, step: Stage | Start, known: Mapping[str, tuple[float, float]], destination: tuple[float, float]
    ) -> None:
        self._check_row(where, step.update, known)
        alpha, sigma = destination
        if self.free:
            return
        signal, noise = _applied(step.update, known)
        filled = math.sqrt(max(0.0, noise**2 + step.update.get("noise", 0.0) ** 2 - step.excess))
        # Where alpha is all but zero, x and epsilon enter with large opposite coefficients, whose difference is rounded at their size.
        size = max(1.0, abs(alpha), sigma, *(abs(c) * max(map(abs, known[name])) for name, c in step.update.items()))
        if abs(signal - alpha) > TOLERANCE * size or abs(filled - sigma) > TOLERANCE * size:
            raise ValueError(
                f"{where} of {self.sampler!r} must land on alpha={alpha:.12g}, sigma={sigma:.12g} when the "
                f"prediction is exact, got {signal:.12g} and {filled:.12g}"
            )

    def _check_row(self, where: str, row: Row, known: Iterable[str]) -> None:
        for name, value in row.items():
            if name not in known:
                raise ValueError(f"{where} of {self.sampler!r} uses {name!r}, which no earlier stage retained")
            if not np.isfinite(value):
                raise ValueError(f"{where} of {self.sampler!r}: the coefficient of {name!r} must be finite, got {value}")

    @property
    def times(self) -> np.ndarray:
        """(n_evaluations,) the solver times of the evaluations."""
        return np.array([stage.time for stage in self.stages])

    @property
    def stochastic(self) -> bool:
        return any(stage.stochastic for stage in self.stages) or (self.start is not None and self.start.update.get("noise", 0.0) != 0.0)

    @property
    def memory(self) -> int:
        """How many evaluations back an update looks (0 for a one-step method, 1 for 2M or Heun)."""
        longest, ages = 0, {}  # retained register -> evaluations since the oldest that went into it
        for stage in self.stages:
            longest = max(longest, *(ages.get(name, 0) for name in stage.update))
            ages = {register: 1 + max((ages.get(name, 0) for name in row), default=0) for register, row in stage.retain.items()}
        return longest

    def show(self) -> str:
        """The table as text, one line per evaluation, to be checked against the paper.

        x' is the state that the next evaluation sees; a line below names what is kept for later ones. lambda = log(alpha / sigma).
        """
        lines = [f"{self.sampler}: {len(self.stages)} evaluations"]
        if self.start is not None:
            lines.append(f"start{'':15}{_level(self.start.alpha, self.start.sigma)}  x' = {_formula(self.start.update)}")
        for i, stage in enumerate(self.stages):
            lines.append(f"{i:3d}  t={stage.time:<12.8g} {_level(stage.alpha, stage.sigma)}  x' = {_formula(stage.update)}")
            if stage.log_variance is not None:
                low, high = (math.exp(value / 2) for value in stage.log_variance)
                lines.append(f"     noise has the deviation that the network chooses for each element between {low:.8g} and {high:.8g}")
            elif stage.excess > TOLERANCE:
                lines.append(f"     noise has {stage.excess:.8g} more variance than the next sigma asks for")
            if stage.retain:
                lines.append("     keep " + ", ".join(f"{name} = {_formula(row)}" for name, row in stage.retain.items()))
        lines.append(f"end  t={self.end_time:<12.8g} {_level(self.end_alpha, self.end_sigma)}".rstrip())
        return "\n".join(lines)

    __str__ = show


def _without_unused(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    pruned: list[Stage] = []
    wanted: set[str] = set()
    for stage in reversed(stages):
        retain = {name: row for name, row in stage.retain.items() if name in wanted}
        pruned.append(replace(stage, retain=retain))
        wanted = {name for row in (stage.update, *retain.values()) for name in row}
    return tuple(reversed(pruned))


def _applied(row: Row, known: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """(coefficient of x_0, coefficient of epsilon) of a row, given those of the registers."""
    return sum(c * known[name][0] for name, c in row.items()), sum(c * known[name][1] for name, c in row.items())


def _level(alpha: float, sigma: float) -> str:
    lam = math.inf if sigma == 0 else -math.inf if alpha == 0 else math.log(alpha / sigma)
    return f"alpha={alpha:<12.8g} sigma={sigma:<12.8g} lambda={lam:<+10.6g}"


def _formula(row: Row) -> str:
    """States first, then predictions, the newest before the older, then noise; without what has no weight."""
    order = {"x": 0, "D": 1, "e": 1, "n": 2}
    terms = sorted(((name, value) for name, value in row.items() if value != 0), key=lambda term: order.get(term[0][0], 1))
    text = " ".join(f"{'-' if value < 0 else '+'} {'' if abs(value) == 1 else f'{abs(value):.8g} '}{name}" for name, value in terms)
    return text.removeprefix("+ ").replace("- ", "-", 1) if text.startswith("- ") else text.removeprefix("+ ") or "0"
