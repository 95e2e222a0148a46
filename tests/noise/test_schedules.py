from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import alpha_sigma
from ttune import NoiseSchedule

KINDS = {
    "linear": NoiseSchedule.linear(),
    "scaled_linear": NoiseSchedule.scaled_linear(),
    "cosine": NoiseSchedule.cosine(),
    "from_betas": NoiseSchedule.from_betas([0.1, 0.2, 0.3]),
    "from_alphas_cumprod": NoiseSchedule.from_alphas_cumprod([0.9, 0.5, 0.1]),
    "sigmoid": NoiseSchedule.sigmoid(),
    "zero terminal SNR": NoiseSchedule.scaled_linear().zero_terminal_snr(),
    "continuous_vp": NoiseSchedule.continuous_vp(),
    "edm": NoiseSchedule.edm(),
    "ve": NoiseSchedule.ve(),
    "flow": NoiseSchedule.flow(),
    "flow, shift 3": NoiseSchedule.flow(3.0),
}
DISCRETE = [name for name, noise in KINDS.items() if noise.discrete_steps]


@pytest.fixture(params=KINDS, ids=KINDS)
def noise(request: pytest.FixtureRequest) -> NoiseSchedule:
    return KINDS[request.param]


def ddpm_table(betas: list[float]) -> list[float]:
    table, bar = [], 1.0
    for beta in betas:
        bar *= 1 - beta
        table.append(bar)
    return table


def test_the_linear_table_is_ddpms() -> None:
    expected = ddpm_table([1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)])
    np.testing.assert_allclose(NoiseSchedule.linear().alpha(np.arange(1000)) ** 2, expected, rtol=1e-12)


def test_the_scaled_linear_table_is_latent_diffusions() -> None:
    a, b = math.sqrt(0.00085), math.sqrt(0.012)
    expected = ddpm_table([(a + (b - a) * i / 999) ** 2 for i in range(1000)])
    np.testing.assert_allclose(NoiseSchedule.scaled_linear().alpha(np.arange(1000)) ** 2, expected, rtol=1e-12)


def test_the_cosine_table_is_improved_diffusions() -> None:
    def bar(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = ddpm_table([min(1 - bar((i + 1) / 1000) / bar(i / 1000), 0.999) for i in range(1000)])
    np.testing.assert_allclose(NoiseSchedule.cosine().alpha(np.arange(1000)) ** 2, expected, rtol=1e-12)


def test_betas_accumulate() -> None:
    np.testing.assert_allclose(KINDS["from_betas"].alpha([0, 1, 2]) ** 2, [0.9, 0.72, 0.504], rtol=1e-15)


@pytest.mark.parametrize("name", DISCRETE)
def test_whole_times_are_table_entries(name: str) -> None:
    noise = KINDS[name]
    bar = np.asarray(noise.alphas_cumprod)
    times = np.arange(noise.discrete_steps)
    np.testing.assert_allclose(noise.alpha(times) ** 2, bar, rtol=1e-14)
    np.testing.assert_allclose(noise.sigma(times) ** 2, 1 - bar, rtol=1e-11)


@pytest.mark.parametrize("name", DISCRETE)
@given(u=st.floats(0, 1), data=st.data())
def test_log_alpha_is_linear_between_whole_times(name: str, u: float, data: st.DataObject) -> None:
    noise = KINDS[name]
    s = data.draw(st.integers(-1, noise.discrete_steps - (3 if noise.alpha(noise.t_max) == 0 else 2)))
    low, high = np.log(noise.alpha([s, s + 1]))
    assert np.log(noise.alpha(s + u)) == pytest.approx((1 - u) * low + u * high, rel=1e-10, abs=1e-15)


def test_the_clean_end(noise: NoiseSchedule) -> None:
    assert noise.alpha(noise.t_clean) == 1
    assert noise.sigma(noise.t_clean) == 0
    assert not np.signbit(noise.sigma(noise.t_clean))
    assert noise.half_log_snr(noise.t_clean) == np.inf
    assert noise.time(np.inf) == noise.t_clean
    assert noise.t_clean < noise.t_min < noise.t_max


def test_ranges() -> None:
    assert [(n.t_clean, n.t_min, n.t_max) for n in (KINDS["linear"], KINDS["edm"])] == [(-1, 0, 999), (0, 0.002, 80)]
    assert [(n.t_clean, n.t_max) for n in (KINDS["continuous_vp"], KINDS["flow"])] == [(0, 1), (0, 1)]


def test_variance_is_preserved_where_it_should_be(noise: NoiseSchedule) -> None:
    t = np.linspace(noise.t_clean, noise.t_max, 101)
    alpha, sigma = noise.alpha(t), noise.sigma(t)
    if noise.to_dict()["kind"] == "edm":
        assert (alpha == 1).all()
        np.testing.assert_array_equal(sigma, t)
    elif noise.to_dict()["kind"] == "ve":
        assert (alpha == 1).all()
    elif noise.to_dict()["kind"] == "flow":
        np.testing.assert_allclose(alpha + sigma, 1, rtol=1e-15)
    else:
        np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-14)
    assert alpha.dtype == sigma.dtype == np.float64


