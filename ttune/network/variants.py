"""One denoiser of several networks of different cost: a schedule chooses one for each evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from torch import Tensor


@dataclass(frozen=True)
class Variants:
    """``networks[v]`` serves the evaluations where :attr:`ttune.Schedule.variants` says v; ``costs[v]`` is what one call costs.

    The architecture half of AutoDiffusion (Li et al. 2023, arXiv 2309.10438): variants are the same network with some layers passed
    by (:func:`ttune.skip_layers`), or any networks that take the same arguments and predict the same thing. Network 0 is the whole
    one, which serves teachers and schedules that choose nothing; its cost is the unit: costs are shares of it.
    """

    networks: tuple[Callable[..., Tensor], ...]
    costs: tuple[float, ...]

    def __init__(self, networks: Sequence[Callable[..., Tensor]], costs: Sequence[float]) -> None:
        object.__setattr__(self, "networks", tuple(networks))
        object.__setattr__(self, "costs", tuple(float(cost) for cost in costs))
        if not self.networks or not all(map(callable, self.networks)):
            raise TypeError(f"networks must be callables, at least one, got {[type(n).__name__ for n in self.networks]}")
        if len(self.costs) != len(self.networks) or self.costs[0] != 1 or not all(isfinite(c) and c > 0 for c in self.costs):
            raise ValueError(
                f"costs must be positive numbers, one per network, the first 1, got {list(self.costs)} for {len(self.networks)} networks"
            )

    def at(self, variant: int) -> Callable[..., Tensor]:
        """Network number ``variant``; ValueError if there is none."""
        if variant >= len(self.networks):
            raise ValueError(f"schedule: its variants must be less than {len(self.networks)}, the number of networks, got {variant}")
        return self.networks[variant]

    def cost(self, variants: Sequence[int], evaluations: int) -> float:
        """Of one sample by a schedule of so many ``evaluations``; variants () mean that all use network 0."""
        return sum(self.costs[v] for v in variants) if variants else float(evaluations)

    def fitting(self, evaluations: int, budget: float) -> tuple[int, ...]:
        """Of the schedules within ``budget`` a plain one: the cheapest network for as many evaluations as it takes, from the noisiest on
        (there the difference is seen least: T-Stitch, arXiv 2402.14167), network 0 for the rest. ValueError if none is cheap enough.
        """
        cheapest = min(range(len(self.costs)), key=lambda v: self.costs[v])
        for count in range(evaluations + 1):
            variants = (cheapest,) * count + (0,) * (evaluations - count)
            if self.cost(variants, evaluations) <= budget * (1 + 1e-9):  # sums of shares are not exact
                return variants
        least = evaluations * self.costs[cheapest]
        raise ValueError(f"budget must be at least {least:g}, {evaluations} calls of the cheapest network, got {budget:g}")
