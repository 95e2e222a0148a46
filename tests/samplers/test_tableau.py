"""Every sampler of the registry: invariants, equivalences, transcriptions of the papers, order of convergence."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ttune
from tests.oracles import Gaussian, mixture, standard_normal
from ttune import SAMPLERS, NoiseSchedule, Schedule, Stage, Start, Tableau
from ttune.noise.grids import GRIDS
from ttune.samplers import sampler_options
from ttune.samplers.points import MIN_FRACTION

NOISES = {
    "linear": NoiseSchedule.linear(),
    "cosine": NoiseSchedule.cosine(),
    "continuous_vp": NoiseSchedule.continuous_vp(),
    "edm": NoiseSchedule.edm(),
    "flow": NoiseSchedule.flow(2.0),
}
LINEAR = NOISES["linear"]


def every_schedule(sampler: str, noise: NoiseSchedule, steps: int) -> list[Schedule]:
    """On every grid for one noise schedule, on one grid for the others: grids and samplers meet in times, alphas and sigmas only."""
    found = []
    for spacing in GRIDS if noise == LINEAR else ("linspace",):
        for options in ({}, {"final": "min"}, {"t_start": 0.9 * noise.t_max}, {"lower_order_final": True}):
            try:
                found.append(Schedule.build(noise, sampler, steps, spacing, **options))
            except ValueError:
                continue
    return found


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_true_prediction_is_kept(sampler: str, noise: NoiseSchedule) -> None:
    """With the true x_0 and epsilon as predictions, every deterministic sampler lands on alpha x_0 + sigma epsilon, on any grid."""
    x_0, eps = standard_normal((2, 3), 1), standard_normal((2, 3), 2)
    denoiser = ttune.Denoiser(lambda x, tau: eps - x_0, noise, prediction_type="flow_prediction")
    schedules = [s for steps in (1, 2, 7) for s in every_schedule(sampler, noise, steps)]
    assert len(schedules) > (20 if noise == LINEAR else 4)
    for schedule in schedules:
        tableau = schedule.tableau()
        assert len(tableau.stages) == len(schedule.network_times)
        assert tableau.end_time == schedule.times[-1]
        assert (tableau.end_alpha, tableau.end_sigma) == (schedule.alphas[-1], schedule.sigmas[-1])
        if tableau.stochastic:
            continue
        start = float(schedule.alphas[0]) * x_0 + float(schedule.sigmas[0]) * eps
        x = ttune.sample(denoiser, schedule, start / noise.start_scale(schedule.times[0]))
        # Methods in epsilon divide by alpha: rounding grows by the largest coefficient, in two-stage steps twice.
        largest = max(abs(c) for stage in tableau.stages for c in stage.update.values())
        atol = max(1e-9, 4 * torch.finfo(torch.float64).eps * largest**2)
        torch.testing.assert_close(x, tableau.end_alpha * x_0 + tableau.end_sigma * eps, rtol=1e-9, atol=atol)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_table_can_be_printed(sampler: str) -> None:
    tableau = Schedule.build(LINEAR, sampler, 3).tableau()
    text = str(tableau)
    assert text.startswith(f"{sampler}: {len(tableau.stages)} evaluations")
    assert len(text.splitlines()) >= 2 + len(tableau.stages)
    assert "end  t=-1" in text


def test_what_is_printed() -> None:
    """Signs, weights of one, what is kept, the order of the terms; nothing that has no weight."""
    lines = Schedule.build(LINEAR, "pndm", 3, "linspace").tableau().show().splitlines()
    assert lines[1].startswith("  0  t=999 ")
    assert "lambda=-5.05" in lines[1]
    assert lines[2] == "     keep x_t = x, eps1 = eps"
    assert re.search(r"x' = [\d.]+ x_t - [\d.]+ eps1 - [\d.]+ eps$", lines[3])
    assert lines[-1].endswith("lambda=+inf")
    ddpm = Schedule.build(LINEAR, "ddpm", 2, "linspace").tableau().show().splitlines()
    assert re.search(r"x' = [\d.]+ D \+ [\d.]+ eps \+ [\d.]+ noise$", ddpm[1])
    assert ddpm[2].endswith("x' = D")


SINGLESTEP = ("dpmpp_2s", "dpmpp_3s", "dpm_solver_2", "dpm_solver_3")
OPTIONS = [
    *((name, {"inner": "grid", "solver_type": kind}) for name in SINGLESTEP for kind in ("midpoint", "heun")),
    *((name, {"full_order_to_clean": True}) for name in ("lms", "ipndm", "pndm")),
    *((name, {"order": order}) for name in ("lms", "deis", "ipndm", "pndm") for order in (1, 2, 3, 4)),
    *(("unipc", {"order": order, "variant": v, "corrector": c}) for order in (1, 2, 3) for v in ("bh1", "bh2") for c in (True, False)),
]


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize(("sampler", "options"), OPTIONS, ids=str)
def test_every_option_keeps_a_true_prediction(sampler: str, options: dict[str, Any], noise: NoiseSchedule) -> None:
    """Construction checks it; every length of the last group, clean end or not."""
    for steps in (1, 2, 3, 4, 5, 8):
        for final, lowered in itertools.product(("zero", "min"), (False, True)):
            schedule = Schedule.build(noise, sampler, steps, "linspace", final=final, lower_order_final=lowered, options=options)
            if options.get("inner") == "grid":
                np.testing.assert_array_equal(schedule.tableau().times, schedule.times[:-1])


def test_options_of_singlestep_solvers_are_checked() -> None:
    for options, message in (
        ({"inner": "middle"}, "inner must be one of"),
        ({"inner": "grid", "solver_type": "euler"}, "solver_type must be one of"),
        ({"solver_type": "heun"}, "solver_type is an option of inner='grid'"),
        ({"inner": "grid", "eta": 1.0}, "eta must be 0 with inner='grid'"),
    ):
        with pytest.raises(ValueError, match=message):
            Schedule.build(LINEAR, "dpmpp_2s", 4, options=options)


def test_an_option_is_of_its_defaults_kind() -> None:
    wrong: dict[type, tuple[Any, ...]] = {
        bool: (0, 1.0, "no", [True]),
        int: (2.0, True, "2", [2]),
        float: (True, "0.5", [0.5], 10**400),
        str: (1, True, [1.0]),
        tuple: (0, 0.5, False, "1"),
    }
    words = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word", tuple: "a sequence of numbers"}
    options = [(sampler, name, type(default)) for sampler in SAMPLERS for name, default in sampler_options(sampler).items()]
    assert {kind for *_, kind in options} == set(words)
    for sampler, name, kind in options:
        for value in wrong[kind]:
            message = rf"options must map|{name} of the sampler '{sampler}' must be {words[kind]}, as its default .* is, got "
            with pytest.raises(ValueError, match=message):
                Schedule.build(LINEAR, sampler, 3, options={name: value})


@pytest.mark.parametrize("number", [np.int64, np.array, int], ids=str)
def test_whole_numbers_are_numbers(number: Callable[[int], Any]) -> None:
    """An option is written as it was given, but as Python's own."""
    options = Schedule.build(LINEAR, "unipc", 3, options={"order": number(3)}).options
    assert (options, type(options["order"])) == ({"order": 3}, int)
    options = Schedule.build(LINEAR, "euler_ancestral", 3, options={"eta": number(1), "s_noise": np.float32(0.5)}).options
    assert (options, type(options["eta"])) == ({"eta": 1, "s_noise": 0.5}, int)
    assert Schedule.build(LINEAR, "ddim", 3, options={"gammas": number(1) * np.ones(3, np.float32)}).options == {"gammas": (1, 1, 1)}


