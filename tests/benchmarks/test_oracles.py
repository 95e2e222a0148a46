"""The oracles of the comparison are exact: their score is the gradient of the log density that autograd finds."""

import math

import pytest
import torch

from benchmarks import oracles


@pytest.mark.parametrize("name", ["mixture", "digits"])
@pytest.mark.parametrize("t", [20, 400.5, 990])
def test_the_noise_prediction_is_the_exact_score(name: str, t: float) -> None:
    denoiser = getattr(oracles, name)()
    network = denoiser.network
    alpha, sigma = float(denoiser.noise.alpha(t)), float(denoiser.noise.sigma(t))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, *denoiser.sample_shape, dtype=torch.float64, generator=generator)
    x = (alpha * network.centres[:5].reshape(x.shape) + sigma * x).requires_grad_(True)
    variance = alpha**2 * network.width**2 + sigma**2
    squares = (x.flatten(1)[:, None] - alpha * network.centres).square().sum(-1)
    log_density = torch.logsumexp(-squares / (2 * variance), 1) - math.log(len(network.centres))
    (score,) = torch.autograd.grad(log_density.sum(), x)
    found = network(x.detach(), torch.full((5,), t, dtype=torch.float64))
    torch.testing.assert_close(found, -sigma * score, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["mixture", "digits"])
def test_the_network_is_differentiable_in_the_network_time(name: str) -> None:
    denoiser = getattr(oracles, name)()
    x = torch.randn(3, *denoiser.sample_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    tau = torch.tensor([100.3, 500.7, 900.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: denoiser.network(x, t).flatten(1).sum(1), (tau,), atol=1e-6)


@pytest.mark.parametrize("name", ["mixture", "digits"])
def test_the_exact_samples_have_the_moments_of_the_mixture(name: str) -> None:
    data, network = getattr(oracles, f"{name}_data")(), getattr(oracles, name)().network
    mean, variance = network.centres.mean(0), network.centres.var(0, correction=0) + network.width**2
    deviation = (variance / len(data)).sqrt()
    assert ((data.double().flatten(1).mean(0) - mean) / deviation).abs().max() < 5
    torch.testing.assert_close(data.double().flatten(1).var(0), variance, rtol=0.1, atol=0.005)
