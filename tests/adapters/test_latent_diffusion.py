"""Latent diffusion's own DDIM and PLMS samplers (the package stable-diffusion-sdkit: CompVis' and Stability's code)."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ttune
from tests.adapters.small import Small, noise_like, tuned
from ttune import NoiseSchedule

ddim = pytest.importorskip("ldm.models.diffusion.ddim", reason="stable-diffusion-sdkit is not installed (--no-deps)")
plms = pytest.importorskip("ldm.models.diffusion.plms")

NOISE = NoiseSchedule.scaled_linear()
X_T = noise_like(3, 2, 6, 6, dtype=torch.float32)
C, UC = torch.tensor([1, 2, 3]), torch.zeros(3, dtype=torch.long)


class Latent(nn.Module):
    """As much of ``LatentDiffusion`` as its samplers look at."""

    device, num_timesteps, channels, image_size = torch.device("cpu"), 1000, 2, 6

    def __init__(self, parameterization: str = "eps") -> None:
        super().__init__()
        self.parameterization = parameterization
        self.network = Small(scale=1000, dtype=torch.float32)
        bars = torch.from_numpy(NOISE.alpha(np.arange(1000.0)) ** 2)
        before = torch.cat([torch.ones(1, dtype=bars.dtype), bars[:-1]])
        for name, table in {"alphas_cumprod": bars, "alphas_cumprod_prev": before, "betas": 1 - bars / before}.items():
            self.register_buffer(name, table.float())

    def apply_model(self, x_noisy: Tensor, t: Tensor, cond: Any, return_ids: bool = False) -> Tensor:
        labels = cond["c_crossattn"][0] if isinstance(cond, dict) else cond
        shift = cond["c_concat"][0] if isinstance(cond, dict) else 0
        return self.network(x_noisy + shift, t, labels)

    def predict_start_from_z_and_v(self, x: Tensor, t: Tensor, v: Tensor) -> Tensor:
        bar = self.alphas_cumprod[t][:, None, None, None]
        return bar.sqrt() * x - (1 - bar).sqrt() * v

    def predict_eps_from_z_and_v(self, x: Tensor, t: Tensor, v: Tensor) -> Tensor:
        bar = self.alphas_cumprod[t][:, None, None, None]
        return bar.sqrt() * v + (1 - bar).sqrt() * x


class Short(Latent):
    """As forks have it."""

    def apply_model(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:  # type: ignore[override]
        return self.network(x, t, c)


def sampled(sampler: Any, steps: int, scale: float = 2.0, **kwargs: Any) -> Tensor:
    return sampler.sample(
        steps,
        3,
        (2, 6, 6),
        C,
        x_T=X_T,
        verbose=False,
        unconditional_guidance_scale=scale,
        unconditional_conditioning=UC,
        **kwargs,
    )[0]


@pytest.mark.parametrize(("kind", "name"), [("DDIMSampler", "ddim"), ("PLMSSampler", "pndm")])
@pytest.mark.parametrize(("latent", "cond"), [(Latent, "cond"), (Latent, "c"), (Short, "c")])
def test_its_samplers_give_the_samples_of_our_loop(kind: str, name: str, latent: type[Latent], cond: str) -> None:
    model = latent()
    sampler = getattr(ddim if name == "ddim" else plms, kind)(model)
    guidance = ttune.ClassifierFree(2.0, {cond: 0})
    denoiser = ttune.latent_diffusion.denoiser(model, guidance=guidance)
    assert denoiser.sample_shape == (2, 6, 6)
    options = {"full_order_to_clean": True} if name == "pndm" else {}
    schedule = tuned(denoiser.noise, name, 5, t_start=950.0, options=options)
    mine = ttune.sample(denoiser, schedule, X_T, conditions={cond: C})
    before = sampled(sampler, 5)
    model.network.passed.clear()
    with ttune.latent_diffusion.apply(sampler, schedule):
        theirs = sampled(sampler, 5)
        passed = list(model.network.passed)
        again = ttune.sample(denoiser, schedule, X_T, conditions={cond: C})  # the denoiser gets its own times, not the sampler's
    assert torch.equal(again, mine)
    model.network.passed = passed
    np.testing.assert_allclose(model.network.passed, schedule.network_times, rtol=1e-6)
    assert (mine - theirs).abs().max() / theirs.abs().max() < 1e-5
    assert torch.equal(sampled(sampler, 5), before)
    assert "apply_model" not in model.__dict__
    assert "make_schedule" not in sampler.__dict__


def test_v_models_at_whole_times() -> None:
    model = Latent("v")
    sampler = ddim.DDIMSampler(model)
    denoiser = ttune.latent_diffusion.denoiser(model, guidance=ttune.ClassifierFree(2.0, {"c": 0}))
    fractional = tuned(denoiser.noise, "ddim", 4)
    with pytest.raises(ValueError, match="times must be whole for a model that predicts v"):
        ttune.latent_diffusion.apply(sampler, fractional)
    schedule = fractional.replace(times=np.round(fractional.times), network_times=fractional.network_times)
    mine = ttune.sample(denoiser, schedule, X_T, conditions={"c": C})
    with ttune.latent_diffusion.apply(sampler, schedule):
        theirs = sampled(sampler, 4)
    assert (mine - theirs).abs().max() / theirs.abs().max() < 1e-5


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_hybrid_conditions(scale: float) -> None:
    model = Latent()
    shift = noise_like(3, 2, 6, 6, dtype=torch.float32)
    hybrid = {"c_crossattn": [C], "c_concat": [shift]}
    null = {"c_crossattn": [UC], "c_concat": [shift]}
    guidance = ttune.ClassifierFree(scale, {"cond": null}) if scale != 1 else None
    denoiser = ttune.latent_diffusion.denoiser(model, guidance=guidance)
    schedule = tuned(denoiser.noise, "ddim", 4)
    mine = ttune.sample(denoiser, schedule, X_T, conditions={"cond": hybrid})
    sampler = ddim.DDIMSampler(model)
    own = {"unconditional_guidance_scale": scale, "unconditional_conditioning": null}
    with ttune.latent_diffusion.apply(sampler, schedule):
        theirs = sampler.sample(4, 3, (2, 6, 6), hybrid, x_T=X_T, verbose=False, **own)[0]
    assert (mine - theirs).abs().max() / theirs.abs().max() < 1e-5


def test_a_model_without_conditions() -> None:
    model = Latent()
    denoiser = ttune.latent_diffusion.denoiser(model)
    schedule, sampler = tuned(denoiser.noise, "ddim", 3), ddim.DDIMSampler(model)
    with ttune.latent_diffusion.apply(sampler, schedule):
        theirs = sampler.sample(3, 3, (2, 6, 6), None, x_T=X_T, verbose=False)[0]
    mine = ttune.sample(denoiser, schedule, X_T)
    assert (mine - theirs).abs().max() / theirs.abs().max() < 1e-5
    with pytest.raises(ValueError, match=r"one of \['cond', 'c'\], two names of the same"):
        ttune.sample(denoiser, schedule, X_T, conditions={"c": C, "cond": C})


@pytest.mark.parametrize("t_start", [1, 3, 5])
def test_image_to_image_runs_the_last_steps(t_start: int) -> None:
    model = Latent()
    denoiser = ttune.latent_diffusion.denoiser(model, guidance=ttune.ClassifierFree(2.0, {"cond": 0}))
    schedule, sampler = tuned(denoiser.noise, "ddim", 5), ddim.DDIMSampler(model)
    guided = {"unconditional_guidance_scale": 2.0, "unconditional_conditioning": UC}
    with ttune.latent_diffusion.apply(sampler, schedule):
        sampler.make_schedule(5, ddim_eta=0.0, verbose=False)
        for _ in range(2):
            theirs = sampler.decode(X_T, C, t_start, **guided)
        with pytest.raises(ValueError, match=r"t_start must lie in \[1, 5\], the steps of the schedule that is applied, got 6"):
            sampler.decode(X_T, C, 6, **guided)
    mine = ttune.sample(denoiser, schedule.part(5 - t_start), X_T, conditions={"cond": C})
    assert (mine - theirs).abs().max() / theirs.abs().max() < 1e-5
    assert "decode" not in sampler.__dict__


class Holder:
    """Has a model and is no sampler of theirs."""

    def __init__(self, model: Latent) -> None:
        self.model = model


def test_what_does_not_fit_is_refused() -> None:
    model = Latent()
    sampler, noise = ddim.DDIMSampler(model), ttune.latent_diffusion.noise(model)
    schedule = tuned(noise, "ddim", 4)
    with ttune.latent_diffusion.apply(sampler, schedule):
        with pytest.raises(ValueError, match="S must be 4, as in the schedule that is applied to this sampler, got 5"):
            sampled(sampler, 5)
        with pytest.raises(ValueError, match=r"eta must be 0\.0, as in the schedule that is applied to this sampler, got 0\.5"):
            sampled(sampler, 4, eta=0.5)
    with pytest.raises(ValueError, match="schedule must be for 'ddim', the solver of DDIMSampler, got 'pndm'"):
        ttune.latent_diffusion.apply(sampler, tuned(noise, "pndm", 4))
    with pytest.raises(ValueError, match="must do without gammas, which DDIMSampler does not have"):
        ttune.latent_diffusion.apply(sampler, tuned(noise, "ddim", 2, options={"gammas": (0.9, 0.9)}))
    with pytest.raises(ValueError, match="its noise schedule is not the host's"):
        ttune.latent_diffusion.apply(sampler, tuned(NoiseSchedule.linear(), "ddim", 4))
    with pytest.raises(TypeError, match="sampler must be a DDIMSampler or PLMSSampler of latent diffusion, got Holder"):
        ttune.latent_diffusion.apply(Holder(model), schedule)


CHANGED = {"temperature": 0.5, "noise_dropout": 0.1, "score_corrector": object(), "quantize_x0": True, "dynamic_threshold": 2.0}


@pytest.mark.parametrize("name", list(CHANGED))
@pytest.mark.parametrize("kind", ["DDIMSampler", "PLMSSampler"])
def test_settings_that_make_another_step_are_refused(kind: str, name: str) -> None:
    model = Latent()
    sampler = getattr(ddim if kind == "DDIMSampler" else plms, kind)(model)
    options = {"full_order_to_clean": True} if kind == "PLMSSampler" else {}
    schedule = tuned(ttune.latent_diffusion.noise(model), "ddim" if kind == "DDIMSampler" else "pndm", 4, options=options)
    with (
        ttune.latent_diffusion.apply(sampler, schedule),
        pytest.raises(ValueError, match=r"must be .*, as in the schedule that is applied to this sampler, got"),
    ):
        sampled(sampler, 4, **{name: CHANGED[name]})
    assert model.network.passed == []


def test_what_the_host_reads_otherwise_is_refused() -> None:
    for kind, parameterization in (("DDIMSampler", "x0"), ("PLMSSampler", "x0"), ("PLMSSampler", "v")):
        model = Latent(parameterization)
        sampler = getattr(ddim if kind == "DDIMSampler" else plms, kind)(model)
        options = {"full_order_to_clean": True} if kind == "PLMSSampler" else {}
        schedule = tuned(ttune.latent_diffusion.noise(model), "ddim" if kind == "DDIMSampler" else "pndm", 4, options=options)
        with pytest.raises(ValueError, match=f"'eps' for this {kind}, which takes every output for epsilon, got '{parameterization}'"):
            ttune.latent_diffusion.apply(sampler, schedule)
    model = Latent()
    with pytest.raises(ValueError, match="PLMSSampler keeps its order on the way to the clean image"):
        ttune.latent_diffusion.apply(plms.PLMSSampler(model), tuned(ttune.latent_diffusion.noise(model), "pndm", 4))


def test_the_settings_of_the_denoiser_are_those_of_the_schedule() -> None:
    model = Latent()
    sampler = ddim.DDIMSampler(model)
    denoiser = ttune.latent_diffusion.denoiser(model, guidance=ttune.ClassifierFree(3.0, {"cond": 0}))
    schedule = tuned(denoiser.noise, "ddim", 4).replace(model=denoiser.identity())
    with ttune.latent_diffusion.apply(sampler, schedule):
        with pytest.raises(ValueError, match=r"unconditional_guidance_scale must be 3\.0, .* got 2\.0"):
            sampled(sampler, 4)
        with pytest.raises(ValueError, match="unconditional_conditioning must be given"):
            sampler.sample(4, 3, (2, 6, 6), C, x_T=X_T, verbose=False, unconditional_guidance_scale=3.0)
        assert model.network.passed == []
        assert sampled(sampler, 4, scale=3.0).isfinite().all()
    for change in ({"clip_sample": 1.0}, {"prediction_type": "v_prediction"}, {"guidance_rescale": 0.7}):
        with pytest.raises(ValueError, match=rf"schedule was tuned with {next(iter(change))} .*, DDIMSampler has "):
            ttune.latent_diffusion.apply(sampler, schedule.replace(model={**schedule.model, **change}))
    with ttune.latent_diffusion.apply(sampler, schedule, check_model=False):
        assert sampled(sampler, 4, scale=2.0).isfinite().all()


def test_a_second_sampler_of_the_model_has_to_wait() -> None:
    model = Latent()
    first, second = ddim.DDIMSampler(model), ddim.DDIMSampler(model)
    schedule = tuned(ttune.latent_diffusion.noise(model), "ddim", 4)
    plain = sampled(second, 4)
    with ttune.latent_diffusion.apply(first, schedule):
        with pytest.raises(ValueError, match="applied to this Latent already; remove it first"):
            ttune.latent_diffusion.apply(second, schedule)
        assert "make_schedule" not in second.__dict__
    with ttune.latent_diffusion.apply(second, schedule):
        during = sampled(second, 4)
    assert not torch.equal(during, plain)
    assert torch.equal(sampled(second, 4), plain)
    assert not any(name.startswith("_ttune") for name in model.__dict__)


def test_what_others_put_over_it_is_not_thrown_away() -> None:
    model = Latent()
    sampler = ddim.DDIMSampler(model)
    applied = ttune.latent_diffusion.apply(sampler, tuned(ttune.latent_diffusion.noise(model), "ddim", 4))
    mine = model.apply_model
    model.apply_model = theirs = lambda *args: mine(*args)
    with pytest.raises(RuntimeError, match="apply_model of this Latent must be what ttune put there, got another"):
        applied.remove()
    assert model.apply_model is theirs
    model.apply_model = mine
    applied.remove()
    assert "apply_model" not in model.__dict__
    assert "make_schedule" not in sampler.__dict__


def test_a_copy_has_a_schedule_of_its_own() -> None:
    model = Latent()
    sampler = ddim.DDIMSampler(model)
    plain = sampled(sampler, 4)
    with ttune.latent_diffusion.apply(sampler, tuned(ttune.latent_diffusion.noise(model), "ddim", 4)):
        during, twin = sampled(sampler, 4), copy.deepcopy(sampler)
        for weight in model.parameters():
            weight.data.zero_()
        assert torch.equal(sampled(twin, 4), during)
    ttune.latent_diffusion.remove(twin)
    assert torch.equal(sampled(twin, 4), plain)
