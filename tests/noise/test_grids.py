"""The grids against straight transcriptions of their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ttune import NoiseSchedule, Schedule
from ttune.noise.grids import AYS_TABLES, GRIDS, grid

N = 1000
LINEAR = NoiseSchedule.linear(N)
NOISES = {
    "linear": LINEAR,
    "short": NoiseSchedule.linear(37, 1e-3, 0.3),
    "cosine": NoiseSchedule.cosine(),
    "continuous_vp": NoiseSchedule.continuous_vp(),
    "edm": NoiseSchedule.edm(),
    "ve": NoiseSchedule.ve(),
    "flow": NoiseSchedule.flow(3.0),
}


def leading(K: int) -> list[float]:
    return [(N // K) * i for i in range(K - 1, -1, -1)]


def trailing(K: int) -> list[float]:
    return [round(N - i * N / K) - 1 for i in range(K)]


def linspace(K: int) -> list[float]:
    return [999 - i * 999 / K for i in range(K)]


def quadratic(K: int) -> list[float]:
    return [999 * ((K - i) / K) ** 2 for i in range(K)]


def log_snr(K: int) -> list[float]:
    first, last = (float(LINEAR.half_log_snr(t)) for t in (999, 0))
    return [float(LINEAR.time(first + (last - first) * i / K)) for i in range(K)]


def karras(K: int) -> list[float]:
    first, last = (float(LINEAR.sigma(t) / LINEAR.alpha(t)) ** (1 / 7) for t in (999, 0))
    ratios = [(first + (last - first) * (i / (K - 1) if K > 1 else 0)) ** 7 for i in range(K)]
    return [float(LINEAR.time(-math.log(ratio))) for ratio in ratios]


def exponential(K: int) -> list[float]:
    first, last = (math.log(rho(t)) for t in (999, 0))
    return [at_rho(math.exp(first + (last - first) * (i / (K - 1) if K > 1 else 0))) for i in range(K)]


def beta(K: int) -> list[float]:
    return [999 * float(stats.beta.ppf(1 - i / K, 0.6, 0.6)) for i in range(K)]


def beta57(K: int) -> list[float]:
    return [999 * float(stats.beta.ppf(1 - i / K, 0.5, 0.7)) for i in range(K)]


def bong_tangent(K: int) -> list[float]:
    """In RES4LYF's own terms: both halves of (2 / pi atan(-slope (x - pivot)) + 1) / 2, each stretched to its ends."""
    if K == 1:  # where the original divides by zero
        return [999.0]
    total, pivot = K + 2, int((K + 2) * 0.6)
    slope = 0.2 / (total / 40)

    def half(length: int, pivot: int, start: float, end: float) -> list[float]:
        curve = [(2 / math.pi * math.atan(-slope * (x - pivot)) + 1) / 2 for x in range(length)]
        return [(c - curve[-1]) / (curve[0] - curve[-1]) * (start - end) + end for c in curve]

    levels = half(pivot, pivot, 1.0, 0.5)[:-1] + half(total - pivot, 0, 0.5, 0.0)
    assert len(levels) == K + 1
    return [999 * level for level in levels[:-1]]


def beta_sigma(K: int) -> list[float]:
    quantiles = [float(stats.beta.ppf(1 - (i / (K - 1) if K > 1 else 0), 0.6, 0.6)) for i in range(K)]
    return [at_rho(rho(0) + q * (rho(999) - rho(0))) for q in quantiles]


def _stretched(table: str) -> Callable[[int], list[float]]:
    def formula(K: int) -> list[float]:
        logs = [math.log(value) for value in AYS_TABLES[table]]
        times = []
        for i in range(K):
            place = 10 * i / K
            j = int(place)
            value = logs[j] + (place - j) * (logs[j + 1] - logs[j])
            share = (value - logs[-1]) / (logs[0] - logs[-1])
            times.append(at_rho(math.exp(math.log(rho(0)) + share * (math.log(rho(999)) - math.log(rho(0))))))
        return times

    return formula


def rho(t: float) -> float:
    return float(LINEAR.sigma(t) / LINEAR.alpha(t))


def at_rho(value: float) -> float:
    return float(LINEAR.time(-math.log(value)))


FORMULAS = {f.__name__: f for f in (leading, trailing, linspace, quadratic, log_snr, karras, exponential)}
FORMULAS |= {f.__name__: f for f in (beta, beta57, beta_sigma, bong_tangent)}
FORMULAS |= {name: _stretched(name) for name in AYS_TABLES}