@pytest.mark.parametrize(
    ("sampler", "name"),
    [("dpm_solver_2", "r"), ("dpm_solver_3", "r1"), ("dpm_solver_3", "r2"), ("dpmpp_2s", "r"), ("dpmpp_3s", "r1"), ("dpmpp_sde", "r")],
)
def test_fractions_of_a_step_have_a_least_one(sampler: str, name: str) -> None:
    for value in (5e-324, 1e-150, 0, -0.5, 0.9 * MIN_FRACTION, 1.001):
        with pytest.raises(ValueError, match=rf"{name}.* must satisfy 1e-06 <= .* <= 1, got "):
            Schedule.build(LINEAR, sampler, 4, options={name: value})
    if name != "r2":  # which is beyond r1
        for noise in NOISES.values():
            Schedule.build(noise, sampler, 4, "linspace", options={name: MIN_FRACTION})


@pytest.mark.parametrize(
    ("sampler", "times", "options"),
    [
        ("euler_ancestral", [800.0, 400.0, 0.0], {"s_noise": 1e300}),
        ("dpm_solver_2", [800.0, math.nextafter(800.0, 0), 0.0], {}),
    ],
)
def test_what_float64_cannot_hold_is_refused(sampler: str, times: list[float], options: dict[str, float]) -> None:
    """Squares beyond it, and steps whose length in log-SNR is lost in rounding."""
    with pytest.raises(ValueError, match=f"times and options of the sampler '{sampler}' must leave its coefficients within float64, got"):
        Schedule.build(LINEAR, sampler, None, times, options=options)


