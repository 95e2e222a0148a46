"""Schedules as genes: whole numbers that an evolution may draw, change and mix.

The operators are those of AutoDiffusion (Li et al. 2023, arXiv 2309.10438, section 3.3): a mutation redraws each gene with some
probability, a crossover takes each gene from one of two parents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ttune.network.denoiser import Denoiser
from ttune.network.variants import Variants
from ttune.noise.schedules import Float64
from ttune.schedule.schedule import Schedule
from ttune.tuning.solvers.parameters import coordinate, time

Genome = tuple[int, ...]
TUNABLE = ("times", "variants")
CELLS = 1000  # of the grid of a continuous model's times: as many as discrete models usually have times


class Part(Protocol):
    """Some genes of a genome: those of one field of a schedule."""

    field: str
    genes: int  # how many there are

    def count(self) -> int:
        """How many different values they have together, or an upper bound."""
        ...

    def encode(self, schedule: Schedule) -> Genome: ...

    def decode(self, genome: Genome) -> Any: ...

    def random(self, rng: np.random.Generator) -> Genome: ...

    def mutated(self, rng: np.random.Generator, parent: Genome, probability: float) -> Genome: ...

    def crossed(self, rng: np.random.Generator, a: Genome, b: Genome) -> Genome: ...


class Genes:
    """Schedules that differ from ``start`` in what ``tune`` names: "times", "variants" or both.

    ``fix_start`` and ``cells``: see :class:`PositionGenes`; ``budget``: see :class:`VariantGenes`.
    """

    def __init__(
        self,
        start: Schedule,
        denoiser: Denoiser,
        tune: Sequence[str] = ("times",),
        *,
        fix_start: bool = False,
        cells: int | None = None,
        budget: float | None = None,
    ) -> None:
        self.start = start
        self.parts: list[Part] = []
        if "times" in tune:
            self.parts.append(PositionGenes(start, fix_start=fix_start, cells=cells))
        if "variants" in tune:
            self.parts.append(VariantGenes(start, denoiser, budget))

    def count(self) -> int:
        """How many genomes there are, or an upper bound; more than len() can say, for ten steps out of a thousand."""
        return math.prod(part.count() for part in self.parts)

    def schedule(self, genome: Genome) -> Schedule:
        """ValueError where the sampler does not exist on these times."""
        return self.start.replace(**{part.field: part.decode(own) for part, own in zip(self.parts, self._split(genome), strict=True)})

    def encode(self, schedule: Schedule) -> Genome:
        """The nearest genome to ``schedule``."""
        return _joined([part.encode(schedule) for part in self.parts])

    def random(self, rng: np.random.Generator) -> Genome:
        return _joined([part.random(rng) for part in self.parts])

    def mutated(self, rng: np.random.Generator, parent: Genome, probability: float) -> Genome:
        """``parent`` with each gene redrawn with ``probability``."""
        return _joined([part.mutated(rng, own, probability) for part, own in zip(self.parts, self._split(parent), strict=True)])

    def crossed(self, rng: np.random.Generator, a: Genome, b: Genome) -> Genome:
        """Each gene from ``a`` or from ``b``."""
        return _joined([part.crossed(rng, *pair) for part, *pair in zip(self.parts, self._split(a), self._split(b), strict=True)])

    def _split(self, genome: Genome) -> list[Genome]:
        ends = np.cumsum([part.genes for part in self.parts]).tolist()
        return [genome[end - part.genes : end] for part, end in zip(self.parts, ends, strict=True)]


class PositionGenes:
    """All times of a schedule but the last one, which is kept: strictly decreasing indices into ``times`` (ascending).

    ``times`` are the whole times of a discrete model; for a continuous one, or where ``cells`` is given, that many times, even in half
    log-SNR. With ``fix_start`` the first time is kept too. ValueError if there are fewer of them than steps.
    """

    field = "times"

    def __init__(self, start: Schedule, *, fix_start: bool = False, cells: int | None = None) -> None:
        self.genes = start.steps
        self.times = _times(start, fix_start, cells)
        self._last = start.times[-1]
        self._held = 1 if fix_start else 0  # genes that may not change
        if len(self.times) < self.genes:
            raise ValueError(f"schedule: {self.genes} steps need as many different times, this grid has {len(self.times)}")
        self._free = np.arange(len(self.times) - self._held)

    def count(self) -> int:
        return math.comb(len(self._free), self.genes - self._held)

    def decode(self, genome: Genome) -> Float64:
        return np.append(self.times[list(genome)], self._last)

    def encode(self, schedule: Schedule) -> Genome:
        """The nearest times, moved apart where two would be the same."""
        genes = [int(np.abs(self.times - t).argmin()) for t in schedule.times[:-1]]
        if self._held:
            genes[0] = len(self.times) - 1
        for i in range(len(genes) - 2, -1, -1):
            genes[i] = max(genes[i], genes[i + 1] + 1)
        ceiling = len(self.times)
        for i, gene in enumerate(genes):
            genes[i] = ceiling = min(gene, ceiling - 1)
        return tuple(genes)

    def random(self, rng: np.random.Generator) -> Genome:
        return self._sorted(rng.choice(self._free, self.genes - self._held, replace=False).tolist())

    def mutated(self, rng: np.random.Generator, parent: Genome, probability: float) -> Genome:
        """A gene is redrawn from the times that are not there yet."""
        genes = list(parent[self._held :])
        for i in np.flatnonzero(rng.random(len(genes)) < probability):
            others = np.setdiff1d(self._free, genes)
            if len(others):
                genes[i] = int(rng.choice(others))
        return self._sorted(genes)

    def crossed(self, rng: np.random.Generator, a: Genome, b: Genome) -> Genome:
        """What both parents gave is replaced by another gene of theirs."""
        pairs = list(zip(a[self._held :], b[self._held :], strict=True))
        genes = sorted({pair[side] for pair, side in zip(pairs, rng.integers(2, size=len(pairs)), strict=True)})
        spare = sorted({gene for pair in pairs for gene in pair} - set(genes))
        missing = len(pairs) - len(genes)
        return self._sorted([*genes, *rng.choice(spare, missing, replace=False).tolist()] if missing else genes)

    def _sorted(self, genes: list[int]) -> Genome:
        return (*([len(self.times) - 1] * self._held), *sorted(map(int, genes), reverse=True))


class VariantGenes:
    """Which network serves each evaluation; together they cost no more than ``budget``, by default what ``start`` costs.

    What an operator makes too expensive is repaired: evaluations drawn at random get a cheaper network until it fits.
    ValueError if the denoiser has no :class:`ttune.Variants`, or ``start`` is beyond the budget.
    """

    field = "variants"

    def __init__(self, start: Schedule, denoiser: Denoiser, budget: float | None) -> None:
        if not isinstance(denoiser.network, Variants):
            raise ValueError(f"denoiser: tuning variants needs a network that is a ttune.Variants, got {type(denoiser.network).__name__}")
        self.genes = len(start.network_times)
        self.costs = np.array(denoiser.network.costs)
        cost = denoiser.network.cost(start.variants, self.genes)
        self.budget = (cost if budget is None else budget) * (1 + 1e-9)  # sums of shares are not exact
        if cost > self.budget:
            raise ValueError(
                f"budget must be no less than what the schedule costs, {cost:g}, got {budget:g}; begin from "
                f"schedule.replace(variants={list(denoiser.network.fitting(self.genes, self.budget))})"
            )

    def count(self) -> int:
        return len(self.costs) ** self.genes

    def encode(self, schedule: Schedule) -> Genome:
        return schedule.variants or (0,) * self.genes

    def decode(self, genome: Genome) -> Genome:
        return genome

    def random(self, rng: np.random.Generator) -> Genome:
        return self._fitting(rng, rng.integers(len(self.costs), size=self.genes))

    def mutated(self, rng: np.random.Generator, parent: Genome, probability: float) -> Genome:
        redrawn = rng.random(self.genes) < probability
        return self._fitting(rng, np.where(redrawn, rng.integers(len(self.costs), size=self.genes), parent))

    def crossed(self, rng: np.random.Generator, a: Genome, b: Genome) -> Genome:
        return self._fitting(rng, np.where(rng.integers(2, size=self.genes) == 0, a, b))

    def _fitting(self, rng: np.random.Generator, genes: np.ndarray) -> Genome:
        while self.costs[genes].sum() > self.budget:
            i = rng.choice(np.flatnonzero(self.costs[genes] > self.costs.min()))
            genes[i] = rng.choice(np.flatnonzero(self.costs < self.costs[genes[i]]))
        return tuple(genes.tolist())


def _joined(parts: Sequence[Genome]) -> Genome:
    return tuple(gene for part in parts for gene in part)


def _times(start: Schedule, fix_start: bool, cells: int | None) -> Float64:
    """The times that a schedule may take, ascending."""
    noise, end = start.noise, start.times[-1]
    if cells is None and noise.discrete_steps is not None:
        times = np.arange(noise.t_min, noise.t_max + 1)
    else:
        low, high = coordinate(noise, np.array([noise.t_max, noise.t_min]))
        times = np.unique(np.clip(time(noise, np.linspace(low, high, cells or CELLS)), noise.t_min, noise.t_max))
    times = times[times > end]
    return np.append(times[times < start.times[0]], start.times[0]) if fix_start else times