def test_the_oracles_in_torch_agree(noise: NoiseSchedule) -> None:
    t = np.linspace(noise.t_min, noise.t_max, 57)
    alpha, sigma = alpha_sigma(noise, torch.from_numpy(t))
    np.testing.assert_allclose(alpha, noise.alpha(t), rtol=1e-12)
    np.testing.assert_allclose(sigma, noise.sigma(t), rtol=1e-10)


def test_half_log_snr_is_its_definition_and_decreases(noise: NoiseSchedule) -> None:
    t = np.linspace(noise.t_min, 0.999 * noise.t_max, 333)
    half = noise.half_log_snr(t)
    np.testing.assert_allclose(half, np.log(noise.alpha(t) / noise.sigma(t)), rtol=1e-9, atol=1e-9)
    assert (np.diff(half) < 0).all()


@given(u=st.floats(0, 1))
def test_time_inverts_half_log_snr(u: float) -> None:
    for noise in KINDS.values():
        t = noise.t_min + u * (noise.t_max - noise.t_min)
        # What rounding of lambda to float64 can do to t: its error times dt/dlambda.
        back = float(noise.time(noise.half_log_snr(t)))
        assert back == pytest.approx(t, rel=1e-9, abs=1e-9)


def test_time_beyond_the_trained_range_is_its_end(noise: NoiseSchedule) -> None:
    np.testing.assert_allclose(noise.time([-1e3, -np.inf]), noise.t_max, rtol=1e-12)
    np.testing.assert_allclose(noise.time([1e3, np.inf]), noise.t_clean, atol=1e-12)


def test_shapes_are_kept(noise: NoiseSchedule) -> None:
    t = np.full((2, 3), noise.t_min)
    for f in (noise.alpha, noise.sigma, noise.half_log_snr):
        assert f(t).shape == (2, 3)
        assert f(noise.t_min).shape == ()
    assert noise.time(np.zeros((2, 3))).shape == (2, 3)


@pytest.mark.parametrize("t", [math.nan, math.inf, -math.inf, 2000.5, -2000.5])
def test_a_time_outside_the_range_is_refused(noise: NoiseSchedule, t: float) -> None:
    for f in (noise.alpha, noise.sigma, noise.half_log_snr):
        with pytest.raises(ValueError, match=rf"t must lie in \[{noise.t_clean:g}, {noise.t_max:g}\], got {t:g}"):
            f(t)


def test_start_scale(noise: NoiseSchedule) -> None:
    t = 0.4 * noise.t_max
    if noise.to_dict()["kind"] in ("edm", "flow"):
        assert noise.start_scale(t) == pytest.approx(0.4, rel=1e-15)
    elif noise.to_dict()["kind"] == "ve":
        assert noise.start_scale(t) == pytest.approx((0.01 / 50) ** 0.6, rel=1e-14)
    else:
        assert noise.start_scale(t) == 1
    assert noise.start_scale(noise.t_max) == 1


