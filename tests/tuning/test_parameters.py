from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttune import NoiseSchedule, Schedule
from ttune.tuning.solvers.parameters import Parameters, coordinate, first_difference, time

NOISES = {
    "linear": NoiseSchedule.linear(),
    "cosine": NoiseSchedule.cosine(),
    "continuous_vp": NoiseSchedule.continuous_vp(),
    "edm": NoiseSchedule.edm(),
    "flow": NoiseSchedule.flow(3.0),
}
KNOBS = [("network_times",), ("times",), ("network_times", "times")]
LINEAR = NOISES["linear"]


@pytest.fixture(params=NOISES, ids=NOISES)
def noise(request: pytest.FixtureRequest) -> NoiseSchedule:
    return NOISES[request.param]


@pytest.mark.parametrize("tune", KNOBS)
@pytest.mark.parametrize("final", ["zero", "min"])
def test_the_start_vector_is_the_start(noise: NoiseSchedule, final: str, tune: tuple[str, ...]) -> None:
    for sampler in ("ddim", "dpmpp_2m"):
        for K in (1, 2, 5):
            start = Schedule.build(noise, sampler, K, "linspace", t_start=0.93 * noise.t_max, final=final)
            start = start.replace(network_times=np.clip(start.network_times * 0.98, noise.t_min, None))
            for fix_start in (False, True):
                if K == 1 and fix_start and tune == ("times",):
                    with pytest.raises(ValueError, match="leaves nothing to tune in a schedule of 1 step"):
                        Parameters(start, tune, fix_start=fix_start)
                    continue
                parameters = Parameters(start, tune, fix_start=fix_start)
                assert len(parameters.start_vector) == K * len(tune)
                assert parameters.schedule(parameters.start_vector) is start
                assert np.array_equal(parameters.project(parameters.start_vector), parameters.start_vector)
                # Not only by comparison: next to the start the decoding is continuous.
                near = parameters.schedule(parameters.project(parameters.start_vector + 1e-12))
                np.testing.assert_allclose(near.times, start.times, rtol=1e-8, atol=1e-8 * noise.t_max)
                np.testing.assert_allclose(near.network_times, start.network_times, rtol=1e-8, atol=1e-8 * noise.t_max)


@given(data=st.data())
def test_any_vector_is_a_valid_schedule(data: st.DataObject) -> None:
    """Decreasing times, network times in the trained range: or, where no room is left before the last position, a ValueError."""
    noise = NOISES[data.draw(st.sampled_from(sorted(NOISES)))]
    tune = data.draw(st.sampled_from(KNOBS))
    K = data.draw(st.integers(1, 6))
    fix_start = data.draw(st.booleans()) and (K > 1 or "network_times" in tune)
    start = Schedule.build(noise, "ddim", K, "linspace", t_start=data.draw(st.sampled_from([1.0, 0.9])) * noise.t_max)
    parameters = Parameters(start, tune, fix_start=fix_start)
    moved = parameters.start_vector.copy()
    moved[parameters.free] += data.draw(st.lists(st.floats(-4, 4), min_size=len(parameters.free), max_size=len(parameters.free)))
    theta = parameters.project(moved)
    np.testing.assert_array_equal(parameters.project(theta), theta)
    try:
        schedule = parameters.schedule(theta)
    except ValueError as error:
        message = str(error)
    else:
        assert (np.diff(schedule.times) < 0).all()
        assert schedule.times[-1] == start.times[-1]
        assert (schedule.network_times >= noise.t_min).all()
        assert (schedule.network_times <= noise.t_max).all()
        if fix_start or "times" not in tune:
            assert schedule.times[0] == start.times[0]
        if "times" not in tune:
            np.testing.assert_array_equal(schedule.times, start.times)
        message = "times must be strictly decreasing"
    assert "times must be strictly decreasing" in message
    assert "times" in tune or message == "times must be strictly decreasing"