# ---------------------------------------------------------------------------------------------------------- wrong tables

ALPHA, SIGMA = LINEAR.alpha([800, 400]), LINEAR.sigma([800, 400])


def one_step(update: dict[str, float], retain: dict[str, dict[str, float]] | None = None) -> Tableau:
    return Tableau("scratch", (Stage(800.0, ALPHA[0], SIGMA[0], update, retain or {}),), 400.0, ALPHA[1], SIGMA[1])


def test_a_right_table_is_accepted() -> None:
    one_step({"D": ALPHA[1], "eps": SIGMA[1]})
    one_step({"D": ALPHA[1], "eps": 0.6 * SIGMA[1], "noise": 0.8 * SIGMA[1]})


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"D": 1.001 * ALPHA[1], "eps": SIGMA[1]}, r"stages\[0\] of 'scratch' must land on alpha="),
        ({"D": ALPHA[1], "eps": 1.001 * SIGMA[1]}, "must land on"),
        ({"D": ALPHA[1], "eps": SIGMA[1], "noise": 0.01}, "must land on"),
        ({"D": ALPHA[1], "eps": 0.6 * SIGMA[1], "noise": 0.7 * SIGMA[1]}, "must land on"),
        ({"D": ALPHA[1]}, "must land on"),
        ({"D": ALPHA[1], "eps": math.nan}, "coefficient of 'eps' must be finite, got nan"),
        ({"D": ALPHA[1], "eps": SIGMA[1], "D_prev": 0.0}, "uses 'D_prev', which no earlier stage retained"),
    ],
)
def test_a_wrong_table_fails_at_construction(update: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one_step(update)


def test_what_is_not_retained_again_is_forgotten() -> None:
    a, s = LINEAR.alpha([800, 600, 400, 200]), LINEAR.sigma([800, 600, 400, 200])
    first = Stage(800.0, a[0], s[0], {"D": a[1], "eps": s[1]}, {"old": {"D": 1.0}})
    second = Stage(600.0, a[1], s[1], {"D": a[2] / 2, "old": a[2] / 2, "eps": s[2]})
    third = Stage(400.0, a[2], s[2], {"old": a[3], "eps": s[3]})
    Tableau("scratch", (first, second), 400.0, a[2], s[2])
    with pytest.raises(ValueError, match=r"stages\[2\] of 'scratch' uses 'old'"):
        Tableau("scratch", (first, second, third), 200.0, a[3], s[3])
    with pytest.raises(ValueError, match="at least one stage"):
        Tableau("scratch", (), 400.0, a[2], s[2])


# ---------------------------------------------------------------------------------------------------------- equivalences


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_ddim_is_euler(noise: NoiseSchedule) -> None:
    denoiser = ttune.Denoiser(Gaussian(noise, 0.5, "sample"), noise, prediction_type="sample")
    x_T = standard_normal((3, 4)) * float(noise.sigma(noise.t_max))
    for a in every_schedule("ddim", noise, 5):
        b = a.replace(sampler="euler")
        torch.testing.assert_close(ttune.sample(denoiser, a, x_T), ttune.sample(denoiser, b, x_T), rtol=1e-9, atol=1e-9)


def test_ddim_is_a_straight_transcription() -> None:
    """Equation 12 of the DDIM paper with its own bar-alpha notation, eta in {0, .5}; the noise taken from the same counter."""
    network = mixture(LINEAR)
    x_T, seeds = standard_normal((4, 2)), torch.arange(4)
    for eta in (0.0, 0.5):
        schedule = Schedule.build(LINEAR, "ddim", 6, "linspace", eta=eta)
        x = x_T
        bars = LINEAR.alpha(schedule.times) ** 2
        for i in range(6):
            eps = network(x, torch.full((4,), schedule.times[i], dtype=torch.float64))
            x_0 = (x - math.sqrt(1 - bars[i]) * eps) / math.sqrt(bars[i])
            s = eta * math.sqrt((1 - bars[i + 1]) / (1 - bars[i])) * math.sqrt(1 - bars[i] / bars[i + 1])
            fresh = ttune.ops.philox_normal((2,), seeds, draw=i, dtype=torch.float64)
            x = math.sqrt(bars[i + 1]) * x_0 + math.sqrt(max(0.0, 1 - bars[i + 1] - s**2)) * eps + s * fresh
        torch.testing.assert_close(ttune.sample(network.denoiser(), schedule, x_T, seeds=seeds), x, rtol=1e-9, atol=1e-9)


def test_ddpm_is_ddim_with_eta_1() -> None:
    x_T, seeds = standard_normal((4, 2)), torch.arange(4)
    denoiser = mixture(LINEAR).denoiser()
    for final in ("zero", "min"):
        ddpm = Schedule.build(LINEAR, "ddpm", 7, "linspace", final=final)
        ddim = Schedule.build(LINEAR, "ddim", 7, "linspace", final=final, eta=1.0)
        assert torch.equal(ttune.sample(denoiser, ddpm, x_T, seeds=seeds), ttune.sample(denoiser, ddim, x_T, seeds=seeds))


def test_ddpm_is_the_posterior_of_its_paper() -> None:
    """Equations 6 and 7 of Ho et al., mean and standard deviation of q(x_u | x_t, x_0), with t -> u in place of one step."""
    for noise in (LINEAR, NOISES["cosine"], NOISES["continuous_vp"]):
        schedule = Schedule.build(noise, "ddpm", 6, "linspace")
        bar = schedule.alphas**2
        for i, stage in enumerate(schedule.tableau().stages):
            ratio = bar[i] / bar[i + 1]  # alpha_t of the paper
            beta = 1 - ratio
            mean_x_0 = math.sqrt(bar[i + 1]) * beta / (1 - bar[i])
            mean_x_t = math.sqrt(ratio) * (1 - bar[i + 1]) / (1 - bar[i])
            deviation = math.sqrt((1 - bar[i + 1]) / (1 - bar[i]) * beta)
            eps = stage.update["eps"]  # eps = (x - alpha D) / sigma
            assert eps / stage.sigma == pytest.approx(mean_x_t, rel=1e-8, abs=1e-12)
            assert stage.update["D"] - eps * stage.alpha / stage.sigma == pytest.approx(mean_x_0, rel=1e-8, abs=1e-9)
            assert stage.update.get("noise", 0.0) == pytest.approx(deviation, rel=1e-8, abs=1e-12)


def algorithm_2(network: Callable[[Tensor, Tensor], Tensor], noise: NoiseSchedule, times: list[float], x: Tensor, lower: bool) -> Tensor:
    """DPM-Solver++(2M) of arXiv 2211.01095, algorithm 2, in terms of tensors; the last step to sigma = 0 is x_0 itself."""
    lam = [float(noise.half_log_snr(t)) for t in times]
    alpha, sigma = noise.alpha(times), noise.sigma(times)

    def predict(x: Tensor, i: int) -> Tensor:
        return (x - sigma[i] * network(x, torch.full((len(x),), times[i], dtype=x.dtype))) / alpha[i]

    M = len(times) - 1
    buffer = [predict(x, 0)]
    for i in range(1, M + 1):
        h = lam[i] - lam[i - 1]
        if sigma[i] == 0:
            return buffer[-1]
        if i == 1 or (lower and i == M):
            D = buffer[-1]
        else:
            r = (lam[i - 1] - lam[i - 2]) / h
            D = (1 + 1 / (2 * r)) * buffer[-1] - 1 / (2 * r) * buffer[-2]
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * (math.exp(-h) - 1) * D
        if i < M:
            buffer.append(predict(x, i))
    return x


@pytest.mark.parametrize("lower_final", [False, True])
@pytest.mark.parametrize("final", ["zero", "min"])
@pytest.mark.parametrize("spacing", ["linspace", "log_snr", "quadratic"])
def test_2m_is_algorithm_2(spacing: str, final: str, lower_final: bool) -> None:
    for noise in (LINEAR, NOISES["continuous_vp"]):
        network = mixture(noise)
        x_T = standard_normal((5, 2))
        for steps in (1, 2, 3, 8):
            schedule = Schedule.build(noise, "dpmpp_2m", steps, spacing, final=final, lower_order_final=lower_final)
            expected = algorithm_2(network, noise, schedule.times.tolist(), x_T, lower_final)
            torch.testing.assert_close(ttune.sample(network.denoiser(), schedule, x_T), expected, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------------------ convergence


def slope(sampler: str, denoiser: ttune.Denoiser, exact: Callable[..., Tensor], counts: tuple[int, ...] = (40, 80, 160)) -> float:
    noise = denoiser.noise
    x_T = standard_normal((1, 4)) * float(noise.sigma(noise.t_max))
    errors = []
    for steps in counts:
        schedule = Schedule.build(noise, sampler, steps, "log_snr", final="min")
        errors.append(float((ttune.sample(denoiser, schedule, x_T) - exact(x_T)).abs().max()))
    return float(np.polyfit(np.log(counts), np.log(errors), 1)[0])


@pytest.mark.parametrize("noise", [LINEAR, NOISES["continuous_vp"], NOISES["edm"]], ids=["linear", "continuous_vp", "edm"])
@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("euler", 1), ("dpmpp_2m", 2)])
def test_order_of_convergence(sampler: str, order: int, noise: NoiseSchedule) -> None:
    gaussian = Gaussian(noise, 0.6)
    assert -slope(sampler, gaussian.denoiser(), gaussian.flow(end=noise.t_min)) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "ddpm"])