def test_even_times() -> None:
    np.testing.assert_allclose(KINDS["linear"].even_times([0, 0.5, 1]), [0, 499.5, 999])
    np.testing.assert_allclose(KINDS["flow, shift 3"].even_times([0, 0.5, 1]), [0, 0.75, 1])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NoiseSchedule.linear(0), "steps must be a whole number"),
        (lambda: NoiseSchedule.linear(True), "steps must be a whole number"),
        (lambda: NoiseSchedule.linear(10.0), "steps must be a whole number .*got 10.0"),
        (lambda: NoiseSchedule.linear(10**12), "steps must be a whole number .*got 1000000000000"),
        (lambda: NoiseSchedule.linear(10, 0.0), "betas must .*inside"),
        (lambda: NoiseSchedule.linear(10, math.nan), "betas must .*nan"),
        (lambda: NoiseSchedule.from_betas([]), "betas must be at least one value"),
        (lambda: NoiseSchedule.from_betas([0.5, 1.0]), "betas must .*1.0"),
        (lambda: NoiseSchedule.from_alphas_cumprod([]), "alphas_cumprod must be at least one value"),
        (lambda: NoiseSchedule.from_alphas_cumprod([0.5, 0.5]), "alphas_cumprod must .*strictly decreasing"),
        (lambda: NoiseSchedule.from_alphas_cumprod([1.0, 0.5]), "alphas_cumprod must .*from 1.0"),
        (lambda: NoiseSchedule.from_alphas_cumprod([0.5, 0.0, 0.0]), "alphas_cumprod must .*to 0.0"),
        (lambda: NoiseSchedule.from_alphas_cumprod([0.5, -0.1]), "alphas_cumprod must .*to -0.1"),
        (lambda: NoiseSchedule.edm().zero_terminal_snr(), "defined for discrete schedules, got EDM"),
        (lambda: NoiseSchedule.linear(1).zero_terminal_snr(), "at least two training steps"),
        (lambda: NoiseSchedule.from_dict({"kind": "zero_terminal_snr", "base": {"kind": "edm"}}), "defined for discrete schedules"),
        (lambda: NoiseSchedule.from_dict({"kind": "zero_terminal_snr", "base": {"kind": "zero_terminal_snr"}}), "must be another kind"),
        (lambda: NoiseSchedule.from_dict({"kind": "zero_terminal_snr", "base": 3}), "do not describe a 'zero_terminal_snr'"),
        (lambda: NoiseSchedule.ve(1.0, 0.5), "sigma_min and sigma_max must .*1.0 and 0.5"),
        (lambda: NoiseSchedule.flow_for_tokens(0), "tokens must be positive .*tokens=0"),
        (lambda: NoiseSchedule.from_alphas_cumprod([0.9, math.nan, 0.1]), "alphas_cumprod must"),
        (lambda: NoiseSchedule.continuous_vp(2.0, 1.0), "beta_min and beta_max must .*2.0 and 1.0"),
        (lambda: NoiseSchedule.edm(0.0, 1.0), "sigma_min and sigma_max must .*0.0 and 1.0"),
        (lambda: NoiseSchedule.edm(0.1, math.inf), "sigma_min and sigma_max must .*inf"),
        (lambda: NoiseSchedule.flow(-1.0), "shift must be a positive number, got -1.0"),
        (lambda: NoiseSchedule.flow(math.nan), "shift must be a positive number, got nan"),
        (lambda: NoiseSchedule.from_dict({}), "noise.kind must be one of .*None"),
        (lambda: NoiseSchedule.from_dict({"kind": "quadratic"}), "noise.kind must be one of .*'quadratic'"),
        (lambda: NoiseSchedule.from_dict({"kind": ["linear"]}), "noise.kind must be one of"),
        (lambda: NoiseSchedule.from_dict({"kind": "edm", "sigma_mix": 1}), "sigma_mix"),
        (lambda: NoiseSchedule.from_dict({"kind": "edm", "sigma_min": "low"}), "sigma_min must be a number, got 'low'"),
        (lambda: NoiseSchedule.edm(0.1, True), "sigma_max must be a number, got True"),
        (lambda: NoiseSchedule.ve(np.array([0.1, 0.2]), 1.0), "sigma_min must be a number, got array"),
        (lambda: NoiseSchedule.flow(np.bool_(True)), "shift must be a number, got np.True_"),
        (lambda: NoiseSchedule.continuous_vp(0.1, 10**400), "beta_max must be a number that float64 can hold, got 1000"),
        (lambda: NoiseSchedule.linear(20, [1e-4, 2e-4]), r"beta_start must be a number, got \[0.0001, 0.0002\]"),
        (lambda: NoiseSchedule.scaled_linear(20, 1e-4, (0.02,)), "beta_end must be a number"),
        (lambda: NoiseSchedule.scaled_linear(20, -1e-4), r"beta_start and beta_end must be inside \(0, 1\), got -0.0001 and 0.012"),
        (lambda: NoiseSchedule.sigmoid(20, None), "beta_start must be a number, got None"),
        (lambda: NoiseSchedule.cosine(4, max_beta=[0.9] * 4), "max_beta must be a number"),
        (lambda: NoiseSchedule.cosine(4, offset=True), "offset must be a number, got True"),
        (lambda: NoiseSchedule.from_betas([0.1, False]), r"betas\[1\] must be a number, got False"),
        (lambda: NoiseSchedule.from_alphas_cumprod(["0.9"]), r"alphas_cumprod\[0\] must be a number, got '0.9'"),
        (lambda: NoiseSchedule.from_alphas_cumprod([[0.9]]), r"alphas_cumprod\[0\] must be a number, got \[0.9\]"),
        (lambda: NoiseSchedule.from_alphas_cumprod("0.9"), "alphas_cumprod must be a sequence of numbers, got '0.9'"),
        (lambda: NoiseSchedule.from_alphas_cumprod({0.9: 0}), "alphas_cumprod must be a sequence of numbers, got {0.9: 0}"),
        (lambda: NoiseSchedule.from_dict({"kind": "alphas_cumprod", "alphas_cumprod": None}), "must be a sequence of numbers, got None"),
        (lambda: NoiseSchedule.from_dict({"kind": "alphas_cumprod", "alphas_cumprod": [10**400]}), "that float64 can hold, got 1000"),
    ],
)
def test_wrong_values_are_named(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize("scalar", [np.float32, np.float64, np.array, torch.tensor, int], ids=lambda kind: kind.__name__)
def test_scalars_are_numbers(scalar: object) -> None:
    """Of NumPy and torch, too, and whole ones; what is written is Python's own."""
    made = scalar(2)  # type: ignore[operator]
    assert NoiseSchedule.flow(made) == NoiseSchedule.flow(2.0)
    assert type(NoiseSchedule.flow(made).to_dict()["shift"]) in (int, float)
    assert NoiseSchedule.edm(1, 10**300) == NoiseSchedule.edm(1.0, 1e300)
    table = [scalar(1) * 0.75, scalar(1) * 0.5]  # type: ignore[operator]
    assert NoiseSchedule.from_alphas_cumprod(table).to_dict()["alphas_cumprod"] == [0.75, 0.5]


def decreasing(bound: float) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(1e-6, bound), min_size=1, max_size=20, unique=True).map(lambda values: sorted(values, reverse=True))


