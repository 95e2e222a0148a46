"""The search for the best untuned schedule of a number of evaluations."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.tuning.untuned_pairs import best_untuned, pairs
from ttune import NoiseSchedule, Schedule

NOISE = NoiseSchedule.linear()


def test_all_pairs_have_the_evaluations_asked_for_and_none_is_there_twice() -> None:
    found = pairs(NOISE, 5, ("ddim", "ddpm", "dpmpp_sde", "unipc", "heun"), ("leading", "trailing"))
    assert {len(schedule.network_times) for schedule in found.values()} == {5}
    assert len({(s.times.tobytes(), repr(s.tableau().stages)) for s in found.values()}) == len(found)
    samplers = {name.split()[0] for name in found}
    assert samplers == {"ddim", "unipc", "heun"}  # the others add noise


def test_the_best_by_each_figure_is_found_with_few_evaluations() -> None:
    tried = {f"{steps}": Schedule.build(NOISE, "ddim", 5, "linspace", t_start=500 + steps) for steps in range(40)}

    def samples(schedule: Schedule, count: int) -> Tensor:
        return torch.full((count,), float(schedule.times[0]))

    figures = [lambda x: abs(float(x[0]) - 517), lambda x: -float(x[0])]
    first, second = best_untuned(tried, samples, figures, ((2, 6), (8, 1)))
    assert (first.name, second.name) == ("17", "39")
    assert first.pairs == 40
    assert first.evaluations == 5 * (2 * 40 + 8 * 12)
