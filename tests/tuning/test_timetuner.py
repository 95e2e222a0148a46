"""TimeTuner against a straight-line transcription of the published procedure, and its cost."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ttune
from tests.oracles import Gaussian, outputs_from, standard_normal
from ttune import NoiseSchedule, Schedule, TimeTuner, apply_timetuner_ratios, timetuner_ratios
from ttune.noise.schedules import Float64
from ttune.sampling.plan import Plan
from ttune.tuning.methods.timetuner import _noised

NOISE = NoiseSchedule.linear()


class Conv(nn.Module):
    """A random epsilon network with a smooth time embedding; float64, (B, 1, 4, 4)."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Conv2d(1, 6, 3, padding=1)
            self.time = nn.Linear(4, 6)
            self.last = nn.Conv2d(6, 1, 3, padding=1)
        self.calls = 0
        self.double()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        angles = t[:, None] / 1000 * torch.tensor([1.0, 2.0], dtype=t.dtype)
        emb = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        return self.last(torch.tanh(self.first(x) + emb[:, :, None, None])) + 0.7 * x


def batch(j: int, n: int = 3) -> tuple[Tensor, Tensor]:
    """x_0 and epsilon of iteration ``j``."""
    generator = torch.Generator().manual_seed(j)
    x_0 = torch.rand((n, 1, 4, 4), generator=generator, dtype=torch.float64) * 2 - 1
    return x_0, torch.randn((n, 1, 4, 4), generator=generator, dtype=torch.float64)


def draw(j: int) -> tuple[Tensor, Tensor, dict[str, object]]:
    return *batch(j), {}


