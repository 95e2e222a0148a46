"""Four nodes: load a tuned schedule; its sigmas; its sampler; a model whose network is told what the schedule says.

ComfyUI's discrete models turn sigma into the nearest whole time, so that SIGMAS alone cannot say what is tuned. Here the model's
``model_sampling.timestep`` answers with the schedule's time while an evaluation runs, and is itself again after it; which evaluation
it is, the wrapper around ``predict_noise`` knows, which runs once per evaluation however many conditionings and batches there are.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ttune
from ttune.adapters.told import Told

KEY = "ttune"
CATEGORY = "sampling/ttune"

# ttune's name -> ComfyUI's, of the deterministic samplers that are the same mathematics (both are held against k-diffusion's).
# DDIM with eta = 0 is Euler's step on sigma / alpha.
SAMPLERS = {"ddim": "euler", "euler": "euler", "heun": "heun", "kdpm_2": "dpm_2", "dpmpp_2m": "dpmpp_2m"}

# Relative, of the model's noise levels and the schedule's: tables of float32 differ by 1e-6, other betas by percents.
SAME_NOISE = 1e-3


class LoadSchedule:
    """A ttune.json."""

    RETURN_TYPES, RETURN_NAMES, FUNCTION, CATEGORY = ("TTUNE_SCHEDULE", "STRING"), ("schedule", "summary"), "load", CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "path": ("STRING", {"default": "ttune.json"}),
                "steps": (
                    "INT",
                    {"default": 0, "min": 0, "max": 1000, "tooltip": "which schedule of several in the file; 0: the only one"},
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, path: str, steps: int) -> tuple[float, int]:
        return (os.path.getmtime(path) if Path(path).exists() else 0.0, steps)

    def load(self, path: str, steps: int = 0) -> tuple[ttune.Schedule, str]:
        schedule = ttune.Schedule.load(path, steps=steps or None)
        return schedule, str(schedule)


class ScheduleSigmas:
    """The positions of a schedule, for SamplerCustom's ``sigmas``."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("SIGMAS",), "sigmas", CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"schedule": ("TTUNE_SCHEDULE",)}}

    def sigmas(self, schedule: ttune.Schedule) -> tuple[torch.Tensor]:
        # What is told goes with ApplySchedule.
        return (torch.tensor(ttune.exchange.sigmas(schedule, drop_told=True), dtype=torch.float32),)


class ScheduleSampler:
    """The sampler that a schedule was tuned for, for SamplerCustom's ``sampler``."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("SAMPLER",), "sampler", CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"schedule": ("TTUNE_SCHEDULE",)}}

    def sampler(self, schedule: ttune.Schedule) -> tuple[Any]:
        import comfy.samplers

        name = SAMPLERS.get(schedule.sampler)
        if name is None or schedule.eta:
            raise ValueError(
                f"schedule must be for one of {sorted(SAMPLERS)} with eta = 0 to have a sampler here, got {schedule.sampler!r}"
            )
        return (comfy.samplers.sampler_object(name),)


class ApplySchedule:
    """A model that is told what a schedule says. Other sigmas than the schedule's are an error."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "apply", CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "schedule": ("TTUNE_SCHEDULE",)}}

    def apply(self, model: Any, schedule: ttune.Schedule) -> tuple[Any]:
        from comfy.patcher_extension import WrappersMP

        original = model.get_model_object("model_sampling")
        telling = Telling(original, schedule)
        patched = model.clone()
        patched.add_object_patch("model_sampling", telling.model_sampling())
        patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, telling)
        return (patched,)


class Telling:
    """What the network hears while an evaluation runs."""

    def __init__(self, original: Any, schedule: ttune.Schedule) -> None:
        self.original, self.now, self.asked = original, None, False
        noise = schedule.noise
        if noise.discrete_steps is not None:
            _check_levels(original, schedule)
            heard = lambda t: t  # noqa: E731  # the index itself
        else:
            _check_continuous(original, schedule)
            heard = lambda t: original.timestep(torch.tensor(_level(schedule, t))).double().numpy()  # noqa: E731
        self.told = Told.of(schedule, lambda t: _level(schedule, t), heard, unit="sigma")

    def __call__(self, executor: Any, x: torch.Tensor, timestep: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Around one evaluation, of all conditionings."""
        self.now, self.asked = float(self.told(timestep).reshape(-1)[0]), False
        try:
            predicted = executor(x, timestep, *args, **kwargs)
        finally:
            self.now = None
        # Of the first evaluation only: later ones may come from a cache of another node's.
        if self.told.index == 0 and not self.asked:
            raise ValueError("another node replaced model_sampling after this one, so that the network was not told; put this one last")
        return predicted

    def timestep(self, sigma: Any) -> Any:
        if self.now is None:  # schedulers and previews ask too
            return self.original.timestep(sigma)
        self.asked = True
        return torch.full_like(torch.as_tensor(sigma), self.now, dtype=torch.float32)

    def model_sampling(self) -> Any:
        """A copy of the model's own, of the same class, that asks here for its times."""
        made = copy.copy(self.original)
        made.__dict__["timestep"] = self.timestep
        return made


def _level(schedule: ttune.Schedule, t: Any) -> Any:
    """sigma as ComfyUI has it: of flow models sigma itself, else sigma / alpha."""
    flow = schedule.noise.to_dict()["kind"] == "flow"
    return schedule.noise.sigma(t) if flow else schedule.noise.sigma(t) / schedule.noise.alpha(t)


def _check_levels(original: Any, schedule: ttune.Schedule) -> None:
    theirs = torch.as_tensor(original.sigmas).double().cpu().numpy()
    if len(theirs) != schedule.noise.discrete_steps:
        raise ValueError(
            f"schedule must be for a model of {len(theirs)} training steps, as this one is, got {schedule.noise.discrete_steps}"
        )
    finite = schedule.noise.alpha(np.arange(len(theirs))) > 0  # zero terminal SNR: ComfyUI puts a large number there
    mine = _level(schedule, np.arange(len(theirs))[finite])
    worst = int(np.argmax(np.abs(mine / theirs[finite] - 1)))
    if not abs(mine[worst] / theirs[finite][worst] - 1) < SAME_NOISE:
        raise ValueError(
            f"schedule must have the model's noise: sigma {worst} is {theirs[finite][worst]:.6g} there, {mine[worst]:.6g} here"
        )


def _check_continuous(original: Any, schedule: ttune.Schedule) -> None:
    flow = schedule.noise.to_dict()["kind"] == "flow"
    highest = float(original.sigma_max)
    if not original.timestep(torch.tensor([0.5])).is_floating_point() or flow != (highest <= 1 + 1e-6):
        raise ValueError(
            f"schedule is for {schedule.noise.to_dict()['kind']} times, which this model (largest sigma {highest:g}) does not have"
        )


NODE_CLASS_MAPPINGS = {
    "TtuneLoadSchedule": LoadSchedule,
    "TtuneScheduleSigmas": ScheduleSigmas,
    "TtuneScheduleSampler": ScheduleSampler,
    "TtuneApplySchedule": ApplySchedule,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "TtuneLoadSchedule": "ttune: load schedule",
    "TtuneScheduleSigmas": "ttune: sigmas of schedule",
    "TtuneScheduleSampler": "ttune: sampler of schedule",
    "TtuneApplySchedule": "ttune: tell model the schedule's times",
}
