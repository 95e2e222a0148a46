"""What time a host's network is passed: that of the evaluation that the host's sampler is at, never by a neighbour's time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttune
from ttune.adapters.timestep_override import TimestepOverride

TIMES, NETWORK_TIMES = [900.0, 600.5, 300.0, 0.0], [880.25, 610.0, 290.0, 5.0]


def run(override: TimestepOverride, times: list[float], dtype: torch.dtype = torch.float32) -> list[float]:
    return [override(torch.full((2,), t, dtype=dtype))[0].item() for t in times]


def test_every_evaluation_gets_its_own_time_and_a_second_run_starts_anew() -> None:
    override = TimestepOverride(TIMES, NETWORK_TIMES)
    assert run(override, TIMES) == NETWORK_TIMES
    assert run(override, TIMES) == NETWORK_TIMES


def test_repeated_times_are_distinguished_by_their_number() -> None:
    heun = TimestepOverride([900, 600, 600, 300, 300], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert run(heun, [900, 600, 600, 300, 300]) == [1, 2, 3, 4, 5]
    # PNDM begins with one time twice; the repetition is no new run.
    pndm = TimestepOverride([900, 900, 600], [1.0, 2.0, 3.0])
    assert run(pndm, [900, 900, 600, 900, 900, 600]) == [1, 2, 3, 1, 2, 3]


def test_two_calls_an_evaluation_get_the_same() -> None:
    override = TimestepOverride([9, 6, 6], [1.0, 2.0, 3.0], calls_per_evaluation=2)
    assert run(override, [9, 9, 6, 6, 6, 6]) == [1, 1, 2, 2, 3, 3]
    with pytest.raises(ValueError, match=r"must be 9 at evaluation 0, in call 2 of 2, got 6"):
        run(override, [9, 6])


def test_any_number_of_calls_where_no_time_is_repeated() -> None:
    override = TimestepOverride(TIMES, NETWORK_TIMES, calls_per_evaluation=None)
    assert run(override, [900, 900, 900, 600.5, 300, 300, 0, 900]) == [880.25, 880.25, 880.25, 610, 290, 290, 5, 880.25]
    repeated = TimestepOverride([9, 6, 6], [1.0, 2.0, 3.0], calls_per_evaluation=None)
    with pytest.raises(ValueError, match="calls_per_evaluation must be a number here: evaluations 1 and 2 are at time 6 and 6"):
        run(repeated, [9, 6, 6])


def test_a_broken_off_run_may_begin_again() -> None:
    override = TimestepOverride(TIMES, NETWORK_TIMES)
    run(override, TIMES[:2])
    assert run(override, TIMES) == NETWORK_TIMES
    run(override, TIMES[:3])
    override.reset()
    assert override.index == -1
    assert run(override, TIMES) == NETWORK_TIMES


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([899.9], r"time must be 900 at evaluation 0 of 4, got 899\.9"),
        ([900, 300], r"time must be 600\.5 at evaluation 1 of 4, got 300"),
        ([900, 600], r"time must be 600\.5 at evaluation 1 of 4, got 600; the sampler must run on the schedule's own times \(900, 60"),
        ([900, 600.5, 300, 0, 600.5], r"time must be 900, the first, after all 4 evaluations, got 600\.5"),
        ([float("nan")], "got nan"),
    ],
)
def test_another_time_is_an_error_never_the_nearest(times: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(TimestepOverride(TIMES, NETWORK_TIMES), times)


def test_a_batch_at_several_times_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"got from 600\.5 to 900 in one batch"):
        TimestepOverride(TIMES, NETWORK_TIMES)(torch.tensor([900.0, 600.5]))


def test_pass_lets_other_times_through_untouched_and_keeps_the_place() -> None:
    override = TimestepOverride(TIMES, NETWORK_TIMES, unmatched="pass")
    t = torch.tensor([123.5])
    assert override(t) is t
    assert run(override, [900, 77, 600.5]) == [880.25, 77, 610]


def test_whole_numbers_are_answered_with_fractions_and_truncated_ones_refused() -> None:
    override = TimestepOverride([900, 600], [880.25, 610.5])
    first = override(torch.tensor([900, 900]))
    assert first.dtype == torch.float32
    assert first.tolist() == [880.25, 880.25]
    assert override(600).item() == 610.5  # a Python number
    truncated = TimestepOverride(TIMES, NETWORK_TIMES)
    truncated(torch.tensor(900))
    with pytest.raises(ValueError, match=r"got 600; this host has whole times only: use schedule.with_integer_times\(\)"):
        truncated(torch.tensor(600))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_tolerance_follows_the_dtype(dtype: torch.dtype) -> None:
    times = np.array([80.0, 9.7, 0.31, 0.0021])
    override = TimestepOverride(times, [1.0, 2.0, 3.0, 4.0])
    given = torch.tensor(times, dtype=dtype)
    answers = [override(t) for t in given]
    assert [a.item() for a in answers] == [1, 2, 3, 4]
    assert {a.dtype for a in answers} == {torch.float64 if dtype == torch.float64 else torch.float32}
    assert {a.shape for a in answers} == {torch.Size([])}
    far = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 0.004}[dtype]
    with pytest.raises(ValueError, match="must be 80"):
        override((given[0].double() * (1 - far)).to(dtype))


def test_half_precision_that_cannot_distinguish_neighbours_is_an_error() -> None:
    override = TimestepOverride([999.0, 998.0], [1.0, 2.0], calls_per_evaluation=None)
    override(torch.tensor(999.0, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="do not distinguish"):
        override(torch.tensor(998.0, dtype=torch.bfloat16))


def test_of_a_schedule_in_the_unit_of_the_host() -> None:
    noise = ttune.NoiseSchedule.linear()
    rho = lambda t: noise.sigma(t) / noise.alpha(t)  # noqa: E731
    schedule = ttune.Schedule.build(noise, "heun", 3, "log_snr", t_start=900.0)
    schedule = schedule.replace(network_times=np.clip(schedule.network_times + 2.5, noise.t_min, noise.t_max))
    override = TimestepOverride.of(schedule, rho, rho, unit="sigma")
    times = schedule.tableau().times
    for t, c in zip(noise.sigma(times) / noise.alpha(times), schedule.network_times, strict=True):
        assert override(torch.tensor(t)).item() == pytest.approx(float(noise.sigma(c) / noise.alpha(c)), rel=1e-12)


def test_what_a_host_cannot_know_is_refused() -> None:
    schedule = ttune.Schedule.build(ttune.NoiseSchedule.linear(), "ddim", 3)
    with pytest.raises(ValueError, match="schedule must do without tuned coefficients"):
        TimestepOverride.of(schedule.replace(coefficients=np.zeros((3, 3))))
    with pytest.raises(ValueError, match="schedule must do without variants of the network"):
        TimestepOverride.of(schedule.replace(variants=(0, 1, 0)))
    with pytest.raises(ValueError, match="which needs the state"):
        TimestepOverride.of(schedule.replace(shift=ttune.Shift(window=100.0, cutoff=0.0)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [1]), "times and network_times must be of one length, at least 1, got 2 and 1"),
        (([], []), "at least 1, got 0 and 0"),
        (([1, float("inf")], [1, 2]), "times must be finite, got"),
    ],
)
def test_lists_that_do_not_fit(arguments: tuple[list[float], list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimestepOverride(*arguments)


def test_settings_that_there_are_not() -> None:
    with pytest.raises(ValueError, match="calls_per_evaluation must be a whole number >= 1, or None, got 0"):
        TimestepOverride([1], [1], calls_per_evaluation=0)
    with pytest.raises(ValueError, match="unmatched must be 'raise' or 'pass', got 'nearest'"):
        TimestepOverride([1], [1], unmatched="nearest")
    with pytest.raises(TypeError, match=r"time must be a number or a tensor of numbers, got torch\.bool"):
        TimestepOverride([1], [1])(torch.tensor([True]))


def test_adapters_are_attributes_of_ttune_imported_when_used() -> None:
    with pytest.raises(AttributeError, match=r"adapters are .*, got 'nothing'"):
        ttune.adapters.load("nothing")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        ttune.nothing  # noqa: B018


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_any_run_is_followed_whatever_repeats(offsets: list[int], calls: int, runs: int) -> None:
    """Every call of every run gets the time of its own evaluation."""
    numbers = [float(i) for i in range(len(offsets))]
    override = TimestepOverride([100.0 + s for s in offsets], numbers, calls_per_evaluation=calls)
    times = [100.0 + s for s in offsets for _ in range(calls)]
    expected = [n for n in numbers for _ in range(calls)]
    for _ in range(runs):
        assert run(override, times) == expected
    assert (override.index, override._calls) == (len(offsets) - 1, calls)