def test_samples_of_a_mixture_reach_its_modes(sampler: str) -> None:
    network = mixture(LINEAR)
    x_T = ttune.initial_noise(LINEAR, (2,), torch.arange(300), torch.float64)
    x = ttune.sample(network.denoiser(), Schedule.build(LINEAR, sampler, 60, "log_snr"), x_T)
    distance, nearest = (x[:, None] - network.means).square().sum(-1).sqrt().min(1)
    assert float(distance.mean()) < 2 * network.s
    counts = torch.bincount(nearest, minlength=3) / len(x)
    torch.testing.assert_close(counts.double(), network.weights, atol=0.09, rtol=0)  # three standard errors of 300 draws


# -------------------------------------------------------------------------------------------------------- a sampler of one's own


def heun(schedule: Schedule) -> Tableau:
    """Euler to u, evaluate there, average both slopes: two evaluations a step, but one where u is clean."""
    t, a, s = schedule.times, schedule.alphas, schedule.sigmas
    stages = []
    for i in range(len(t) - 1):
        growth = a[i + 1] / a[i]
        euler = {"x": growth, "eps": s[i + 1] - growth * s[i]}
        stages.append(Stage(t[i], a[i], s[i], euler, {"before": {"x": 1.0}, "slope": {"eps": 1.0}} if s[i + 1] > 0 else {}))
        if s[i + 1] > 0:
            half = (s[i + 1] - growth * s[i]) / 2
            stages.append(Stage(t[i + 1], a[i + 1], s[i + 1], {"before": growth, "slope": half, "eps": half}))
    return Tableau("heun", tuple(stages), t[-1], a[-1], s[-1])


