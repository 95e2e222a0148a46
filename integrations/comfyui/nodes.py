"""The nodes: load a tuned schedule; its sigmas; ttune's own sampler for it; all in one; a model for it in ComfyUI's own samplers."""

from __future__ import annotations

import os
from typing import Any

import torch

try:
    from comfy_api.latest import ComfyExtension, io, ui
except ImportError as error:
    raise ImportError("ttune's nodes need ComfyUI 0.3.52 (August 2025) or newer: comfy_api.latest is not there; update ComfyUI") from error

import ttune

from . import files, scheduler
from .applied import patched
from .host import COMPARED, cfg_of, levels
from .sampler import ScheduleFunction
from .tuning import TIMES, TUNABLE, TUNE, tuned

CATEGORY = "sampling/ttune"
ScheduleType = io.Custom("TTUNE_SCHEDULE")


def schedule_input() -> Any:
    return ScheduleType.Input("schedule", tooltip="from 'ttune: load schedule' or 'ttune: tune'")


def schedule_output() -> Any:
    return ScheduleType.Output(display_name="schedule")


def file_inputs() -> list[Any]:
    return [
        io.Combo.Input("path", options=files.names(), tooltip="a ttune.json in ComfyUI's models/ttune; a new file appears on refresh (R)"),
        io.Int.Input("steps", default=0, min=0, max=1000, tooltip="which schedule of several in the file; 0: the only one"),
    ]


def loaded(path: str, steps: int) -> ttune.Schedule:
    return ttune.Schedule.load(files.path_of(path), steps=steps or None)


class OfFile(io.ComfyNode):
    """A node with the inputs of :func:`file_inputs`: read again when the file has changed, looked at when the prompt is queued."""

    @classmethod
    def fingerprint_inputs(cls, path: str, **others: Any) -> float:
        file = files.path_of(path)
        return os.path.getmtime(file) if os.path.exists(file) else 0.0

    @classmethod
    def validate_inputs(cls, path: str | None, steps: int | None = 0) -> bool | str:
        """An input that another node makes is None here."""
        if path is None or steps is None:
            return True
        try:
            loaded(path, steps)
        except (OSError, ValueError) as error:
            return str(error)
        return True


class LoadSchedule(OfFile):
    """A ttune.json."""

    @classmethod
    def define_schema(cls) -> Any:
        check = "refuse another prediction type or cfg than those that the schedule was tuned for"
        return io.Schema(
            node_id="TtuneLoadSchedule",
            display_name="ttune: load schedule",
            category=CATEGORY,
            description="Loads a schedule that ttune has tuned (ttune.json).",
            inputs=[*file_inputs(), io.Boolean.Input("check_model", default=True, optional=True, tooltip=check)],
            outputs=[schedule_output(), io.String.Output(display_name="summary", tooltip="what it is, and what tuning reached")],
        )

    @classmethod
    def execute(cls, path: str, steps: int = 0, check_model: bool = True) -> Any:
        schedule = loaded(path, steps)
        if not check_model:
            schedule = schedule.replace(model={name: value for name, value in schedule.model.items() if name not in COMPARED})
        return io.NodeOutput(schedule, str(schedule))


def sigmas_of(schedule: ttune.Schedule, denoise: float = 1.0) -> torch.Tensor:
    """float32 (n,): all of the schedule's, or the last steps for image to image, as many as SplitSigmasDenoise would leave."""
    sigmas = torch.tensor(levels(schedule.noise, schedule.times), dtype=torch.float32)
    return sigmas[-(round(schedule.steps * denoise) + 1) :]


class ScheduleSigmas(io.ComfyNode):
    """The steps of a schedule, for ``sigmas`` of SamplerCustom and SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="TtuneScheduleSigmas",
            display_name="ttune: sigmas of schedule",
            category=CATEGORY,
            description="The schedule's steps. SplitSigmas and SplitSigmasDenoise may follow.",
            inputs=[schedule_input()],
            outputs=[io.Sigmas.Output(display_name="SIGMAS", tooltip="for 'sigmas' of SamplerCustom or SamplerCustomAdvanced")],
        )

    @classmethod
    def execute(cls, schedule: ttune.Schedule) -> Any:
        return io.NodeOutput(sigmas_of(schedule))


class ScheduleSampler(io.ComfyNode):
    """ttune's own sampler, for ``sampler`` of SamplerCustom and SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="TtuneScheduleSampler",
            display_name="ttune: sampler of schedule",
            category=CATEGORY,
            description="Samples as ttune.sample does, with every sampler of ttune. The model needs no node of ttune.",
            inputs=[schedule_input()],
            outputs=[io.Sampler.Output(display_name="SAMPLER", tooltip="for 'sampler' of SamplerCustom or SamplerCustomAdvanced")],
        )

    @classmethod
    def execute(cls, schedule: ttune.Schedule) -> Any:
        from comfy.samplers import KSAMPLER

        return io.NodeOutput(KSAMPLER(ScheduleFunction(schedule)))


