"""Every scheduler class of diffusers with every setting of its constructor: ttune reads the host's own noise schedule, or refuses."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

import ttune
from tests.hosts import diffusers
from ttune.adapters.diffusers.scheduler_config import bounds_of, config_of

# What a setting is changed to; truth values are turned round, others of words and numbers keep their default.
CHANGES: dict[str, list[Any]] = {
    "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exp"],
    "beta_start": [3e-4],
    "beta_end": [0.01],
    "trained_betas": [np.linspace(1e-3, 2e-2, 1000)],
    "num_train_timesteps": [500],
    "snr_shift_scale": [1.0, 2.0],
    "shift": [3.0],
    "flow_shift": [3.0],
    "shift_terminal": [0.02],
    "time_shift_type": ["linear"],
    "timestep_spacing": ["trailing"],
    "timestep_type": ["continuous"],
    "interpolation_type": ["log_linear"],
    "final_sigmas_type": ["sigma_min"],
    "scale_factors": [[2, 4]],
    "sigma_min": [0.1],
    "sigma_max": [50.0],
}
ARGUMENTS = {
    "VQDiffusionScheduler": {"num_vec_classes": 4},
    "AmusedScheduler": {"mask_token_id": 3},
    # Their constructors lay out a grid of every time, in Python.
    "KDPM2DiscreteScheduler": {"num_train_timesteps": 100},
    "KDPM2AncestralDiscreteScheduler": {"num_train_timesteps": 100},
}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def scheduler_classes() -> list[str]:
    base = diffusers().SchedulerMixin
    found = (getattr(diffusers(), name, None) for name in dir(diffusers()) if name.endswith("Scheduler"))
    return sorted(one.__name__ for one in found if isinstance(one, type) and issubclass(one, base))


def settings_of(kind: type) -> list[dict[str, Any]]:
    parameters = inspect.signature(kind.__init__).parameters
    changes: list[dict[str, Any]] = [{}]
    for name, parameter in parameters.items():
        changes += [{name: not parameter.default}] if isinstance(parameter.default, bool) else []
        changes += [{name: value} for value in CHANGES.get(name, [])]
    shaped = ("karras", "exponential", "beta_sigmas", "lu_lambdas", "flow_shift", "dynamic", "terminal", "final_sigmas")
    if "use_flow_sigmas" in parameters:
        changes += [FLOW | one for one in changes if any(word in name for name in one for word in shaped)]
    return changes


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", scheduler_classes())
def test_the_noise_schedule_is_the_hosts_or_is_refused(name: str) -> None:
    kind = getattr(diffusers(), name)
    for change in settings_of(kind):
        try:
            made = kind(**ARGUMENTS.get(name, {}) | change)
        except (TypeError, ValueError, NotImplementedError, ImportError):
            continue  # the host itself refuses it, or needs another package
        noise, refusal = read(made)
        if noise is not None:
            assert_the_hosts(noise, made, change)
        else:
            assert refusal.startswith(("scheduler", "beta_schedule")), (change, refusal)


def read(made: Any) -> tuple[ttune.NoiseSchedule | None, str]:
    try:
        return ttune.diffusers.noise_of(made), ""
    except ValueError as error:
        return None, str(error)


def assert_the_hosts(noise: ttune.NoiseSchedule, made: Any, change: dict[str, Any]) -> None:
    if noise.discrete_steps is not None:
        theirs = made.alphas_cumprod.double().numpy()
        np.testing.assert_allclose(noise.alpha(np.arange(len(theirs))) ** 2, theirs, rtol=1e-3, atol=2e-6, err_msg=str(change))
    if noise.discrete_steps is None or made.config.get("use_flow_sigmas"):
        made.set_timesteps(6, **({"mu": 0.5} if made.config.get("use_dynamic_shifting") else {}))
        times = made.timesteps.double().numpy() / made.config.num_train_timesteps
        np.testing.assert_allclose(noise.sigma(times), made.sigmas.double().numpy()[: len(times)], atol=1.6e-3, err_msg=str(change))


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a grid of another model": (
        "DPMSolverMultistep",
        FLOW | {"use_karras_sigmas": True},
        r"its sigmas\[0\] is 157.*use_karras_sigmas=True",
    ),
    "another direction": ("FlowMatchEulerDiscrete", {"invert_sigmas": True}, "invert_sigmas=True runs time the other way"),
    "several sizes": ("FlowMatchLCM", {"scale_factors": [2, 4]}, r"scale_factors=\[2, 4\] makes states of several sizes"),
    "stages": ("Helios", {}, "scheduler must be one of a discrete or a flow matching model, got HeliosScheduler"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("what", REFUSED)
def test_a_setting_that_changes_the_model_is_refused_by_name(what: str) -> None:
    name, settings, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        ttune.diffusers.noise_of(getattr(diffusers(), f"{name}Scheduler")(**settings))


def test_a_setting_of_somebody_elses_class_is_refused_by_name() -> None:
    """A class that changes its alphas by a setting of its own, and one that has nothing to compare."""
    from diffusers.configuration_utils import register_to_config

    class Sharper(diffusers().DDIMScheduler):
        @register_to_config
        def __init__(self, num_train_timesteps: int = 1000, beta_schedule: str = "linear", sharpness: float = 1.0) -> None:
            super().__init__(num_train_timesteps, beta_schedule=beta_schedule)
            self.alphas_cumprod = self.alphas_cumprod**sharpness

    assert ttune.diffusers.noise_of(Sharper()) == ttune.NoiseSchedule.linear()
    with pytest.raises(ValueError, match=r"Sharper: its alphas_cumprod\[\d+\] is .* settings other than its defaults: sharpness=2"):
        ttune.diffusers.noise_of(Sharper(sharpness=2.0))
    sharper = Sharper(sharpness=2.0)
    del sharper.alphas_cumprod
    with pytest.raises(ValueError, match="Sharper: of its settings ttune does not know sharpness=2"):
        ttune.diffusers.noise_of(sharper)


def test_a_setting_that_the_class_does_not_read_is_named() -> None:
    """DDIM in the place of CogVideoX's DDIM: the configuration is kept, and the SNR is not shifted."""
    video = diffusers().CogVideoXDDIMScheduler(snr_shift_scale=3.0)
    plain = diffusers().DDIMScheduler.from_config(video.config)
    with pytest.raises(ValueError, match=r"DDIMScheduler: its alphas_cumprod.* it does not read snr_shift_scale=3.0 of its configuration"):
        ttune.diffusers.noise_of(plain)


