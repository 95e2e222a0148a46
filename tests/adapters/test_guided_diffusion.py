"""guided-diffusion's own samplers (the package guided-diffusion-sdk, OpenAI's code), with a tuned schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ttune
from tests.adapters.small import Small, noise_like, tuned
from ttune import NoiseSchedule

gaussian = pytest.importorskip("guided_diffusion.gaussian_diffusion", reason="guided-diffusion-sdk is not installed (--no-deps)")
respace = pytest.importorskip("guided_diffusion.respace")

X_T = noise_like(3, 2, 6, 6)
LABELS = {"y": torch.tensor([1, 2, 3])}


def diffusion(steps: int = 1000, keep: Any = None, rescale: bool = False, mean: str = "EPSILON", var: str = "FIXED_SMALL") -> Any:
    return respace.SpacedDiffusion(
        use_timesteps=range(steps) if keep is None else keep,
        betas=np.linspace(0.1 / steps, 20 / steps, steps),
        model_mean_type=gaussian.ModelMeanType[mean],
        model_var_type=gaussian.ModelVarType[var],
        loss_type=gaussian.LossType.MSE,
        rescale_timesteps=rescale,
    )


def close(mine: Tensor, theirs: Tensor) -> None:
    # Its tables are float32 on their way to the tensors.
    assert (mine - theirs).abs().max() / theirs.abs().max() < 1e-5


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("steps", "rescale"), [(1000, False), (1000, True), (400, True)])
@pytest.mark.parametrize("mean", ["EPSILON", "START_X"])
def test_ddim_gives_the_samples_of_our_loop(mean: str, steps: int, rescale: bool, clip: bool) -> None:
    model, whole = Small(scale=1000), diffusion(steps, rescale=rescale, mean=mean)
    denoiser = ttune.guided_diffusion.denoiser(model, whole, clip_denoised=clip)
    schedule = tuned(denoiser.noise, "ddim", 4, "log_snr", t_start=0.9 * steps)
    assert (schedule.times[1:3] % 1 != 0).all()
    mine = ttune.sample(denoiser, schedule, X_T, conditions=LABELS)
    before = whole.ddim_sample_loop(model, X_T.shape, noise=X_T, model_kwargs=LABELS) if steps == 400 else None
    spaced = ttune.guided_diffusion.apply(model, whole, schedule)
    assert type(spaced) is gaussian.GaussianDiffusion
    model.passed.clear()
    theirs = spaced.ddim_sample_loop(model, X_T.shape, noise=X_T, clip_denoised=clip, model_kwargs=LABELS)
    np.testing.assert_allclose(model.passed, schedule.network_times * (1000 / steps if rescale else 1), rtol=1e-6)
    close(mine, theirs)
    with pytest.raises(ValueError, match="the model's time must be"):
        whole.ddim_sample_loop(model, X_T.shape, noise=X_T, model_kwargs=LABELS)
    ttune.guided_diffusion.remove(model)
    assert not model._forward_pre_hooks
    if before is not None:
        assert torch.equal(whole.ddim_sample_loop(model, X_T.shape, noise=X_T, model_kwargs=LABELS), before)


@pytest.mark.parametrize(
    ("var", "variance"), [("FIXED_SMALL", "fixed_small"), ("FIXED_LARGE", "fixed_large"), ("LEARNED_RANGE", "learned_range")]
)
def test_ddpm_has_the_variance_of_our_loop(var: str, variance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, whole = Small(out=4 if var == "LEARNED_RANGE" else 2, scale=1000), diffusion(var=var)
    denoiser = ttune.guided_diffusion.denoiser(model, whole)
    schedule = tuned(denoiser.noise, "ddpm", 4, options={"variance": variance})
    seeds = torch.arange(3)
    mine = ttune.sample(denoiser, schedule, X_T, seeds=seeds)
    draws = iter(range(5))
    draw = lambda x: ttune.ops.philox_normal(x.shape[1:], seeds, draw=next(draws), dtype=x.dtype)  # noqa: E731
    monkeypatch.setattr(gaussian.th, "randn_like", draw)
    spaced = ttune.guided_diffusion.apply(model, whole, schedule)
    close(mine, spaced.p_sample_loop(model, X_T.shape, noise=X_T))


def test_a_classifier_is_given_the_position() -> None:
    model, whole, seen = Small(scale=1000), diffusion(), []
    schedule = tuned(ttune.guided_diffusion.noise(whole), "ddim", 3)
    spaced = ttune.guided_diffusion.apply(model, whole, schedule)

    def gradient(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return torch.zeros_like(x)

    spaced.ddim_sample_loop(model, X_T.shape, noise=X_T, cond_fn=gradient, model_kwargs={})
    np.testing.assert_allclose(seen, schedule.times[:-1], rtol=1e-6)


TARGET = 0.5


def pull(x: Tensor, t: Tensor, **_: Any) -> Tensor:
    """The gradient of :func:`log_prob`."""
    return -2.0 * (x - TARGET)


def log_prob(x: Tensor, t: Tensor, **_: Any) -> Tensor:
    return -(x - TARGET).square().flatten(1).sum(1)


@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("mean", ["EPSILON", "START_X"])
def test_a_cond_fn_guides_as_our_classifier(mean: str, clip: bool, remembers: bool) -> None:
    model, whole = Small(scale=1000), diffusion(mean=mean)
    denoiser = ttune.guided_diffusion.denoiser(model, whole, clip_denoised=clip, guidance=ttune.Classifier(log_prob))
    schedule = tuned(denoiser.noise, "ddim", 5, t_start=950.0)
    if remembers:
        schedule = schedule.replace(model=denoiser.identity())
    spaced = ttune.guided_diffusion.apply(model, whole, schedule)
    theirs = sampled(spaced, model, "ddim_sample_loop", cond_fn=pull, clip_denoised=clip)
    close(ttune.sample(denoiser, schedule, X_T, conditions=LABELS), theirs)  # while the schedule is applied
    if remembers:
        with pytest.raises(ValueError, match=r"cond_fn must be given, .* was tuned with a ttune\.Classifier"):
            sampled(spaced, model, "ddim_sample_loop", clip_denoised=clip)


def test_guidance_that_no_schedule_was_tuned_with_is_refused() -> None:
    model, whole = Small(scale=1000), diffusion()
    plain = ttune.guided_diffusion.denoiser(model, whole)
    for sampler, loop, more, match in (
        ("ddpm", "p_sample_loop", {"cond_fn": pull}, r"cond_fn must be None in p_sample_loop, which adds variance \* gradient"),
        ("ddim", "ddim_sample_loop", {"cond_fn": pull, "cond_fn_with_grad": True}, "cond_fn_with_grad must be False"),
        ("ddim", "ddim_sample_loop", {"denoised_fn": lambda x: x / 2}, "denoised_fn must be None"),
        ("ddpm", "p_sample_loop", {"denoised_fn": lambda x: x / 2}, "denoised_fn must be None"),
    ):
        spaced = ttune.guided_diffusion.apply(model, whole, tuned(plain.noise, sampler, 3))
        model.passed.clear()
        with pytest.raises(ValueError, match=match):
            sampled(spaced, model, loop, **more)
        assert model.passed == []
        ttune.guided_diffusion.remove(model)
    schedule = tuned(plain.noise, "ddim", 3).replace(model=plain.identity())
    spaced = ttune.guided_diffusion.apply(model, whole, schedule)
    with pytest.raises(ValueError, match=r"cond_fn must be None, .* tuned without a ttune\.Classifier"):
        sampled(spaced, model, "ddim_sample_loop", cond_fn=pull)
    ttune.guided_diffusion.remove(model)
    with pytest.raises(ValueError, match="schedule was tuned with prediction_type 'epsilon', this diffusion has 'sample'"):
        ttune.guided_diffusion.apply(model, diffusion(mean="START_X"), schedule)
    with pytest.raises(ValueError, match="schedule was tuned with clip_epsilon 'keep', guided-diffusion has 'recompute'"):
        ttune.guided_diffusion.apply(model, whole, schedule.replace(model={"clip_sample": 1.0, "clip_epsilon": "keep"}))
    with pytest.raises(ValueError, match="got PREVIOUS_X"):
        ttune.guided_diffusion.apply(model, diffusion(mean="PREVIOUS_X"), tuned(plain.noise, "ddim", 3))


def test_the_message_names_the_schedule_that_is_applied() -> None:
    model, whole = Small(scale=1000), diffusion()
    ttune.guided_diffusion.apply(model, whole, tuned(ttune.guided_diffusion.noise(whole), "ddim", 4))
    match = r"a schedule for 'ddim' is applied to this Small: .* take it out by ttune\.guided_diffusion\.remove\(model\)"
    with pytest.raises(ValueError, match=match):
        whole.ddim_sample_loop(model, X_T.shape, noise=X_T, model_kwargs=LABELS)


def test_what_does_not_fit_is_refused() -> None:
    model, whole = Small(scale=1000), diffusion()
    noise = ttune.guided_diffusion.noise(whole)
    with pytest.raises(ValueError, match=r"must have all 1000 steps of the training, got 10 of them"):
        ttune.guided_diffusion.denoiser(model, diffusion(keep=range(0, 1000, 100)))
    with pytest.raises(ValueError, match="its noise schedule is not the host's"):
        ttune.guided_diffusion.apply(model, whole, tuned(NoiseSchedule.cosine(), "ddim", 3))
    with pytest.raises(ValueError, match=r"one of \['ddim', 'ddpm'\], the samplers of guided-diffusion, got 'heun'"):
        ttune.guided_diffusion.apply(model, whole, tuned(noise, "heun", 3))
    with pytest.raises(ValueError, match="schedule must end clean"):
        ttune.guided_diffusion.apply(model, whole, tuned(noise, "ddim", 3, final="min"))
    with pytest.raises(ValueError, match=r"model_mean_type must be one of .* got PREVIOUS_X"):
        ttune.guided_diffusion.denoiser(model, diffusion(mean="PREVIOUS_X"))
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got function"):
        ttune.guided_diffusion.apply(lambda x, t: x, whole, tuned(noise, "ddim", 3))


def sampled(spaced: Any, model: nn.Module, loop: str, **kwargs: Any) -> Tensor:
    return getattr(spaced, loop)(model, X_T.shape, noise=X_T, model_kwargs=LABELS, **kwargs)


def test_eta_and_clipping_are_those_of_the_schedule() -> None:
    model, whole = Small(scale=1000), diffusion()
    denoiser = ttune.guided_diffusion.denoiser(model, whole)
    schedule = tuned(denoiser.noise, "ddim", 3, eta=0.7).replace(model=denoiser.identity())
    spaced = ttune.guided_diffusion.apply(model, whole, schedule)
    with pytest.raises(ValueError, match=r"eta must be 0\.7, as in the schedule that is applied to this model, got 0\.0"):
        sampled(spaced, model, "ddim_sample_loop")
    with pytest.raises(ValueError, match="clip_denoised must be True, as in the schedule that is applied to this model, got False"):
        sampled(spaced, model, "ddim_sample_loop", eta=0.7, clip_denoised=False)
    assert sampled(spaced, model, "ddim_sample_loop", eta=0.7).isfinite().all()
    ttune.guided_diffusion.remove(model)
    loose = ttune.guided_diffusion.denoiser(model, whole, clip_denoised=False)
    spaced = ttune.guided_diffusion.apply(model, whole, schedule.replace(model=loose.identity()))
    with pytest.raises(ValueError, match=r"clip_denoised must be False, .* got True"):
        sampled(spaced, model, "ddim_sample_loop", eta=0.7)
    ttune.guided_diffusion.remove(model)
    with pytest.raises(ValueError, match=r"tuned with clip_sample 1 or None, which guided-diffusion has, got 2\.0"):
        ttune.guided_diffusion.apply(model, whole, schedule.replace(model={"clip_sample": 2.0}))
    assert not model._forward_pre_hooks


@pytest.mark.parametrize(
    ("name", "mine", "others"),
    [
        ("ddim", "ddim_sample_loop", ("p_sample_loop", "plms_sample_loop")),
        ("ddpm", "p_sample_loop", ("ddim_sample_loop", "plms_sample_loop")),
    ],
)
def test_the_loop_is_that_of_the_schedule(name: str, mine: str, others: tuple[str, ...]) -> None:
    model, whole = Small(scale=1000), diffusion()
    spaced = ttune.guided_diffusion.apply(model, whole, tuned(ttune.guided_diffusion.noise(whole), name, 3))
    for loop in others:
        with pytest.raises(ValueError, match=f"{mine} must be the sampler, of the schedule for '{name}'"):
            sampled(spaced, model, loop)
    assert sampled(spaced, model, mine).isfinite().all()


def test_the_variance_is_that_of_the_diffusion() -> None:
    model, noise = Small(scale=1000), ttune.guided_diffusion.noise(diffusion())
    with pytest.raises(ValueError, match="its variance must be 'fixed_large', for the diffusion's FIXED_LARGE, got 'fixed_small'"):
        ttune.guided_diffusion.apply(model, diffusion(var="FIXED_LARGE"), tuned(noise, "ddpm", 3))
    with pytest.raises(ValueError, match="must do without gammas, which guided-diffusion does not have"):
        ttune.guided_diffusion.apply(model, diffusion(), tuned(noise, "ddim", 3, options={"gammas": (0.9, 0.9, 0.9)}))
    for steps, name in ((1, "ddim"), (1, "ddpm")):
        with pytest.raises(ValueError, match=r"schedule must have at least 2 steps, .* got 1"):
            ttune.guided_diffusion.apply(model, diffusion(), tuned(noise, name, steps))
    assert not model._forward_pre_hooks


class Named(nn.Module):
    """A model that is called by name, as improved-diffusion's own scripts may."""

    def __init__(self) -> None:
        super().__init__()
        self.small = Small(scale=1000)

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        return self.small(x, timesteps, y)


def test_a_time_that_is_passed_by_name() -> None:
    model, whole = Named(), diffusion()
    schedule = tuned(ttune.guided_diffusion.noise(whole), "ddim", 3)
    ttune.guided_diffusion.apply(model, whole, schedule)
    model(X_T, timesteps=torch.full((3,), float(schedule.times[0])))
    assert model.small.passed == pytest.approx([schedule.network_times[0]])