def test_one_component_moves_one_thing(noise: NoiseSchedule) -> None:
    start = Schedule.build(noise, "ddim", 4, "linspace", t_start=0.9 * noise.t_max)
    parameters = Parameters(start, ("network_times", "times"))
    for j in range(8):
        theta = parameters.start_vector.copy()
        theta[j] += 0.01
        moved = parameters.schedule(theta)
        changed = moved.times != start.times
        if j < 4:  # t_j and, by the gaps, those after it; the network times follow
            np.testing.assert_array_equal(changed, [i >= j for i in range(4)] + [False])
            np.testing.assert_array_equal(moved.network_times, moved.times[:-1])
        else:
            assert not changed.any()
            assert (moved.network_times != start.network_times).tolist() == [i == j - 4 for i in range(4)]
            y = coordinate(noise, moved.network_times) - coordinate(noise, start.network_times)
            assert y[j - 4] == pytest.approx(0.01, rel=1e-6)


def test_the_start_does_not_leave_the_trained_range() -> None:
    parameters = Parameters(Schedule.build(LINEAR, "ddim", 3, "linspace"), ("times",))
    theta = parameters.start_vector.copy()
    theta[0] -= 0.5
    assert parameters.schedule(parameters.project(theta)).times[0] == 999
    theta[0] += 1.0
    assert parameters.schedule(parameters.project(theta)).times[0] < 999


BOTH = ("network_times", "times")


def test_a_fixed_start_is_not_free() -> None:
    start = Schedule.build(LINEAR, "ddim", 3, "linspace")
    assert Parameters(start, BOTH).free.tolist() == [0, 1, 2, 3, 4, 5]
    assert Parameters(start, BOTH, fix_start=True).free.tolist() == [1, 2, 3, 4, 5]
    assert Parameters(start, ("network_times",), fix_start=True).free.tolist() == [0, 1, 2]


@pytest.mark.parametrize("tune", [(), ("weights",), ("times", "tau")])
def test_unknown_parameters_are_named(tune: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"tune must be one of .* or name one or more of \['network_times', 'times', 'coefficients'\]"):
        Parameters(Schedule.build(LINEAR, "ddim", 3), tune)


def test_the_coordinate_and_its_inverse(noise: NoiseSchedule) -> None:
    t = np.linspace(noise.t_max, noise.t_min, 50)
    y = coordinate(noise, t)
    assert np.isfinite(y).all()
    assert (np.diff(y) > 0).all()
    np.testing.assert_allclose(time(noise, y), t, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(time(noise, y[0] - np.array([0.5, 50.0])), noise.t_max, rtol=1e-12)


def changed(start: Schedule, j: int, **what: float) -> Schedule:
    """``start`` with one position or network time shifted a little."""
    times, passed = start.times.copy(), start.network_times.copy()
    times[j] += what.get("position", 0.0)
    passed[j] += what.get("network_time", 0.0)
    return start.replace(times=times, network_times=passed)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m"])
def test_first_difference(sampler: str) -> None:
    start = Schedule.build(LINEAR, sampler, 5, "linspace", t_start=900)
    for j in range(5):
        assert first_difference(start, changed(start, j, network_time=-0.5)) == (j, False)  # the network is asked anew
        # A position enters the update that leads to it; its network output is still right. t_0 enters only its own.
        assert first_difference(start, changed(start, j, position=-0.5)) == (max(0, j - 1), True)
        # Where the network time follows the position, as it does in the tuner, t_0 asks the network anew.
        assert first_difference(start, changed(start, j, position=-0.5, network_time=-0.5)) == ((j - 1, True) if j else (0, False))
    assert first_difference(start, start) == (4, True)


def test_first_difference_where_the_start_is_scaled() -> None:
    """For EDM another t_0 is another state: nothing can be kept."""
    start = Schedule.build(NOISES["edm"], "euler", 3, "karras")
    assert first_difference(start, changed(start, 0, position=-0.5)) == (0, False)
    assert first_difference(start, changed(start, 1, position=-0.1)) == (0, True)