def test_ten_steps_on_their_own_model_are_the_published_ones() -> None:
    """Where the published table's ends are the schedule's own, the times agree with the published ones to the table's digits."""
    latent_diffusion = NoiseSchedule.scaled_linear()
    for name, times in (
        ("ays", [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]),
        ("ays_sdxl", [999, 845, 730, 587, 443, 310, 193, 116, 53, 13]),
    ):
        np.testing.assert_allclose(grid(latent_diffusion, name, 10)[:-1], times, atol=1.5)


def test_every_grid_has_a_formula_here() -> None:
    assert FORMULAS.keys() == GRIDS.keys()


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("K", [1, 2, 3, 5, 7, 10, 13, 30, 128])
def test_formula(name: str, K: int) -> None:
    times = grid(LINEAR, name, K)
    formula: Callable[[int], list[float]] = FORMULAS[name]
    np.testing.assert_allclose(times, [*formula(K), -1], rtol=1e-9, atol=1e-7)


def test_diffusers_and_dpm_solvers_published_grids() -> None:
    """Numbers as the libraries print them."""
    assert grid(LINEAR, "leading", 5).tolist() == [800, 600, 400, 200, 0, -1]
    assert grid(LINEAR, "leading", 5, offset=1).tolist() == [801, 601, 401, 201, 1, -1]
    assert grid(LINEAR, "trailing", 7).tolist() == [999, 856, 713, 570, 428, 285, 142, -1]
    np.testing.assert_allclose(grid(LINEAR, "linspace", 3), [999, 666, 333, -1], rtol=1e-15)


@pytest.mark.parametrize("final", ["zero", "min"])
@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@given(K=st.integers(1, 37), name=st.sampled_from(sorted(GRIDS)), u=st.floats(0.5, 0.999))
def test_k_is_exact(noise: NoiseSchedule, final: str, K: int, name: str, u: float) -> None:
    """Whatever the arguments: exactly K + 1 decreasing times from t_start to the end, or an error that names the grid."""
    t_start = u * noise.t_max
    # Grids of whole numbers may run out of them, and do not exist in continuous time; two others can pass t_min.
    low = t_start / K**2 if name == "quadratic" else t_start * stats.beta.ppf(1 / K, 0.5, 0.7) if name == "beta57" else math.inf
    may_fail = name in ("leading", "trailing") or low <= noise.t_min
    try:
        times = grid(noise, name, K, t_start=t_start, final=final)
    except ValueError:
        if not may_fail:
            raise
        return
    assert times.shape == (K + 1,)
    assert (np.diff(times) < 0).all()
    assert times[-1] == (noise.t_clean if final == "zero" else noise.t_min)
    if name not in ("leading", "trailing"):
        assert times[0] == t_start  # exactly
    assert times[0] <= t_start + (0.5 if name == "trailing" else 0)  # whole times
    assert times.dtype == np.float64


@pytest.mark.parametrize("K", range(1, 41))
def test_k_that_does_not_divide_n(K: int) -> None:
    for name in GRIDS:
        assert Schedule.build(LINEAR, "ddim", K, name).steps == K
        if name != "leading":  # its last evaluation is at index 0 itself
            assert Schedule.build(LINEAR, "ddim", K, name, final="min").steps == K
    assert Schedule.build(LINEAR, "ddim", K, "leading", final="min", offset=1).steps == K


def test_t_start_takes_the_place_of_n() -> None:
    assert grid(LINEAR, "linspace", 2, t_start=900).tolist() == [900, 450, -1]
    assert grid(LINEAR, "quadratic", 2, t_start=800).tolist() == [800, 200, -1]
    assert grid(LINEAR, "trailing", 3, t_start=899).tolist() == [899, 599, 299, -1]
    assert grid(LINEAR, "leading", 3, t_start=899).tolist() == [600, 300, 0, -1]


def test_log_snr_and_karras_ends() -> None:
    times = grid(LINEAR, "log_snr", 4, t_start=900, final="min")
    np.testing.assert_allclose(np.diff(LINEAR.half_log_snr(times), 2), 0, atol=1e-9)
    zero = grid(LINEAR, "log_snr", 4, t_start=900)
    np.testing.assert_array_equal(zero[:-1], times[:-1])
    assert grid(LINEAR, "karras", 4)[-2] == pytest.approx(0, abs=1e-6)  # the smallest trained time is evaluated
    roots = np.exp(-LINEAR.half_log_snr(grid(LINEAR, "karras", 4, final="min"))) ** (1 / 7)
    np.testing.assert_allclose(np.diff(roots, 2), 0, atol=1e-9)


