"""The best untuned schedule of a number of network evaluations: every deterministic sampler on every spacing, by successive halving."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ttune import NoiseSchedule, Schedule
from ttune.noise.grids import GRIDS
from ttune.samplers import SAMPLERS

ROUNDS = ((10, 8), (50, 3), (200, 1))  # (samples that the pairs are run on, how many of them go on by each figure)


@dataclass(frozen=True)
class Best:
    """The lowest by one figure, of how many pairs, and how many evaluations of one sample the search took for all figures."""

    name: str
    schedule: Schedule
    pairs: int
    evaluations: int


def pairs(
    noise: NoiseSchedule, evaluations: int, samplers: Iterable[str] = SAMPLERS, spacings: Iterable[str] = GRIDS
) -> dict[str, Schedule]:
    """Every schedule of so many network evaluations by its name "sampler spacing"; of several with the same numbers the first."""
    spacings = list(spacings)
    found: dict[str, Schedule] = {}
    seen: set[tuple[bytes, str]] = set()
    for sampler in samplers:
        for spacing in spacings:
            for schedule in _of(noise, sampler, spacing, evaluations):
                numbers = schedule.times.tobytes(), repr(schedule.tableau().stages)
                if numbers not in seen:
                    seen.add(numbers)
                    found[f"{sampler} {spacing}"] = schedule
    return found


def _of(noise: NoiseSchedule, sampler: str, spacing: str, evaluations: int) -> Iterator[Schedule]:
    """The one whose evaluations are ``evaluations``; none where the sampler takes several a step and they do not fit, or is stochastic."""
    for steps in range(evaluations, 0, -1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of one step that starts without noise
                schedule = Schedule.build(noise, sampler, steps, spacing)
                stochastic = schedule.tableau().stochastic
        except ValueError:  # no such spacing for so few steps
            continue
        if stochastic or len(schedule.network_times) < evaluations:
            return
        if len(schedule.network_times) == evaluations:
            yield schedule
            return


def best_untuned(
    tried: dict[str, Schedule],
    samples: Callable[[Schedule, int], Tensor],
    figures: Sequence[Callable[[Tensor], float]],
    rounds: Sequence[tuple[int, int]] = ROUNDS,
) -> list[Best]:
    """The best by each of ``figures`` (low is good); ``samples(schedule, n)`` runs a schedule on the first n x_T."""
    left, spent = {k: list(tried) for k in range(len(figures))}, 0
    for count, keep in rounds:
        running = {name for names in left.values() for name in names}
        scores = {}
        for name in tried:
            if name in running:
                x = samples(tried[name], count)
                scores[name] = [figure(x) for figure in figures]
                spent += count * len(tried[name].network_times)
        left = {k: sorted(names, key=lambda name: scores[name][k])[:keep] for k, names in left.items()}
    return [Best(left[k][0], tried[left[k][0]], len(tried), spent) for k in left]
