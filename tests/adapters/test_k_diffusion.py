"""k-diffusion's own samplers and wrappers, from the package itself, with a tuned schedule: the same samples as ttune's loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ttune
from tests.adapters.k_diffusion_modules import modules
from tests.adapters.small import Small, noise_like, tuned
from ttune import NoiseSchedule

VP = NoiseSchedule.scaled_linear()
EDM = NoiseSchedule.edm(0.02, 80.0)
X_T = noise_like(3, 2, 6, 6)
# ttune's sampler, k-diffusion's function and what it is given
SAMPLERS: list[tuple[str, str, dict[str, Any]]] = [
    ("euler", "sample_euler", {}),
    ("heun", "sample_heun", {}),
    ("kdpm_2", "sample_dpm_2", {}),
    ("dpmpp_2m", "sample_dpmpp_2m", {}),
    ("dpmpp_2s", "sample_dpmpp_2s_ancestral", {"eta": 0.0}),
    ("ddim", "sample_euler", {}),
    ("euler", "sample_euler_ancestral", {"eta": 0.0}),
    ("kdpm_2", "sample_dpm_2_ancestral", {"eta": 0.0}),
    ("edm_heun", "sample_heun", {}),
    ("lms", "sample_lms", {"order": 4}),
    ("dpmpp_2m", "sample_dpmpp_2m_sde", {"eta": 0.0, "noise_sampler": lambda *_: 0.0}),
    ("dpmpp_3m", "sample_dpmpp_3m_sde", {"eta": 0.0, "noise_sampler": lambda *_: 0.0}),
]
# Options that a schedule needs to be stepped as k-diffusion does.
OPTIONS: dict[str, dict[str, Any]] = {"lms": {"full_order_to_clean": True}, "dpmpp_3m": {"solver_type": "heun"}, "dpmpp_2s": {"eta": 0.0}}


def bars(kind: type[nn.Module], network: Any, quantize: bool = False) -> Any:
    return kind(network, torch.from_numpy(VP.alpha(np.arange(1000.0)) ** 2), quantize=quantize)


@pytest.mark.parametrize(("sampler", "function", "options"), SAMPLERS, ids=[row[1] for row in SAMPLERS])
@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("kind", ["DiscreteEpsDDPMDenoiser", "DiscreteVDDPMDenoiser"])
def test_discrete_models_sample_as_in_our_own_loop(kind: str, sampler: str, function: str, options: dict[str, Any], quantize: bool) -> None:
    sampling, external, _ = modules()
    network = Small(scale=1000)
    model = bars(getattr(external, kind), network, quantize)
    denoiser = ttune.k_diffusion.denoiser(model, noise=VP)
    schedule = tuned(VP, sampler, 4, t_start=900.0, options=OPTIONS.get(sampler, {}))
    mine = ttune.sample(denoiser, schedule, X_T)
    network.passed.clear()
    sigmas = ttune.k_diffusion.sigmas(schedule, torch.float64)
    theirs = getattr(sampling, function)(ttune.k_diffusion.wrap(model, schedule), ttune.k_diffusion.start(schedule, X_T), sigmas, **options)
    np.testing.assert_allclose(network.passed, schedule.network_times, rtol=1e-12)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    # And the network times matter: without them it is another image.
    plain = getattr(sampling, function)(model, ttune.k_diffusion.start(schedule, X_T), sigmas, **options)
    assert (plain - theirs).abs().max() > 1e-3


def test_preconditioned_models_keep_their_scalings_at_the_position() -> None:
    sampling, _, layers = modules()
    network = Small(scale=80)
    model = layers.Denoiser(network, sigma_data=0.5)
    denoiser = ttune.k_diffusion.denoiser(model, sigma_min=0.02, sigma_max=80.0)
    assert denoiser.noise == EDM
    schedule = tuned(EDM, "heun", 4, "karras")
    mine = ttune.sample(denoiser, schedule, 80 * X_T)
    sigmas = ttune.k_diffusion.sigmas(schedule, torch.float64)
    theirs = sampling.sample_heun(ttune.k_diffusion.wrap(model, schedule), ttune.k_diffusion.start(schedule, 80 * X_T), sigmas)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    # One evaluation, by hand: c_in, c_skip and c_out of sigma = 2, the network passed 3.
    x, s2 = X_T, 2.0**2 + 0.25
    D = 0.25 / s2 * x + 2 * 0.5 / s2**0.5 * network(x / s2**0.5, torch.full((3,), 3.0, dtype=torch.float64))
    torch.testing.assert_close(denoiser(x, 2.0, 3.0), D)


def test_the_model_is_the_same_before_and_after() -> None:
    sampling, external, _ = modules()
    network = Small(scale=1000)
    model = bars(external.DiscreteEpsDDPMDenoiser, network)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    sigmas = model.get_sigmas(5)
    before = sampling.sample_heun(model, X_T * sigmas[0], sigmas)
    schedule = tuned(VP, "heun", 4)
    wrapped = ttune.k_diffusion.wrap(model, schedule)
    sampling.sample_heun(wrapped, ttune.k_diffusion.start(schedule, X_T), ttune.k_diffusion.sigmas(schedule))
    assert model.inner_model is network
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(sampling.sample_heun(model, X_T * sigmas[0], sigmas), before)
    assert wrapped.sigma_max == model.sigma_max  # other attributes are the model's own


class Guided:
    """Classifier-free guidance as scripts for k-diffusion write it, in two calls."""

    def __init__(self, model: Any, scale: float) -> None:
        self.model, self.scale = model, scale

    def __call__(self, x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        without = self.model(x, sigma, y=torch.zeros_like(y))
        return without + self.scale * (self.model(x, sigma, y=y) - without)


def test_guidance_in_two_calls() -> None:
    sampling, external, _ = modules()
    model = bars(external.DiscreteEpsDDPMDenoiser, Small(scale=1000))
    denoiser = ttune.k_diffusion.denoiser(model, noise=VP, guidance=ttune.ClassifierFree(3.0, {"y": 0}))
    schedule, labels = tuned(VP, "dpmpp_2m", 4), torch.tensor([1, 2, 3])
    mine = ttune.sample(denoiser, schedule, X_T, conditions={"y": labels})
    guided = Guided(ttune.k_diffusion.wrap(model, schedule, calls_per_evaluation=2), 3.0)
    sigmas = ttune.k_diffusion.sigmas(schedule, torch.float64)
    theirs = sampling.sample_dpmpp_2m(guided, ttune.k_diffusion.start(schedule, X_T), sigmas, extra_args={"y": labels})
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


STOCHASTIC: list[tuple[str, str, dict[str, Any]]] = [
    ("euler_ancestral", "sample_euler_ancestral", {"eta": 0.7, "s_noise": 1.1}),
    ("ddpm", "sample_euler_ancestral", {"eta": 1.0}),
    ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"eta": 0.6, "s_noise": 1.1, "solver_type": "heun"}),
    ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {"eta": 1.0}),
]


@pytest.mark.parametrize(("sampler", "function", "options"), STOCHASTIC, ids=[row[0] for row in STOCHASTIC])
def test_samplers_with_fresh_noise(sampler: str, function: str, options: dict[str, Any]) -> None:
    sampling, external, _ = modules()
    model = bars(external.DiscreteEpsDDPMDenoiser, Small(scale=1000))
    schedule, seeds = tuned(VP, sampler, 4, options={} if sampler == "ddpm" else options), torch.arange(3)
    mine = ttune.sample(ttune.k_diffusion.denoiser(model, noise=VP), schedule, X_T, seeds=seeds)
    draws = iter(range(9))
    theirs = getattr(sampling, function)(
        ttune.k_diffusion.wrap(model, schedule),
        ttune.k_diffusion.start(schedule, X_T),
        ttune.k_diffusion.sigmas(schedule, torch.float64),
        noise_sampler=lambda *_: ttune.ops.philox_normal((2, 6, 6), seeds, draw=next(draws), dtype=torch.float64),
        **options,
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


OTHERWISE: list[tuple[str, dict[str, Any], str, dict[str, Any], str]] = [
    ("dpmpp_2m", {}, "sample_euler", {}, "must be sample_dpmpp_2m or sample_dpmpp_2m_sde, for a schedule of 'dpmpp_2m', got sample_euler"),
    ("euler", {}, "sample_dpmpp_2m", {}, "sampler must be sample_euler or sample_euler_ancestral, .* got sample_dpmpp_2m"),
    ("euler", {}, "sample_lms", {}, "got sample_lms"),
    ("kdpm_2", {}, "sample_dpmpp_2s_ancestral", {"eta": 0.0}, "sampler must be sample_dpm_2 or sample_dpm_2_ancestral"),
    ("euler", {}, "sample_euler_ancestral", {}, r"eta of sample_euler_ancestral must be 0\.0, as in the schedule, got 1\.0"),
    ("ddim", {"eta": 0.5}, "sample_euler", {}, r"eta of sample_euler must be 0\.5, as in the schedule, got none"),
    ("lms", {"options": {"full_order_to_clean": True}}, "sample_lms", {"order": 2}, "order of sample_lms must be 4, .* got 2"),
    ("heun", {}, "sample_heun", {"s_churn": 2.0}, "sigma must be"),
    ("dpmpp_2m_sde", {}, "sample_dpmpp_2m_sde", {"solver_type": "heun"}, "solver_type of sample_dpmpp_2m_sde must be midpoint"),
    ("dpmpp_2m_sde", {}, "sample_dpmpp_2m_sde", {"s_noise": 1.1}, r"s_noise of sample_dpmpp_2m_sde must be 1\.0"),
    ("ddpm", {}, "sample_euler_ancestral", {"s_noise": 1.1}, r"s_noise of sample_euler_ancestral must be 1\.0"),
    ("dpmpp_2s", {"options": {"eta": 0.0}}, "sample_dpmpp_2s_ancestral", {}, r"eta of sample_dpmpp_2s_ancestral must be 0\.0"),
]  # fmt: skip


@pytest.mark.parametrize(("sampler", "build", "function", "options", "match"), OTHERWISE)
def test_another_function_is_refused_before_the_first_call(
    sampler: str, build: dict[str, Any], function: str, options: dict[str, Any], match: str
) -> None:
    sampling, external, _ = modules()
    network = Small(scale=1000)
    schedule = tuned(VP, sampler, 4, **build)
    wrapped = ttune.k_diffusion.wrap(bars(external.DiscreteEpsDDPMDenoiser, network), schedule)
    if function.endswith("_sde"):
        options = {**options, "noise_sampler": lambda *_: torch.zeros_like(X_T)}
    with pytest.raises(ValueError, match=match):
        getattr(sampling, function)(wrapped, X_T, ttune.k_diffusion.sigmas(schedule, torch.float64), **options)
    assert network.passed == []


@pytest.mark.parametrize(
    ("sampler", "build", "match"),
    [
        ("lms", {}, r"k-diffusion steps 'lms' with options={'full_order_to_clean': True}"),
        ("dpmpp_2m", {"options": {"solver_type": "heun"}}, r"k-diffusion steps 'dpmpp_2m' with options={'solver_type': 'midpoint'}"),
        ("dpmpp_2m", {"lower_order_final": True, "final": "min"}, "lower_order_final=False, got"),
        ("dpmpp_3m", {}, r"k-diffusion steps 'dpmpp_3m' with options={'solver_type': 'heun'}"),
        ("ddim", {"options": {"gammas": (0.9,) * 4}}, "k-diffusion steps 'ddim'"),
        ("unipc", {}, "which k-diffusion's functions step as ttune does, got 'unipc'"),
    ],
)
def test_schedules_that_none_of_its_functions_steps_are_refused(sampler: str, build: dict[str, Any], match: str) -> None:
    _, external, _ = modules()
    with pytest.raises(ValueError, match=match):
        ttune.k_diffusion.wrap(bars(external.DiscreteEpsDDPMDenoiser, Small(scale=1000)), tuned(VP, sampler, 4, **build))


class CFGDenoiser(nn.Module):
    """Guidance as web UIs write it: around the wrapper, in one call of twice the batch or in two."""

    def __init__(self, model: Any, batched: bool) -> None:
        super().__init__()
        self.inner_model, self.batched = model, batched

    def forward(self, x: Tensor, sigma: Tensor, uncond: Tensor, cond: Tensor, scale: float) -> Tensor:
        if self.batched:
            both = self.inner_model(torch.cat([x, x]), torch.cat([sigma, sigma]), y=torch.cat([uncond, cond]))
            without, with_ = both.chunk(2)
        else:
            without, with_ = self.inner_model(x, sigma, y=uncond), self.inner_model(x, sigma, y=cond)
        return without + scale * (with_ - without)


class Forwarding(CFGDenoiser):
    """Hands on what it does not have itself, as some of them do."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner_model"), name)


