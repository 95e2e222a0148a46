"""AutoDiffusion's evolution: rounds of mutations and crossovers of the best, and of newcomers (arXiv 2309.10438)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ttune.schedule.schedule import Schedule
from ttune.tuning.methods.fitness import Score
from ttune.tuning.methods.genome import Genes, Genome

DRAWS = 50  # attempts at a child that was not judged before, per child


class Genetic:
    """Candidates are genomes of ``genes`` that were not judged before.

    Half of the first population may be taken by ``first``, in their order; the rest is random. All random numbers come from
    (``seed``, round).
    """

    def __init__(
        self,
        genes: Genes,
        first: Sequence[Schedule],
        *,
        population: int,
        mutations: int,
        probability: float,
        crossovers: int,
        parents: int,
        seed: int,
    ) -> None:
        self.population = population
        self._genes, self._first = genes, first
        self._mutations, self._probability, self._crossovers, self._parents = mutations, probability, crossovers, parents
        self._seed = seed % 2**64  # a generator's seed is not negative
        self._judged: dict[Genome, float] = {}

    def ask(self, number: int) -> list[Genome]:
        """The candidates of round ``number``; fewer, or none, where the genes have no more."""
        rng = np.random.default_rng([self._seed, number])
        chosen: dict[Genome, None] = {}
        if number == 0:
            encoded = dict.fromkeys(map(self._genes.encode, self._first))
            chosen |= dict.fromkeys(list(filter(self._exists, encoded))[: max(1, self.population // 2)])
        else:
            parents = sorted(self._judged, key=lambda genome: self._judged[genome])[: self._parents]
            self._add(chosen, self._mutations, lambda: self._mutation(rng, parents))
            self._add(chosen, self._crossovers, lambda: self._crossover(rng, parents))
        self._add(chosen, self.population - len(chosen), lambda: self._genes.random(rng))
        return list(chosen)

    def tell(self, candidates: Sequence[Genome], scores: Sequence[Score]) -> None:
        self._judged |= {genome: score.fitness for genome, score in zip(candidates, scores, strict=True)}

    def schedule(self, candidate: Genome) -> Schedule:
        return self._genes.schedule(candidate)

    def _mutation(self, rng: np.random.Generator, parents: list[Genome]) -> Genome:
        return self._genes.mutated(rng, parents[rng.integers(len(parents))], self._probability)

    def _crossover(self, rng: np.random.Generator, parents: list[Genome]) -> Genome:
        a, b = rng.integers(len(parents), size=2)
        return self._genes.crossed(rng, parents[a], parents[b])

    def _add(self, chosen: dict[Genome, None], count: int, draw: Callable[[], Genome]) -> None:
        """``count`` more that are new, or fewer where ``draw`` brings forth no new ones."""
        wanted = min(len(chosen) + count, self._genes.count() - len(self._judged))
        for _ in range(DRAWS * count):
            if len(chosen) >= wanted:
                return
            genome = draw()
            if genome not in self._judged and genome not in chosen and self._exists(genome):
                chosen[genome] = None

    def _exists(self, genome: Genome) -> bool:
        try:
            self._genes.schedule(genome)
        except ValueError:  # the sampler does not exist on these times
            return False
        return True