class Sample(OfFile):
    """KSampler with a schedule from a file: the three nodes above and SamplerCustom in one."""

    @classmethod
    def define_schema(cls) -> Any:
        cfg = "guidance scale; 0: the one that the schedule was tuned at"
        denoise = "below 1: image to image, by the last steps of the schedule"
        return io.Schema(
            node_id="TtuneSample",
            display_name="ttune: KSampler",
            category=CATEGORY,
            description="Samples with a tuned schedule from a file. Takes the place of KSampler; sampler, steps, cfg are the schedule's.",
            inputs=[
                io.Model.Input("model", tooltip="the model that the schedule was tuned for"),
                *file_inputs(),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True, tooltip="of the noise"),
                io.Float.Input("cfg", default=0.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=cfg),
                io.Conditioning.Input("positive", tooltip="what the image should show"),
                io.Conditioning.Input("negative", tooltip="what it should not show"),
                io.Latent.Input("latent_image", tooltip="an empty latent, or an image for image to image"),
                io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=denoise),
            ],
            outputs=[io.Latent.Output(display_name="LATENT", tooltip="the sample")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        path: str,
        steps: int,
        seed: int,
        cfg: float,
        positive: Any,
        negative: Any,
        latent_image: Any,
        denoise: float = 1.0,
    ) -> Any:
        import comfy.sample
        import comfy.utils
        import latent_preview

        schedule = loaded(path, steps)
        sampler, sigmas = ScheduleSampler.execute(schedule)[0], sigmas_of(schedule, denoise)
        latent = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"])
        made = comfy.sample.sample_custom(
            model,
            comfy.sample.prepare_noise(latent, seed, latent_image.get("batch_index")),
            cfg or cfg_of(schedule),
            sampler,
            sigmas,
            positive,
            negative,
            latent,
            noise_mask=latent_image.get("noise_mask"),
            callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
        return io.NodeOutput({**latent_image, "samples": made})


class ApplySchedule(io.ComfyNode):
    """A model for ComfyUI's own samplers (KSamplerSelect), whose network gets the times of a schedule."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="TtuneApplySchedule",
            display_name="ttune: schedule for ComfyUI's own samplers",
            category=CATEGORY,
            description=(
                "Only for ComfyUI's own euler, ddim, heun, dpm_2, dpmpp_2m and res_multistep. Not needed with 'ttune: sampler of schedule'."
            ),
            inputs=[io.Model.Input("model", tooltip="the model that the schedule was tuned for"), schedule_input()],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="for SamplerCustom, with the schedule's sigmas")],
        )

    @classmethod
    def execute(cls, model: Any, schedule: ttune.Schedule) -> Any:
        return io.NodeOutput(patched(model, schedule))


class Tune(io.ComfyNode):
    """``ttune.tune`` on ComfyUI's model."""

    @classmethod
    def define_schema(cls) -> Any:
        prompts = "what the images should show; several prompts, connected by Conditioning (Combine), take turns"
        what = "times alone: for ComfyUI's own scheduler lists; coefficients: only for ttune's samplers"
        samples = "starting noises to tune on; half as many more decide whether the result is better than untuned schedules"
        return io.Schema(
            node_id="TtuneTune",
            display_name="ttune: tune",
            category=CATEGORY,
            description=(
                "Finds the times at which few steps come closest to what many steps make of the same noise. The weights stay as they are. "
                "Takes minutes to hours, once for a model and a cfg; the result is saved to models/ttune."
            ),
            inputs=[
                io.Model.Input("model", tooltip="the model to tune a schedule for, with its LoRAs"),
                io.Conditioning.Input("positive", tooltip=prompts),
                io.Conditioning.Input("negative", tooltip="what they should not show"),
                io.Latent.Input("latent_image", tooltip="an empty latent: the size of the images, and as many in one call as its batch"),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="the guidance scale to tune at"),
                io.Combo.Input("sampler", options=TUNABLE, default="dpmpp_2m", tooltip="the sampler, by ttune's name"),
                io.Int.Input("steps", default=6, min=1, max=100, tooltip="steps of the schedule"),
                io.Combo.Input("tune", options=list(TUNE), default=TIMES, tooltip=what),
                io.Int.Input("samples", default=32, min=4, max=4096, tooltip=samples),
                io.Int.Input("teacher_steps", default=64, min=2, max=1000, tooltip="steps of the solution to come close to"),
                io.Int.Input("iterations", default=10, min=1, max=100, tooltip="at most so many rounds of improvement"),
                io.Int.Input("seed", default=0, min=0, max=2**62, tooltip="of the starting noises"),
                io.String.Input("name", default="tuned", tooltip="of the file in models/ttune; a number is added where it is taken"),
            ],
            outputs=[
                schedule_output(),
                io.String.Output(display_name="summary", tooltip="what tuning reached, and where it was saved"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, positive: Any, negative: Any, latent_image: Any, cfg: float, name: str, tune: str, **settings: Any) -> Any:
        path = files.new_path(name)
        result = tuned(model, positive, negative, latent_image["samples"], cfg, tune=TUNE[tune], **settings)
        result.schedule.save(path)
        text = f"{result.summary()}\nsaved as {path}"
        return io.NodeOutput(result.schedule, text, ui=ui.PreviewText(text))


NODES = [LoadSchedule, ScheduleSigmas, ScheduleSampler, Sample, Tune, ApplySchedule]


class Extension(ComfyExtension):
    async def get_node_list(self) -> list[Any]:
        return NODES


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI calls when it loads this folder."""
    files.register()
    scheduler.register()
    return Extension()