@pytest.mark.parametrize("kind", ["discrete", "preconditioned"])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("guided", [CFGDenoiser, Forwarding])
def test_guidance_around_the_wrapper_in_either_order(guided: type[CFGDenoiser], batched: bool, kind: str) -> None:
    sampling, external, layers = modules()
    if kind == "discrete":
        noise, model = VP, bars(external.DiscreteEpsDDPMDenoiser, Small(scale=1000))
        settings: dict[str, Any] = {"noise": VP}
    else:
        noise, model = EDM, layers.Denoiser(Small(scale=80), sigma_data=0.5)
        settings = {"sigma_min": 0.02, "sigma_max": 80.0}
    labels, null = torch.tensor([1, 2, 3]), torch.zeros(3, dtype=torch.long)
    denoiser = ttune.k_diffusion.denoiser(model, guidance=ttune.ClassifierFree(3.0, {"y": 0}), **settings)
    schedule, x_T = tuned(noise, "heun", 4, t_start=0.9 * noise.t_max), noise.sigma(noise.t_max) * X_T
    mine = ttune.sample(denoiser, schedule, x_T, conditions={"y": labels})
    calls = 1 if batched else 2
    for wrapped in (
        ttune.k_diffusion.wrap(guided(model, batched), schedule),
        guided(ttune.k_diffusion.wrap(model, schedule, calls_per_evaluation=calls), batched),
    ):
        theirs = sampling.sample_heun(
            wrapped,
            ttune.k_diffusion.start(schedule, x_T),
            ttune.k_diffusion.sigmas(schedule, torch.float64),
            extra_args={"uncond": null, "cond": labels, "scale": 3.0},
        )
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