def published(network: nn.Module, index_times: Float64, procedure: str, iterations: int, lr: float) -> list[float]:
    """The paper's procedure in its own words: continuous time t in (0, 1000], ratios rho, DDIM, Adam. Nothing of ttune but alpha-bar.

    Index s is continuous time s + 1, so that time 0 is the clean image.
    """
    bar = [1.0, *(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))]
    grid = [float(s) + 1 for s in index_times]

    def alpha_bar(time: float) -> float:
        below = min(int(time), 999)
        return float(np.exp((1 - (time - below)) * np.log(bar[below]) + (time - below) * np.log(bar[below + 1])))

    def eps_at(x: Tensor, time: Tensor | float) -> Tensor:
        tuned = torch.as_tensor(time, dtype=torch.float64) - 1  # the network counts from 0
        return network(x, tuned.expand(len(x)))

    def ddim_step(x: Tensor, t: float, u: float, eps: Tensor) -> Tensor:
        x_0 = (x - (1 - alpha_bar(t)) ** 0.5 * eps) / alpha_bar(t) ** 0.5
        return alpha_bar(u) ** 0.5 * x_0 + (1 - alpha_bar(u)) ** 0.5 * eps

    ratios: list[float] = []
    for i in range(len(grid) - 2):  # all steps but the last
        rho = torch.ones((), dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([rho], lr=lr, betas=(0.9, 0.999))
        for j in range(iterations):
            x_0, noise = batch(i * iterations + j)
            with torch.no_grad():
                if procedure == "parallel":
                    x = alpha_bar(grid[i]) ** 0.5 * x_0 + (1 - alpha_bar(grid[i])) ** 0.5 * noise
                else:
                    x = alpha_bar(1000) ** 0.5 * x_0 + (1 - alpha_bar(1000)) ** 0.5 * noise
                    for k in range(i):
                        x = ddim_step(x, grid[k], grid[k + 1], eps_at(x, ratios[k] * grid[k]))
                target = eps_at(x, grid[i])
            moved = ddim_step(x, grid[i], grid[i + 1], eps_at(x, rho * grid[i]))
            loss = ((target - eps_at(moved, grid[i + 1])) ** 2).sum((1, 2, 3)).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        ratios.append(rho.item())
    return ratios


PAPER_GRID = {"spacing": "leading", "offset": 1, "final": "min"}  # 1 + (1000 // K) i in index units, down to index 0


@pytest.mark.parametrize("procedure", ["sequential", "parallel"])
@pytest.mark.parametrize("options", [PAPER_GRID, {"spacing": "quadratic", "t_start": 900.0}], ids=["paper's grid", "fractional, to clean"])
def test_the_published_procedure(procedure: str, options: dict[str, object]) -> None:
    network, steps, iterations, lr = Conv(), 4, 12, 1e-2
    schedule = Schedule.build(NOISE, "ddim", steps, **options)  # type: ignore[arg-type]
    expected = published(Conv(), schedule.times, procedure, iterations, lr)
    tuner = TimeTuner(procedure, iterations=iterations, lr=lr, reroll=True)
    found = list(tuner.ratios(ttune.Denoiser(network, NOISE), schedule, draw))
    assert len(found) == steps - 1
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    np.testing.assert_allclose(found, expected, atol=1e-9, rtol=0)  # what float64 gives
    assert max(abs(np.array(expected) - 1)) > 0.02  # or the agreement would say nothing


def test_the_published_defaults() -> None:
    tuner = TimeTuner()
    assert (tuner.procedure, tuner.iterations, tuner.lr) == ("sequential", 500, 2e-3)
    network = Conv()
    denoiser = ttune.Denoiser(network, NOISE)
    schedule = Schedule.build(NOISE, "ddim", 3, "linspace")
    found = list(TimeTuner("parallel", iterations=5).ratios(denoiser, schedule, draw))
    np.testing.assert_allclose(found, published(Conv(), schedule.times, "parallel", 5, 2e-3), atol=1e-9)


def test_the_carried_pool_gives_the_same_within_its_sampling_error() -> None:
    schedule = Schedule.build(NOISE, "ddim", 4, "linspace")
    settings = {"iterations": 60, "lr": 1e-2}

    def run(first: int, reroll: bool) -> list[float]:
        tuner = TimeTuner(reroll=reroll, **settings)  # type: ignore[arg-type]
        return list(tuner.ratios(ttune.Denoiser(Conv(), NOISE), schedule, lambda j: (*batch(first + j, 16), {})))

    rerolled = np.array([run(1000 * k, True) for k in range(3)])
    carried = np.array([run(1000 * k, False) for k in range(3)])
    np.testing.assert_allclose(carried[:, 0], rerolled[:, 0], atol=1e-9)  # the first step has no prefix: the very same batches
    spread = 4 * np.sqrt((rerolled.var(0, ddof=1) + carried.var(0, ddof=1)) / 3) + 1e-4
    assert (abs(carried.mean(0) - rerolled.mean(0)) <= spread).all()
    assert spread.max() < 0.3 * abs(rerolled.mean(0) - 1).max()  # small against the effect


@pytest.mark.parametrize("K", [2, 3, 5, 7])
def test_the_cost_is_as_stated(K: int) -> None:
    """4K - 5 forward calls an iteration with the pool, (K - 1)(K + 4) / 2 re-rolled, 3(K - 1) in parallel; counted in the network."""
    iterations, schedule = 3, Schedule.build(NOISE, "ddim", K, "linspace")
    for tuner, calls in (
        (TimeTuner(iterations=iterations), 4 * K - 5),
        (TimeTuner(iterations=iterations, reroll=True), (K - 1) * (K + 4) // 2),
        (TimeTuner("parallel", iterations=iterations), 3 * (K - 1)),
    ):
        network = Conv()
        denoiser = ttune.Denoiser(network, NOISE)
        list(tuner.ratios(denoiser, schedule, draw))
        assert network.calls == calls * iterations
        # In evaluations of one sample: a backward, through two of the three calls of an iteration, counts twice its forward.
        assert denoiser.evaluations == 3 * iterations * (calls + 2 * 2 * (K - 1))


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction", "score", "flow_prediction"])
@pytest.mark.parametrize("procedure", ["sequential", "parallel"])
def test_any_prediction_type_and_sampler(procedure: str, prediction_type: str, sampler: str) -> None:
    """The same belief about the noise gives the same ratios, whatever words the network uses; conversions are made at the solver time."""
    schedule = Schedule.build(NOISE, sampler, 4, "linspace")
    levels = {float(t): (float(a), float(s)) for t, a, s in zip(schedule.times, schedule.alphas, schedule.sigmas, strict=True)}
    position: list[float] = []
    base = Conv()

    def network(x: Tensor, tau: Tensor) -> Tensor:
        # Which solver time this call is at: the nearest one (the ratios stay near 1).
        t = min(schedule.times[:-1], key=lambda t: abs(t - tau[0].item()))
        position.append(t)
        alpha, sigma = levels[float(t)]
        eps = base(x, tau)
        return outputs_from(prediction_type, (x - sigma * eps) / alpha, eps, alpha, sigma)

    tuner = TimeTuner(procedure, iterations=4, lr=1e-2)
    found = list(tuner.ratios(ttune.Denoiser(network, NOISE, prediction_type=prediction_type), schedule, draw))
    expected = list(tuner.ratios(ttune.Denoiser(base, NOISE), schedule, draw))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.isfinite(found).all()
    assert max(abs(np.array(found) - 1)) > 1e-3


@pytest.mark.parametrize("noise", [NoiseSchedule.edm(), NoiseSchedule.flow(), NoiseSchedule.continuous_vp()], ids=["edm", "flow", "vp"])
def test_continuous_noise_schedules(noise: NoiseSchedule) -> None:
    schedule = Schedule.build(noise, "euler", 3, "linspace")
    gaussian = Gaussian(noise, 0.8, "flow_prediction")
    found = list(TimeTuner(iterations=5).ratios(gaussian.denoiser(), schedule, lambda j: (*(b[:, 0, 0] for b in batch(j)), {})))
    tuned = apply_timetuner_ratios(schedule, found).network_times
    assert np.isfinite(tuned).all()
    assert (tuned <= noise.t_max).all()
    assert max(abs(np.array(found) - 1)) > 1e-3


def test_ratios_make_the_round_trip() -> None:
    schedule = Schedule.build(NOISE, "ddim", 4, "linspace")
    np.testing.assert_array_equal(timetuner_ratios(schedule), np.ones(4))
    tuned = apply_timetuner_ratios(schedule, [0.9, 1.1, 1.02])
    # rho multiplies continuous time: tau = rho (s + 1) - 1.
    np.testing.assert_allclose(tuned.network_times, [899, 1.1 * 750.25 - 1, 1.02 * 500.5 - 1, 249.75])
    np.testing.assert_allclose(timetuner_ratios(tuned), [0.9, 1.1, 1.02, 1.0], rtol=1e-12)
    again = apply_timetuner_ratios(schedule, timetuner_ratios(tuned))
    np.testing.assert_allclose(again.network_times, tuned.network_times, rtol=1e-12)
    np.testing.assert_array_equal(apply_timetuner_ratios(schedule, [2.0, 1, 1]).network_times[0], 999)  # never beyond the trained range
    edm = Schedule.build(NoiseSchedule.edm(), "euler", 2, "karras")
    np.testing.assert_allclose(apply_timetuner_ratios(edm, [0.5]).network_times, [40, edm.times[1]])
    with pytest.raises(ValueError, match="ratios must hold 3 or 4 numbers for this schedule, got 2"):
        apply_timetuner_ratios(schedule, [1.0, 1.0])


def test_ratios_stay_where_the_network_was_trained() -> None:
    """The published range is not limited; here the network time is projected after every iteration."""
    schedule = Schedule.build(NOISE, "ddim", 3, "linspace")
    gaussian = Gaussian(NOISE)
    found = list(TimeTuner(iterations=30, lr=0.3).ratios(gaussian.denoiser(), schedule, lambda j: (*(b[:, 0, 0] for b in batch(j)), {})))
    for rho, t in zip(found, schedule.times, strict=False):
        assert 0 <= rho * (t + 1) - 1 <= 999 + 1e-9


def test_weights_are_frozen_meanwhile_and_then_as_before() -> None:
    network = Conv()
    network.time.bias.requires_grad_(False)
    before = {name: p.requires_grad for name, p in network.named_parameters()}
    assert set(before.values()) == {True, False}
    seen: list[bool] = []
    network.register_forward_pre_hook(lambda *_: seen.append(any(p.requires_grad for p in network.parameters())))
    schedule = Schedule.build(NOISE, "ddim", 3, "linspace")
    list(TimeTuner(iterations=2).ratios(ttune.Denoiser(network, NOISE), schedule, draw))
    assert seen
    assert not any(seen)
    assert {name: p.requires_grad for name, p in network.named_parameters()} == before
    assert all(p.grad is None for p in network.parameters())
    running = TimeTuner(iterations=2).ratios(ttune.Denoiser(network, NOISE), schedule, draw)
    next(running)
    running.close()  # given up half-way
    assert {name: p.requires_grad for name, p in network.named_parameters()} == before


@pytest.mark.parametrize(
    ("settings", "message"), [({"procedure": "random"}, "procedure must be .*'random'"), ({"iterations": 0}, "at least 1, got 0")]
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimeTuner(**settings)  # type: ignore[arg-type]


def test_the_pool_of_2m_carries_its_memory() -> None:
    """Rolled anew or carried on, the states of a multistep sampler are the same; with the same batches, so are the ratios."""
    schedule = Schedule.build(NOISE, "dpmpp_2m", 5, "linspace")
    same = lambda j: (*batch(j % 4), {})  # noqa: E731
    carried = list(TimeTuner(iterations=4, lr=1e-2).ratios(ttune.Denoiser(Conv(), NOISE), schedule, same))
    rerolled = list(TimeTuner(iterations=4, lr=1e-2, reroll=True).ratios(ttune.Denoiser(Conv(), NOISE), schedule, same))
    np.testing.assert_allclose(carried, rerolled, atol=1e-12)
    assert all(a != b for a, b in pairwise(carried))


def test_parallel_states_of_2m_remember_the_noised_state_before() -> None:
    schedule = Schedule.build(NOISE, "dpmpp_2m", 5, "linspace")
    denoiser = ttune.Denoiser(Conv(), NOISE)
    x_0, eps = batch(3)
    for i in range(5):
        registers = _noised(denoiser, schedule, Plan.make(denoiser, schedule), i, x_0, eps, {})
        a, s = schedule.alphas, schedule.sigmas
        torch.testing.assert_close(registers["x"], a[i] * x_0 + s[i] * eps)
        assert ("D1" in registers) == (1 <= i <= 3)  # the last step is first order
        if 1 <= i <= 3:
            torch.testing.assert_close(registers["D1"], denoiser(a[i - 1] * x_0 + s[i - 1] * eps, schedule.times[i - 1]))


def test_a_run_taken_over_goes_on_as_it_would_have() -> None:
    schedule = Schedule.build(NOISE, "dpmpp_2m", 5, "linspace")
    for tuner in (TimeTuner(iterations=3), TimeTuner(iterations=3, reroll=True), TimeTuner("parallel", iterations=3)):
        whole = list(tuner.ratios(ttune.Denoiser(Conv(), NOISE), schedule, draw))
        for n in range(5):
            assert list(tuner.ratios(ttune.Denoiser(Conv(), NOISE), schedule, draw, done=whole[:n])) == whole


def test_standard_normal_is_normalised() -> None:
    assert float(standard_normal((5, 3)).square().mean()) == pytest.approx(1)
