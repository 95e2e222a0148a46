"""Detail: lower network times by two numbers, by hand and searched."""

from __future__ import annotations

import numpy as np
import pytest

from ttune import NoiseSchedule, Schedule
from ttune.tuning.detail import TRIALS, DetailSearch, detailed

SCHEDULE = Schedule.build(NoiseSchedule.linear(), "dpmpp_2m", 4, "linspace")


def test_shares_go_from_one_end_to_the_other() -> None:
    np.testing.assert_allclose(SCHEDULE.with_detail(0.03, 0.06).network_times, SCHEDULE.network_times * [1, 0.98, 0.96, 0.94])
    assert (SCHEDULE.with_detail(0.03).times == SCHEDULE.times).all()
    assert SCHEDULE.with_detail(0.0, 0.0) == SCHEDULE
    assert (SCHEDULE.with_detail(-0.5).network_times <= SCHEDULE.noise.t_max).all()


def test_the_rest_stays_and_a_record_says_so() -> None:
    tuned = SCHEDULE.replace(coefficients=np.full((4, 2), 0.01), model={"name": "m"}, tuned={"outcome": "tuned"})
    lower = tuned.with_detail(0.04)
    assert (lower.coefficients == tuned.coefficients).all()
    assert lower.model == tuned.model
    assert lower.tuned == {"outcome": "tuned", "detail": [0.04, 0.0]}
    assert SCHEDULE.with_detail(0.04).tuned == {}


@pytest.mark.parametrize(("level", "slope"), [(1.0, 0.0), (0.5, 1.5), (float("nan"), 0.0)])
def test_shares_of_all_are_refused(level: float, slope: float) -> None:
    with pytest.raises(ValueError, match="level and slope must give shares"):
        SCHEDULE.with_detail(level, slope)


def test_whole_times_stay_whole() -> None:
    assert (detailed(SCHEDULE.with_integer_times(), 0.03, 0.01, whole=True).network_times % 1 == 0).all()


def test_the_search_finds_a_minimum_in_few_trials_and_goes_on_where_it_was() -> None:
    asked: list[tuple[float, float]] = []

    def loss(level: float, slope: float) -> float:
        asked.append((level, slope))
        return (level - 0.05) ** 2 + (slope - 0.05) ** 2 / 8

    search = DetailSearch()
    best = search.run(loss, lambda trials: None)
    assert len(search.trials) == len(asked) <= TRIALS
    np.testing.assert_allclose(best, (0.05, 0.05), atol=0.02)
    first = list(asked)
    asked.clear()
    again = DetailSearch([list(trial) for trial in search.trials[:6]])
    assert again.run(loss, lambda trials: None) == best
    assert asked == first[6:]
