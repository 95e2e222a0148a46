"""Broken input is found before a tuning is paid for, and good input is not accused."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ttune
from tests.oracles import Gaussian, alpha_sigma, mixture, outputs_from, standard_normal
from ttune import Denoiser, NoiseSchedule, Schedule, zoo
from ttune.network.denoiser import PREDICTION_TYPES
from ttune.tuning.input_checks import check_input, refuse_training

NOISE = NoiseSchedule.linear()
NOISES = {"linear": NOISE, "scaled": NoiseSchedule.scaled_linear(), "vp": NoiseSchedule.continuous_vp(), "edm": NoiseSchedule.edm()}


def checked(denoiser: Denoiser, shape: tuple[int, ...] = (256, 2)) -> None:
    noise = denoiser.noise
    size = float(noise.sigma(noise.t_max)) if noise.start_scale(noise.t_min) != 1 else 1.0
    check_input(denoiser, (size * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), {}), 256)


def as_type(noise: NoiseSchedule, kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact network of a mixture, as one of this prediction type."""
    exact = mixture(noise)

    def network(x: Tensor, tau: Tensor) -> Tensor:
        alpha, sigma = (c[:, None] for c in alpha_sigma(noise, tau))
        eps = exact(x, tau)
        return outputs_from(kind, (x - sigma * eps) / alpha, eps, alpha, sigma)

    return network


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_a_right_prediction_type_is_not_accused(kind: str, noise: NoiseSchedule) -> None:
    checked(Denoiser(as_type(noise, kind), noise, prediction_type=kind))
    for s in (0.1, 1.0):
        checked(Gaussian(noise, s, kind).denoiser())


@pytest.mark.parametrize("noise", [NOISES["linear"], NOISES["scaled"], NOISES["vp"]])
@pytest.mark.parametrize("truth", ["epsilon", "v_prediction", "sample", "score"])
@pytest.mark.parametrize("declared", ["epsilon", "v_prediction", "sample"])
def test_another_prediction_type_is_named(truth: str, declared: str, noise: NoiseSchedule) -> None:
    denoiser = Denoiser(as_type(noise, truth), noise, prediction_type=declared)
    if declared == truth or {declared, truth} == {"v_prediction", "sample"}:  # alike at the largest time
        checked(denoiser)
        return
    with pytest.warns(UserWarning, match=f"prediction_type is '{declared}'.*slope.*correlation.*looks like .*'{truth}'"):
        checked(denoiser)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_an_untrained_network_is_not_accused(kind: str) -> None:
    class Untrained(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1))

        def forward(self, x: Tensor, tau: Tensor) -> Tensor:
            return self.layers(x.float()).to(x.dtype)

    for seed in range(3):
        checked(Denoiser(Untrained(seed), NOISE, prediction_type=kind), (4, 3, 8, 8))
    checked(Denoiser(lambda x, tau: torch.zeros_like(x), NOISE, prediction_type=kind))


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_bundled_model_passes() -> None:
    fashion = zoo.load("fashion")
    x_T = ttune.initial_noise(fashion.noise, (1, 28, 28), [0, 1])
    check_input(fashion, (x_T, {"class_label": torch.tensor([1, 2])}), 2)
    wrong = Denoiser(fashion.network, fashion.noise, prediction_type="v_prediction")
    with pytest.warns(UserWarning, match="looks like 'epsilon'"):
        check_input(wrong, (x_T, {"class_label": torch.tensor([1, 2])}), 2)


class Asks(nn.Module):
    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        return 2 * x if self.training else x


def sequential(*layers: nn.Module) -> nn.Module:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(2, 2), *layers)

        def forward(self, x: Tensor, tau: Tensor) -> Tensor:
            return self.layers(x)

    return Network()


MINDING = {
    "dropout": lambda: sequential(nn.Dropout(0.1)),
    "batch norm": lambda: sequential(nn.BatchNorm1d(2)),
    "a custom module": Asks,
    "attention with dropout": lambda: sequential(nn.MultiheadAttention(2, 1, dropout=0.1)),
}
HARMLESS = {
    "linear": lambda: sequential(),
    "dropout of nothing": lambda: sequential(nn.Dropout(0.0)),
    "group norm": lambda: sequential(nn.GroupNorm(1, 2)),
    "the batch's own statistics": lambda: sequential(nn.BatchNorm1d(2, track_running_stats=False)),
}
AROUND: dict[str, Callable[[nn.Module], Any]] = {
    "itself": lambda net: net,
    "a lambda": lambda net: lambda x, tau: net(x, tau),
    "partial": functools.partial,
    "its forward": lambda net: net.forward,
    "stitched": lambda net: ttune.Stitched([lambda x, tau: x, net], [500.0]),
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("make", MINDING.values(), ids=MINDING)
def test_training_mode_is_refused_where_it_matters(make: Callable[[], nn.Module], around: Callable[[nn.Module], Any]) -> None:
    net = make()
    denoiser = Denoiser(around(net), NOISE)
    with pytest.raises(ValueError, match=r"evaluation mode.*network\.eval\(\)"):
        refuse_training(denoiser)
    net.eval()
    refuse_training(denoiser)


@pytest.mark.parametrize("make", HARMLESS.values(), ids=HARMLESS)
def test_training_mode_is_no_matter_where_it_changes_nothing(make: Callable[[], nn.Module]) -> None:
    refuse_training(Denoiser(make(), NOISE))


def test_tune_refuses_training_mode_before_the_first_call() -> None:
    net = sequential(nn.Dropout(0.1))
    denoiser = Denoiser(net, NOISE)
    with pytest.raises(ValueError, match="evaluation mode"):
        ttune.tune(denoiser, Schedule.build(NOISE, "ddim", 3), x_T=torch.randn(8, 2), progress=False)
    assert denoiser.evaluations == 0


@pytest.mark.filterwarnings("ignore:.*prediction_type")
def test_a_network_that_draws_noise_is_named() -> None:
    with pytest.warns(UserWarning, match="two equal calls differ by .*network.eval"):
        checked(Denoiser(lambda x, tau: x + 0.01 * torch.randn_like(x), NOISE))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        memory = torch.empty(256, 2, dtype=torch.float64)
        checked(Denoiser(lambda x, tau: memory.copy_(x), NOISE))  # the same memory at every call is not another answer


@pytest.mark.parametrize("noise", [NoiseSchedule.edm(), NoiseSchedule.ve()])
def test_plain_noise_where_the_largest_sigma_belongs(noise: NoiseSchedule) -> None:
    denoiser = mixture(noise).denoiser()
    schedule, x_T = Schedule.build(noise, "euler", 4, "log_snr"), standard_normal((16, 2))
    calls = (
        lambda: ttune.sample(mixture(noise).denoiser(), schedule, x_T),
        lambda: ttune.CompiledSampler(denoiser, schedule, compile=False)(x_T),
        lambda: ttune.tune(denoiser, schedule, x_T=x_T, iterations=1, search_starts=False, progress=False),
    )
    for call in calls:
        with pytest.warns(UserWarning, match=r"x_T has a standard deviation near 1, the largest sigma .*give x_T = "):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ttune.sample(mixture(noise).denoiser(), schedule, ttune.initial_noise(noise, (2,), range(16), torch.float64))
        ttune.sample(mixture(noise).denoiser(), schedule, x_T, from_state=True)