class Hiding(CFGDenoiser):
    """Reaches the wrapper by another name."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, batched=False)
        self.kept = model

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:  # type: ignore[override]
        return self.kept(x, sigma)


def test_models_that_are_no_wrappers_are_refused() -> None:
    _, external, layers = modules()
    model, precond = bars(external.DiscreteEpsDDPMDenoiser, Small(scale=1000)), layers.Denoiser(Small(scale=80), sigma_data=0.5)
    schedule = tuned(VP, "euler", 3)
    for refused in (CFGDenoiser(Small(), False), Forwarding(Small(), False), ttune.k_diffusion.wrap(model, schedule)):
        with pytest.raises(TypeError, match=r"wrappers \(get_eps, get_v or get_scalings\) or a guided model around one"):
            ttune.k_diffusion.wrap(refused, schedule)
    for refused in (CFGDenoiser(model, False), Forwarding(model, False), CFGDenoiser(precond, True)):
        with pytest.raises(TypeError, match="of a guided model around one, give the wrapper"):
            ttune.k_diffusion.denoiser(refused, sigma_min=0.02, sigma_max=80.0)
    with pytest.raises(ValueError, match=r"must have sigma for its time \(NoiseSchedule.edm\), as the Denoiser has, got DiscreteVP"):
        ttune.k_diffusion.wrap(precond, schedule)
    with pytest.raises(ValueError, match="must have sigma for its time"):
        ttune.k_diffusion.denoiser(precond, noise=VP)
    with pytest.raises(ValueError, match="a Hiding that reaches the network by another name"):
        ttune.k_diffusion.wrap(Hiding(model), schedule)(X_T, torch.full((3,), float(ttune.k_diffusion.sigmas(schedule)[0])))
    for change in ({"prediction_type": "sample"}, {"clip_sample": 1.0}, {"threshold": "a function"}):
        with pytest.raises(ValueError, match=rf"schedule was tuned with {next(iter(change))} .*, DiscreteEpsDDPMDenoiser has"):
            ttune.k_diffusion.wrap(model, schedule.replace(model=change))
        ttune.k_diffusion.wrap(model, schedule.replace(model=change), check_model=False)


class CompVis(nn.Module):
    """A latent diffusion model, as far as k-diffusion's wrapper of them looks at it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("alphas_cumprod", torch.from_numpy(VP.alpha(np.arange(1000.0)) ** 2))

    def apply_model(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.network(x, t, cond)


def test_models_that_are_called_by_apply_model() -> None:
    sampling, external, _ = modules()
    model = external.CompVisDenoiser(CompVis(Small(scale=1000)))
    labels, schedule = torch.tensor([1, 2, 3]), tuned(VP, "euler", 4)
    mine = ttune.sample(ttune.k_diffusion.denoiser(model, noise=VP), schedule, X_T, conditions={"cond": labels})
    theirs = sampling.sample_euler(
        ttune.k_diffusion.wrap(model, schedule),
        ttune.k_diffusion.start(schedule, X_T),
        ttune.k_diffusion.sigmas(schedule, torch.float64),
        extra_args={"cond": labels},
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_float32_as_scripts_run_it() -> None:
    sampling, external, _ = modules()
    model = bars(external.DiscreteEpsDDPMDenoiser, Small(scale=1000, dtype=torch.float32)).float()
    denoiser = ttune.k_diffusion.denoiser(model)  # its noise from the model's own float32 sigmas
    schedule = tuned(denoiser.noise, "dpmpp_2m", 5)
    mine = ttune.sample(denoiser, schedule, X_T.float())
    start = ttune.k_diffusion.start(schedule, X_T.float())
    theirs = sampling.sample_dpmpp_2m(ttune.k_diffusion.wrap(model, schedule), start, ttune.k_diffusion.sigmas(schedule))
    assert (mine - theirs).abs().max() / theirs.abs().max() < 1e-5


def test_tuned_from_the_wrapper() -> None:
    _, external, _ = modules()
    denoiser = ttune.k_diffusion.denoiser(bars(external.DiscreteEpsDDPMDenoiser, Small(scale=1000)), noise=VP)
    schedule = ttune.Schedule.build(VP, "ddim", 2, "log_snr")
    settings = {"iterations": 1, "search_starts": False, "fallback": False, "progress": False}
    result = ttune.tune(denoiser, schedule, x_T=noise_like(8, 2, 6, 6), **settings)
    assert result.validation is not None
    assert not np.array_equal(result.schedule.network_times, schedule.network_times)


def test_what_does_not_fit_is_refused() -> None:
    sampling, external, _ = modules()
    model = bars(external.DiscreteEpsDDPMDenoiser, Small(scale=1000))
    with pytest.raises(ValueError, match=r"schedule must have the model's noise levels: sigma at index \d+ is"):
        ttune.k_diffusion.wrap(model, tuned(NoiseSchedule.linear(), "ddim", 3))
    with pytest.raises(ValueError, match="must be for a discrete model of 1000 steps"):
        ttune.k_diffusion.wrap(model, tuned(EDM, "euler", 3, "karras"))
    with pytest.raises(TypeError, match="with an inner_model, got function"):
        ttune.k_diffusion.wrap(lambda x, sigma: x, tuned(EDM, "euler", 3, "karras"))
    with pytest.raises(ValueError, match="VDenoiser has a time of its own"):
        ttune.k_diffusion.wrap(external.VDenoiser(Small()), tuned(EDM, "euler", 3, "karras"))
    with pytest.raises(ValueError, match="it starts at 1"):
        ttune.k_diffusion.sigmas(ttune.Schedule.build(NoiseSchedule.flow(), "euler", 3, "linspace"))
    schedule = tuned(VP, "euler", 4)
    wrapped = ttune.k_diffusion.wrap(model, schedule)
    with pytest.raises(ValueError, match=r"sigma must be .* at evaluation 1 of 4, got"):
        sampling.sample_euler(wrapped, X_T, model.get_sigmas(4))  # its own grid
    with pytest.raises(ValueError, match=r"sigma must be .* at evaluation 1 of 4"):
        sampling.sample_heun(wrapped, ttune.k_diffusion.start(schedule, X_T), ttune.k_diffusion.sigmas(schedule)[[0, 2, 3, 4]])
