"""Step positions as genes: whole numbers that an evolution may draw, change and mix.

The operators are those of AutoDiffusion (Li et al. 2023, arXiv 2309.10438, section 3.3): a mutation redraws each gene with some
probability, a crossover takes each gene from one of two parents.
"""

from __future__ import annotations

import math

import numpy as np

from ttune.noise import Float64
from ttune.schedule import Schedule
from ttune.tuning.parameters import coordinate, time

Genome = tuple[int, ...]
CELLS = 1000  # of the grid on which a continuous model's positions may stand: as many as discrete models usually have times


class Genes:
    """Schedules that differ from ``start`` in their positions, all but the last one, which is kept.

    A genome is strictly decreasing: indices into ``times`` (ascending), one per position. ``times`` are the whole times of a discrete
    model; for a continuous one, or where ``cells`` is given, that many times, even in half log-SNR. With ``fix_start`` the first
    position is kept too. ValueError if there are fewer times than positions.
    """

    def __init__(self, start: Schedule, *, fix_start: bool = False, cells: int | None = None) -> None:
        self.start = start
        self.times = _times(start, fix_start, cells)
        self._held = 1 if fix_start else 0  # genes that may not change
        if len(self.times) < start.steps:
            raise ValueError(f"schedule: {start.steps} steps need as many different times, this grid has {len(self.times)}")
        self._free = np.arange(len(self.times) - self._held)

    def __len__(self) -> int:
        """How many genomes there are."""
        return math.comb(len(self._free), self.start.steps - self._held)

    def schedule(self, genome: Genome) -> Schedule:
        """ValueError where the sampler does not exist on these positions."""
        return self.start.replace(positions=np.append(self.times[list(genome)], self.start.positions[-1]))

    def encode(self, schedule: Schedule) -> Genome:
        """The genome whose positions are nearest to those of ``schedule``, moved apart where two would be the same."""
        genes = [int(np.abs(self.times - t).argmin()) for t in schedule.positions[:-1]]
        if self._held:
            genes[0] = len(self.times) - 1
        for i in range(len(genes) - 2, -1, -1):
            genes[i] = max(genes[i], genes[i + 1] + 1)
        ceiling = len(self.times)
        for i, gene in enumerate(genes):
            genes[i] = ceiling = min(gene, ceiling - 1)
        return tuple(genes)

    def random(self, rng: np.random.Generator) -> Genome:
        return self._sorted(rng.choice(self._free, self.start.steps - self._held, replace=False).tolist())

    def mutated(self, rng: np.random.Generator, parent: Genome, probability: float) -> Genome:
        """``parent`` with each free gene redrawn with ``probability``, from the times that it does not hold yet."""
        genes = list(parent[self._held :])
        for i in np.flatnonzero(rng.random(len(genes)) < probability):
            others = np.setdiff1d(self._free, genes)
            if len(others):
                genes[i] = int(rng.choice(others))
        return self._sorted(genes)

    def crossed(self, rng: np.random.Generator, a: Genome, b: Genome) -> Genome:
        """Each gene from ``a`` or from ``b``; what both gave is replaced by another gene of theirs."""
        pairs = list(zip(a[self._held :], b[self._held :], strict=True))
        genes = sorted({pair[side] for pair, side in zip(pairs, rng.integers(2, size=len(pairs)), strict=True)})
        spare = sorted({gene for pair in pairs for gene in pair} - set(genes))
        missing = len(pairs) - len(genes)
        return self._sorted([*genes, *rng.choice(spare, missing, replace=False).tolist()] if missing else genes)

    def _sorted(self, genes: list[int]) -> Genome:
        return (*([len(self.times) - 1] * self._held), *sorted(map(int, genes), reverse=True))


def _times(start: Schedule, fix_start: bool, cells: int | None) -> Float64:
    """The times that positions may take, ascending."""
    noise, end = start.noise, start.positions[-1]
    if cells is None and noise.discrete_steps is not None:
        times = np.arange(noise.t_min, noise.t_max + 1)
    else:
        low, high = coordinate(noise, np.array([noise.t_max, noise.t_min]))
        times = np.unique(np.clip(time(noise, np.linspace(low, high, cells or CELLS)), noise.t_min, noise.t_max))
    times = times[times > end]
    return np.append(times[times < start.positions[0]], start.positions[0]) if fix_start else times