any_noise = st.one_of(
    st.builds(NoiseSchedule.linear, st.integers(1, 300), st.floats(1e-5, 1e-3), st.floats(1e-3, 0.5)),
    st.builds(NoiseSchedule.scaled_linear, st.integers(1, 300), st.floats(1e-5, 1e-3), st.floats(1e-3, 0.5)),
    st.builds(NoiseSchedule.cosine, st.integers(1, 300), st.floats(1e-4, 0.1), st.floats(0.5, 0.999)),
    st.builds(NoiseSchedule.from_betas, st.lists(st.floats(1e-6, 0.999), min_size=1, max_size=20)),
    st.builds(NoiseSchedule.from_alphas_cumprod, decreasing(1 - 1e-6)),
    st.builds(NoiseSchedule.sigmoid, st.integers(1, 300), st.floats(1e-5, 1e-3), st.floats(1e-3, 0.5)),
    st.builds(lambda n: NoiseSchedule.linear(n).zero_terminal_snr(), st.integers(2, 300)),
    st.builds(NoiseSchedule.ve, st.floats(1e-4, 0.1), st.floats(1, 1e3)),
    st.builds(NoiseSchedule.continuous_vp, st.floats(0.01, 1), st.floats(1.5, 30)),
    st.builds(NoiseSchedule.edm, st.floats(1e-4, 0.1), st.floats(1, 1e3)),
    st.builds(NoiseSchedule.flow, st.floats(0.1, 10)),
)