def test_cogvideox_is_sampled_on_its_own_noise_schedule() -> None:
    settings = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "rescale_betas_zero_snr": True}
    made = diffusers().CogVideoXDDIMScheduler(**settings, snr_shift_scale=3.0, prediction_type="v_prediction", timestep_spacing="trailing")
    noise, start = ttune.diffusers.noise_of(made), torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert ttune.NoiseSchedule.from_dict(noise.to_dict()) == noise

    def network(x: torch.Tensor, t: Any) -> torch.Tensor:
        return torch.tanh(x * (1 + float(t) / 1000))

    theirs = start
    made.set_timesteps(5)
    for t in made.timesteps:
        theirs = made.step(network(theirs, t), t, theirs).prev_sample
    denoiser = ttune.Denoiser(lambda x, tau: network(x, tau[0]), noise, "v_prediction")
    ours = ttune.sample(denoiser, ttune.Schedule.build(noise, "ddim", 5, "trailing"), start)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["TCD", "CogVideoXDDIM", "CogVideoXDPM"])
def test_clipping_that_the_host_does_not_do_is_not_done(name: str) -> None:
    """They have clip_sample among their settings, and no step of theirs reads it."""
    assert bounds_of(config_of(getattr(diffusers(), f"{name}Scheduler")(clip_sample=True))) == {}
    assert bounds_of(config_of(diffusers().DDIMScheduler(clip_sample=True))) == {"clip_sample": 1.0}