def test_edm_karras_is_the_papers_equation_5() -> None:
    noise, K = NoiseSchedule.edm(), 18
    a, b = 80 ** (1 / 7), 0.002 ** (1 / 7)
    expected = [(a + i / (K - 1) * (b - a)) ** 7 for i in range(K)] + [0]
    np.testing.assert_allclose(grid(noise, "karras", K), expected, rtol=1e-12)


def test_published_levels_of_a_flow() -> None:
    """bong_tangent of 4 steps as RES4LYF's own code gives it; on a flow a time is sigma."""
    expected = [1.0, 0.8572326246851394, 0.5, 0.11746056570255357, 0.0]
    np.testing.assert_allclose(grid(NoiseSchedule.flow(3.0), "bong_tangent", 4), expected, atol=1e-9)
    ends = grid(NoiseSchedule.flow(), "bong_tangent", 4, final="min")[[0, -2, -1]]
    np.testing.assert_allclose(ends, [1.0, 0.001 + 0.999 * 0.11746056570255357, 0.001], atol=1e-9)


def test_flow_shift_bends_the_even_grid() -> None:
    u = np.array([1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(grid(NoiseSchedule.flow(3.0), "linspace", 4), 3 * u / (1 + 2 * u), rtol=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be a whole number >= 1, got 0"),
        ({"steps": -3}, "steps must be a whole number >= 1, got -3"),
        ({"steps": 2.5}, "steps must be a whole number >= 1, got 2.5"),
        ({"steps": True}, "steps must be a whole number >= 1, got True"),
        ({"steps": None}, "steps must be a whole number >= 1, got None"),
        ({"steps": 1001}, "steps must be at most the 1000 training steps, got 1001"),
        ({"steps": 1001, "spacing": "trailing"}, "steps must be at most the 1000 training steps, got 1001"),
        ({"spacing": "even"}, "spacing must be one of .*'even'"),
        ({"final": "none"}, "final must be 'zero' or 'min', got 'none'"),
        ({"final": "min"}, "'leading' with steps=5, .*final='min'"),
        ({"t_start": 1000}, r"t_start must lie in \(0, 999\], got 1000"),
        ({"t_start": 0}, r"t_start must lie in \(0, 999\], got 0"),
        ({"t_start": math.nan}, "t_start must lie in .*nan"),
        ({"offset": 300}, "offset=300 gives times"),
        ({"offset": -1}, "offset=-1 gives times"),
        ({"offset": 1, "spacing": "linspace"}, "offset is an option of the 'leading' grid"),
        ({"spacing": [999, 500, 500, -1], "steps": 3}, "times must be strictly decreasing"),
        ({"spacing": [1, 500, -1], "steps": 2}, "times must be strictly decreasing"),
        ({"spacing": [999, math.nan, -1], "steps": 2}, "spacing must be finite"),
        ({"spacing": [1000, -1], "steps": 1}, r"times must lie in \[-1, 999\]"),
        ({"spacing": [999, -2], "steps": 1}, r"times must lie in \[-1, 999\]"),
        ({"spacing": [999, -1], "steps": 2}, r"steps \+ 1 = 3 times, got 2"),
        ({"spacing": [999], "steps": None}, "at least two "),
        ({"spacing": [[999, -1]], "steps": None}, r"one-dimensional, got shape \(1, 2\)"),
        ({"spacing": ["a", "b"], "steps": None}, "spacing must be a sequence of numbers"),
        ({"spacing": [999, -1], "steps": 1, "t_start": 999}, "t_start cannot go with explicit times"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule.build(LINEAR, "ddim", **({"steps": 5} | arguments))  # type: ignore[arg-type]


def test_grids_that_need_what_the_noise_schedule_lacks() -> None:
    with pytest.raises(ValueError, match="'leading' counts training steps and needs a discrete noise schedule"):
        grid(NoiseSchedule.edm(), "leading", 5)
    with pytest.raises(ValueError, match="'log_snr' needs a finite sigma / alpha at t_start"):
        grid(NoiseSchedule.flow(), "log_snr", 5)
    with pytest.raises(ValueError, match="'karras' needs a finite sigma / alpha at t_start"):
        grid(NoiseSchedule.flow(), "karras", 5)


def test_explicit_times_are_used_as_they_are() -> None:
    values = [998.25, 12.5, 0.125, -0.5]
    assert Schedule.build(LINEAR, "ddim", None, values).times.tolist() == values