def test_zero_terminal_snr_is_the_papers_algorithm() -> None:
    """Lin et al. 2024, algorithm 1, on sqrt(alphas_cumprod); the first value stays, the last is 0, alpha falls evenly to it."""
    base = NoiseSchedule.scaled_linear()
    noise = base.zero_terminal_snr()
    root = base.alpha(np.arange(1000))
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    np.testing.assert_allclose(noise.alpha(np.arange(1000)), expected, rtol=1e-12, atol=1e-15)
    assert noise.alpha(999) == 0.0
    assert noise.sigma(999) == 1.0
    assert noise.half_log_snr(999) == -math.inf
    np.testing.assert_allclose(noise.alpha(998.75), 0.25 * noise.alpha(998), rtol=1e-12)
    assert noise.time(-math.inf) == 999
    t = np.linspace(-0.9, 998.99, 777)
    np.testing.assert_allclose(noise.time(noise.half_log_snr(t)), t, atol=1e-8)


def test_ve_is_geometric_and_ends_clean() -> None:
    noise = NoiseSchedule.ve(0.01, 50.0)
    np.testing.assert_allclose(noise.sigma([0, 0.5, 1]), [0.01, math.sqrt(0.5), 50], rtol=1e-12)
    np.testing.assert_allclose(noise.sigma([-1, -0.5]), [0, 0.005], rtol=1e-12)
    t = np.linspace(-0.999, 1, 101)
    np.testing.assert_allclose(noise.time(noise.half_log_snr(t)), t, atol=1e-12)


def test_flow_shift_of_an_image_size() -> None:
    """mu is .5 at 256 tokens and 1.15 at 4096 (Flux's published constants)."""
    np.testing.assert_allclose(NoiseSchedule.flow_for_tokens(256).even_times(0.5), 1 / (1 + math.exp(-0.5)))
    np.testing.assert_allclose(NoiseSchedule.flow_for_tokens(4096).even_times(0.5), 1 / (1 + math.exp(-1.15)))


@given(noise=any_noise)
def test_a_trip_through_json_gives_the_same_schedule(noise: NoiseSchedule) -> None:
    again = NoiseSchedule.from_dict(json.loads(json.dumps(noise.to_dict())))
    assert again == noise
    assert hash(again) == hash(noise)
    t = np.linspace(noise.t_clean, noise.t_max, 9)
    np.testing.assert_array_equal(again.alpha(t), noise.alpha(t))
    np.testing.assert_array_equal(again.sigma(t), noise.sigma(t))


def test_the_text_of_a_discrete_schedule_is_its_recipe_without_the_table() -> None:
    assert repr(NoiseSchedule.linear(steps=100)) == "DiscreteVP('linear', steps=100, beta_start=0.0001, beta_end=0.02)"
    assert repr(NoiseSchedule.from_alphas_cumprod(np.linspace(0.9, 0.1, 50))) == "DiscreteVP('alphas_cumprod', steps=50)"
    assert repr(NoiseSchedule.from_betas([0.1] * 50).zero_terminal_snr()) == "DiscreteVP('zero_terminal_snr', steps=50)"


def test_different_schedules_are_not_equal() -> None:
    assert len({noise for noise in KINDS.values()}) == len(KINDS)
    assert NoiseSchedule.linear() == NoiseSchedule.from_alphas_cumprod(NoiseSchedule.linear().alphas_cumprod)  # however it was made