def test_a_new_sampler_is_a_function_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAMPLERS, "heun", heun)
    schedule = Schedule.build(LINEAR, "heun", 4, "linspace")
    assert len(schedule.network_times) == 7
    t = schedule.times
    np.testing.assert_array_equal(schedule.network_times, [t[0], t[1], t[1], t[2], t[2], t[3], t[3]])
    gaussian = Gaussian(LINEAR, 0.6)
    assert -slope("heun", gaussian.denoiser(), gaussian.flow(end=0.0), (20, 40, 80)) == pytest.approx(2, abs=0.2)
    # The network is passed what the network_times says at every one of its evaluations.
    passed: list[float] = []

    def spy(x: Tensor, tau: Tensor) -> Tensor:
        passed.append(float(tau[0]))
        return x

    wanted = np.linspace(990, 10, 7)
    ttune.sample(ttune.Denoiser(spy, LINEAR), schedule.replace(network_times=wanted), standard_normal((1, 2)))
    np.testing.assert_allclose(passed, wanted)


# --------------------------------------------------------------------------------------------------- options and starts


def test_memory_counts_evaluations_back() -> None:
    a, s = LINEAR.alpha([800, 600, 400, 200]), LINEAR.sigma([800, 600, 400, 200])
    first = Stage(800.0, a[0], s[0], {"D": a[1], "eps": s[1]}, {"D1": {"D": 1.0}})
    second = Stage(600.0, a[1], s[1], {"D": a[2], "eps": s[2]}, {"D1": {"D": 1.0}, "D2": {"D1": 1.0}})
    near = Stage(400.0, a[2], s[2], {"D": a[3] / 2, "D1": a[3] / 2, "eps": s[3]})
    far = Stage(400.0, a[2], s[2], {"D": a[3] / 2, "D2": a[3] / 2, "eps": s[3]})
    tableaus = [Tableau("scratch", (first, second, last), 200.0, a[3], s[3]) for last in (near, far)]
    assert [tableau.memory for tableau in tableaus] == [1, 2]
    assert Schedule.build(LINEAR, "ddim", 5).tableau().memory == 0
    assert Schedule.build(LINEAR, "dpmpp_2m", 5).tableau().memory == 1


