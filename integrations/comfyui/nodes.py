"""The nodes: load a tuned schedule; its sigmas; ttune's own sampler for it; a model for it in ComfyUI's own samplers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

import ttune

from .applied import NodePatch
from .host import COMPARED, check_model, levels
from .sampler import ScheduleFunction

KEY = "ttune"
CATEGORY = "sampling/ttune"
NEEDS = "ttune's nodes need ComfyUI 0.3.52 (August 2025) or newer: {} is not there; update ComfyUI"


class LoadSchedule:
    """A ttune.json."""

    RETURN_TYPES, RETURN_NAMES, FUNCTION, CATEGORY = ("TTUNE_SCHEDULE", "STRING"), ("schedule", "summary"), "load", CATEGORY
    DESCRIPTION = "Loads a schedule that ttune has tuned (ttune.json)."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        several = "which schedule of several in the file; 0: the only one"
        check = "refuse another prediction type or cfg than those that the schedule was tuned for"
        return {
            "required": {
                "path": ("STRING", {"default": "ttune.json", "tooltip": "the file, best with its full path"}),
                "steps": ("INT", {"default": 0, "min": 0, "max": 1000, "tooltip": several}),
            },
            "optional": {"check_model": ("BOOLEAN", {"default": True, "tooltip": check})},
        }

    @classmethod
    def IS_CHANGED(cls, path: str, steps: int, check_model: bool = True) -> tuple[float, int, bool]:
        return (os.path.getmtime(path) if Path(path).exists() else 0.0, steps, check_model)

    @classmethod
    def VALIDATE_INPUTS(cls, path: str | None, steps: int | None = 0) -> bool | str:
        """Called when the prompt is queued; an input that another node makes is None then."""
        if path is None or steps is None:
            return True
        try:
            ttune.Schedule.load(path, steps=steps or None)
        except (OSError, ValueError) as error:
            return str(error)
        return True

    def load(self, path: str, steps: int = 0, check_model: bool = True) -> tuple[ttune.Schedule, str]:
        schedule = ttune.Schedule.load(path, steps=steps or None)
        if not check_model:
            schedule = schedule.replace(model={name: value for name, value in schedule.model.items() if name not in COMPARED})
        return schedule, str(schedule)


class ScheduleSigmas:
    """The steps of a schedule, for ``sigmas`` of SamplerCustom and SamplerCustomAdvanced."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("SIGMAS",), "sigmas", CATEGORY
    DESCRIPTION = "The schedule's steps. SplitSigmas and SplitSigmasDenoise may follow."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"schedule": ("TTUNE_SCHEDULE",)}}

    def sigmas(self, schedule: ttune.Schedule) -> tuple[torch.Tensor]:
        return (torch.tensor(levels(schedule.noise, schedule.times), dtype=torch.float32),)


class ScheduleSampler:
    """ttune's own sampler, for ``sampler`` of SamplerCustom and SamplerCustomAdvanced."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("SAMPLER",), "sampler", CATEGORY
    DESCRIPTION = "Samples as ttune.sample does, with every sampler of ttune. The model needs no node of ttune."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"schedule": ("TTUNE_SCHEDULE",)}}

    def sampler(self, schedule: ttune.Schedule) -> tuple[Any]:
        from comfy.samplers import KSAMPLER

        return (KSAMPLER(ScheduleFunction(schedule)),)


class ApplySchedule:
    """A model for ComfyUI's own samplers (KSamplerSelect), whose network gets the times of a schedule."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "apply", CATEGORY
    DESCRIPTION = (
        "Only for ComfyUI's own euler, ddim, heun, dpm_2, dpmpp_2m and res_multistep. Not needed with 'ttune: sampler of schedule'."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "schedule": ("TTUNE_SCHEDULE",)}}

    def apply(self, model: Any, schedule: ttune.Schedule) -> tuple[Any]:
        from comfy.patcher_extension import WrappersMP

        kind = getattr(WrappersMP, "SAMPLER_SAMPLE", None)
        if kind is None:
            raise RuntimeError(NEEDS.format("WrappersMP.SAMPLER_SAMPLE"))
        if model.get_wrappers(kind, KEY):
            raise ValueError("model must have one schedule, got one that has a schedule already; connect the model from before that node")
        applied = NodePatch(schedule)
        check_model(model.get_model_object("model_sampling"), schedule)
        patched = model.clone()
        patched.add_wrapper_with_key(kind, KEY, applied)
        return (patched,)


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
    "TtuneApplySchedule": "ttune: schedule for ComfyUI's own samplers",
}