@pytest.fixture
def churned() -> Iterator[None]:
    """A scratch sampler with an option, with noise before its first evaluation, and louder than the variance asks."""

    def sampler(schedule: Schedule, *, churn: float = 0.5, loudness: float = 1.0) -> Tableau:
        t, alpha, sigma = schedule.times, schedule.alphas, schedule.sigmas
        hat = sigma[0] * (1 + churn)
        added = loudness * math.sqrt(hat**2 - sigma[0] ** 2)
        stages = (Stage(hat, alpha[0], hat, {"D": alpha[1], "eps": sigma[1]}),)
        start = Start(alpha[0], sigma[0], {"x": 1.0, "noise": added}, excess=added**2 * (1 - loudness**-2))
        return Tableau("scratch", stages, t[1], alpha[1], sigma[1], start)

    SAMPLERS["scratch"] = sampler
    yield
    del SAMPLERS["scratch"]


@pytest.mark.usefixtures("churned")
def test_noise_before_the_first_evaluation() -> None:
    noise, seeds = NOISES["edm"], torch.tensor([1, 2])
    x_T = standard_normal((2, 3)) * 40
    for options in ({}, {"churn": 0.25}, {"churn": 0.25, "loudness": 1.5}):
        schedule = Schedule.build(noise, "scratch", 1, [40.0, 0.5], options=options)
        assert schedule.tableau().stochastic
        churn, loudness = options.get("churn", 0.5), options.get("loudness", 1.0)
        fresh = ttune.ops.philox_normal((3,), seeds, draw=-2, dtype=torch.float64)
        x_hat = x_T * 40 / 80 + loudness * 40 * math.sqrt((1 + churn) ** 2 - 1) * fresh
        denoiser = ttune.Denoiser(lambda x, tau: 0.1 * x, noise, prediction_type="sample")
        wanted = 0.1 * x_hat + 0.5 * (x_hat - 0.1 * x_hat) / (40 * (1 + churn))
        torch.testing.assert_close(ttune.sample(denoiser, schedule, x_T, seeds=seeds), wanted)
        compiled = ttune.CompiledSampler(denoiser, schedule, compile=False)
        torch.testing.assert_close(compiled(x_T, seeds=seeds), wanted)
        assert "start" in str(schedule.tableau())


@pytest.mark.usefixtures("churned")
def test_options_are_the_builders_keywords(tmp_path: Path) -> None:
    build = lambda **options: Schedule.build(NOISES["edm"], "scratch", 1, [40.0, 0.5], options=options)  # noqa: E731
    with pytest.raises(ValueError, match=r"options of the sampler 'scratch' must be among \['churn', 'loudness'\], got \['order'\]"):
        build(order=3)
    with pytest.raises(
        ValueError, match=r"options must map names to finite numbers, lists of them, words or truth values, got 'churn': None"
    ):
        build(churn=None)
    with pytest.raises(ValueError, match="got 'churn': nan"):
        build(churn=math.nan)
    schedule = build(churn=0.25)
    assert schedule != build()
    assert schedule.replace(network_times=[70.0]).options == {"churn": 0.25}
    assert schedule.replace(sampler="euler").options == {}
    schedule.save(tmp_path / "ttune.json")
    assert Schedule.load(tmp_path / "ttune.json") == schedule
    wrong = Start(1.0, 40.0, {"x": 1.0, "noise": 1.0})
    with pytest.raises(ValueError, match="start of 'scratch' must land on"):
        Tableau("scratch", schedule.tableau().stages, 0.5, 1.0, 0.5, wrong)


def test_the_table_says_what_noise_is_not_the_budgets() -> None:
    texts = {
        v: str(Schedule.build(LINEAR, "ddpm", 3, options={"variance": v}).tableau())
        for v in ("fixed_small", "fixed_large", "learned_range")
    }
    assert "noise has" not in texts["fixed_small"]
    assert "more variance than the next sigma asks for" in texts["fixed_large"]
    assert "the network chooses for each element between" in texts["learned_range"]
