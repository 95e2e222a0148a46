"""What is compared: the nodes on every model, and what they must refuse."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.samplers
import folder_paths
import numpy as np
import torch
from comfy.controlnet import ControlNet
from comfy.model_management import InterruptProcessingException
from comfy.sample import sample_custom
from comfy_extras import nodes_custom_sampler as host
from comfy_extras.nodes_flux import FluxGuidance
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete, ModelSamplingStableCascade
from torch import Tensor

import ttune
from ttune.adapters.preconditioned import Preconditioned
from ttune.noise.continuous import EDM

from .. import files
from ..sampler import seeds_of
from ..tuning import TIMES
from .models import CFG, FLOW, NODES, VP, TinyModel, edm, flux, normal, stable_diffusion, stable_diffusion_3, tuned, v_prediction

# What ComfyUI made and what ttune.sample made, or where a refusal is due the function that is to raise it.
Case = tuple[str, Callable[[], tuple[Tensor, Tensor]]] | tuple[str, Callable[[], Any], str]


def cases(checkpoint: Path) -> Iterator[Case]:
    sd = stable_diffusion(checkpoint)
    models = {
        "SD 1.5": sd,
        "v": v_prediction(sd, False),
        "SD3": stable_diffusion_3(),
        "Flux": flux(),
        "Schnell": flux(schnell=True),
        "EDM": edm(sd),
    }
    yield from every_sampler(models)
    yield from starts_and_parts(sd, models["SD3"])
    yield from settings(sd, v_prediction(sd, True))
    yield "ttune: tune, SD3, two prompts", tuning(models["SD3"])
    yield "SamplerCustomAdvanced, BasicGuider, Flux", advanced(models["Flux"])
    yield "interrupted, then again", interrupted(sd)
    yield "a ControlNet's times", control_net(sd)
    yield from host_samplers(models)
    yield from refusals(models)


def start_of(model: TinyModel, noise: Tensor) -> Tensor:
    return noise * model.noise.sigma_max if isinstance(model.noise, EDM) else noise


def every_sampler(models: dict[str, TinyModel]) -> Iterator[Case]:
    for sampler in ttune.SAMPLERS:
        for name in ("SD 1.5", "SD3"):
            yield f"{name}, {sampler}", whole(models[name], sampler)
    for name in ("v", "Flux", "Schnell", "EDM"):
        for sampler in ("euler", "dpmpp_2m", "unipc"):
            yield f"{name}, {sampler}", whole(models[name], sampler)
    for t_start in (820.0, 750.0):
        yield f"SD 1.5, dpmpp_2m, from t = {t_start:g}", whole(models["SD 1.5"], "dpmpp_2m", t_start=t_start)


def whole(model: TinyModel, sampler: str, steps: int = 4, **build: Any) -> Callable[[], tuple[Tensor, Tensor]]:
    def run() -> tuple[Tensor, Tensor]:
        schedule, noise = tuned(model.noise, sampler, steps, **build), normal(3, 2, *model.shape)
        seeds = seeds_of(5, 2) if schedule.tableau().stochastic else None
        return model.theirs(schedule, noise), model.ours(schedule, start_of(model, noise), seeds=seeds)

    return run


def starts_and_parts(sd: TinyModel, sd3: TinyModel) -> Iterator[Case]:

    for name, model in (("SD 1.5", sd), ("SD3", sd3)):
        schedule, noise, latent = tuned(model.noise, "dpmpp_2m", 4), normal(3, 1, *model.shape), normal(9, 1, *model.shape)
        sigmas = NODES["TtuneScheduleSigmas"].execute(schedule)[0]

        def image_to_image(
            model: TinyModel = model, schedule: Any = schedule, sigmas: Any = sigmas, noise: Any = noise, latent: Any = latent
        ) -> Any:
            part = schedule.part(2)
            state = float(part.alphas[0]) * latent + float(part.sigmas[0]) * noise
            low = host.SplitSigmasDenoise().get_sigmas(sigmas, 0.5)[1]
            return model.theirs(schedule, noise, sigmas=low, latent=latent), model.ours(part, state, from_state=True)

        def in_two(model: TinyModel = model, schedule: Any = schedule, sigmas: Any = sigmas, noise: Any = noise) -> Any:
            high, low = host.SplitSigmas().get_sigmas(sigmas, 2)
            half = model.theirs(schedule, noise, sigmas=high)
            theirs = model.theirs(schedule, torch.zeros_like(noise), sigmas=low, latent=half)
            return theirs, model.ours(schedule.part(2), model.ours(schedule.part(0, 2), noise), from_state=True)

        def all_of_it(model: TinyModel = model, schedule: Any = schedule, noise: Any = noise, latent: Any = latent) -> Any:
            state = float(schedule.alphas[0]) * latent + float(schedule.sigmas[0]) * noise
            return model.theirs(schedule, noise, latent=latent), model.ours(schedule, state, from_state=True)

        yield f"{name}, image to image, denoise .5", image_to_image
        yield f"{name}, image to image, all steps", all_of_it
        yield f"{name}, in two stages", in_two

    def masked() -> tuple[Tensor, Tensor]:
        noise, latent, mask = normal(3, 1, *sd.shape), normal(9, 1, *sd.shape), torch.ones(1, 1, 8, 8)
        mask[..., 4:] = 0
        schedule, base = tuned(VP, "dpmpp_2m", 4), sd.denoiser()

        def network(x: Tensor, tau: Tensor, *, position: float, c: Tensor) -> Tensor:
            noised = float(VP.alpha(position)) * latent + float(VP.sigma(position)) * noise
            return mask * base(mask * x + (1 - mask) * noised, position, tau, c=c) + (1 - mask) * latent

        protecting = ttune.Denoiser(Preconditioned([network]), VP, "sample")
        state = float(schedule.alphas[0]) * latent + float(schedule.sigmas[0]) * noise
        return sd.theirs(schedule, noise, latent=latent, noise_mask=mask), ttune.sample(
            protecting, schedule, state, conditions=sd.drawn(1), from_state=True
        )

    yield "SD 1.5, a mask", masked


def settings(sd: TinyModel, zero_snr: TinyModel) -> Iterator[Case]:
    noise = normal(3, 2, *sd.shape)
    yield "zero terminal SNR, ddim", whole(zero_snr, "ddim", spacing="trailing")
    yield "zero terminal SNR, dpmpp_2m", whole(zero_snr, "dpmpp_2m", spacing="trailing")
    yield "final='min'", whole(sd, "euler", final="min")
    yield "final='min', flow", whole(stable_diffusion_3(), "euler", final="min")

    def coefficients() -> tuple[Tensor, Tensor]:
        schedule = tuned(VP, "dpmpp_2m", 4)
        corrections = 0.02 * np.cos(np.arange(12.0)).reshape(4, 3)
        corrections[0, 2] = 0  # there is no prediction before the first
        schedule = schedule.replace(coefficients=corrections, network_times=schedule.network_times)
        return sd.theirs(schedule, noise), sd.ours(schedule, noise)

    def clipped() -> tuple[Tensor, Tensor]:
        schedule = tuned(VP, "ddim", 4).replace(model={"prediction_type": "epsilon", "guidance_scale": CFG, "clip_sample": 30.0})
        return sd.theirs(schedule, noise), sd.ours(schedule, noise, clip_sample=30.0)

    def scales() -> tuple[Tensor, Tensor]:
        each = [2.0, 3.0, 4.0, 1.5]
        schedule = tuned(VP, "dpmpp_2m", 4).replace(model={"guidance_scale": each})
        return sd.theirs(schedule, noise), sd.ours(schedule, noise, each)

    def without() -> tuple[Tensor, Tensor]:
        schedule = tuned(VP, "dpmpp_2m", 4).replace(model={"guidance_scale": None})
        return sd.theirs(schedule, noise, cfg=1.0), sd.ours(schedule, noise, None)

    yield from [("tuned coefficients", coefficients), ("clip_sample", clipped), ("a scale per evaluation", scales), ("cfg 1", without)]


def host_samplers(models: dict[str, TinyModel]) -> Iterator[Case]:
    fitting = {
        "SD 1.5": ("euler", "ddim", "heun", "kdpm_2", "dpmpp_2m", "res_2m"),
        "v": ("euler",),
        "SD3": ("euler", "heun"),
        "Flux": ("euler",),
        "EDM": ("heun",),
    }
    for name, samplers in fitting.items():
        model = models[name]
        for sampler in samplers:
            for start in (None, 0.8):

                def run(model: TinyModel = model, sampler: str = sampler, start: float | None = start) -> tuple[Tensor, Tensor]:
                    schedule = tuned(model.noise, sampler, 4, t_start=None if start is None else start * model.noise.t_max)
                    own = comfy.samplers.sampler_object({"kdpm_2": "dpm_2", "res_2m": "res_multistep"}.get(sampler, sampler))
                    patcher = NODES["TtuneApplySchedule"].execute(model.patcher, schedule)[0]
                    noise = normal(3, 2, *model.shape)
                    return model.theirs(schedule, noise, model=patcher, sampler=own), model.ours(schedule, start_of(model, noise))

                yield f"ComfyUI's {sampler}, {name}{'' if start is None else ', from .8 T'}", run


def advanced(model: TinyModel) -> Callable[[], tuple[Tensor, Tensor]]:
    """By the nodes themselves, with FluxGuidance, a schedule that remembers its guidance, and a noise of their own."""

    def call(node: Any, *given: Any) -> Any:
        made = getattr(node(), getattr(node, "FUNCTION", "execute"))(*given)
        return made[0] if isinstance(made, tuple) else made.args[0]  # nodes of ComfyUI's newer interface return an object

    def run() -> tuple[Tensor, Tensor]:
        schedule = tuned(FLOW, "dpmpp_2m", 4).replace(model={"guidance_scale": 3.5, "guidance": "input"})
        guider = call(host.BasicGuider, model.patcher, call(FluxGuidance, model.conditioning(1), 3.5))
        sampler, sigmas = NODES["TtuneScheduleSampler"].execute(schedule)[0], NODES["TtuneScheduleSigmas"].execute(schedule)[0]
        latent = {"samples": torch.zeros(2, *model.shape)}
        made = call(host.SamplerCustomAdvanced, call(host.RandomNoise, 21), guider, sampler, sigmas, latent)["samples"]
        noise = torch.randn(2, *model.shape, generator=torch.manual_seed(21))
        return model.patcher.model.process_latent_in(made), model.ours(schedule, noise, None)

    return run


def tuning(model: TinyModel) -> Callable[[], tuple[Tensor, Tensor]]:
    """The node, against ``ttune.tune`` of the same network: what the start and the result are from the teacher."""

    def run() -> tuple[Tensor, Tensor]:
        first, second, latent = model.drawn(1), model.drawn(3), torch.zeros(2, *model.shape)
        settings = {"samples": 4, "iterations": 1, "seed": 3}
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            folder_paths.folder_names_and_paths[files.FOLDER] = ([folder], {".json"})
            prompts, null = model.conditioning(1) + model.conditioning(3), model.conditioning(2)
            choice = {"cfg": CFG, "name": "check", "tune": TIMES, "sampler": "euler", "steps": 2, "teacher_steps": 6}
            found = NODES["TtuneTune"].execute(model.patcher, prompts, null, {"samples": latent}, **choice, **settings)[0]
            if ttune.Schedule.load(f"{folder}/check.json") != found:
                raise RuntimeError("the file is another schedule than the node's")
        start = ttune.Schedule.build(FLOW, "euler", 2, "linspace")
        ours = ttune.tune(
            model.denoiser(),
            start,
            sample_shape=model.shape,
            conditions=lambda seeds: {name: torch.cat([first[name], second[name]])[seeds % 2] for name in first},
            teacher=ttune.tuning.Teacher.default(start, 6),
            optimizer="differences",
            validation_samples=4,
            batch_size=2,
            progress=False,
            **settings,
        )
        figures = ("rmse_start", "rmse")
        theirs = found.tuned["validation"] if found.tuned else {}
        return torch.tensor([theirs[name] for name in figures]), torch.tensor([ours.validation[name] for name in figures])

    return run


def interrupted(model: TinyModel) -> Callable[[], tuple[Tensor, Tensor]]:
    def interrupt(step: int, *_: Any) -> None:
        if step == 1:
            raise InterruptProcessingException

    def run() -> tuple[Tensor, Tensor]:
        schedule, noise = tuned(VP, "dpmpp_2m", 4), normal(3, 1, *model.shape)
        try:
            model.theirs(schedule, noise, callback=interrupt)
        except InterruptProcessingException:
            return model.theirs(schedule, noise), model.ours(schedule, noise)
        raise RuntimeError("the interruption was lost")

    return run


def control_net(sd: TinyModel) -> Callable[[], tuple[Tensor, Tensor]]:

    class Recording(torch.nn.Module):
        dtype = torch.float32

        def __init__(self) -> None:
            super().__init__()
            self.passed: list[Tensor] = []

        def forward(self, x: Tensor, hint: Tensor, timesteps: Tensor, context: Tensor, **_: Any) -> dict[str, list[Tensor]]:
            self.passed.append(timesteps)
            return {"output": []}

    def run() -> tuple[Tensor, Tensor]:

        schedule, noise, network = tuned(VP, "heun", 4), normal(3, 1, *sd.shape), Recording()
        control = ControlNet(network, load_device=torch.device("cpu")).set_cond_hint(normal(1, 1, 3, 64, 64))
        conditioning = [[sd.drawn(1)["c"], {"control": control, "control_apply_to_uncond": True}]]
        sampler, sigmas = NODES["TtuneScheduleSampler"].execute(schedule)[0], NODES["TtuneScheduleSigmas"].execute(schedule)[0]
        latent = torch.zeros_like(noise)
        sample_custom(sd.patcher, noise, 1.0, sampler, sigmas, conditioning, conditioning, latent, disable_pbar=True, seed=5)
        return torch.cat(network.passed), torch.tensor(schedule.network_times, dtype=torch.float32)

    return run


def refusals(models: dict[str, TinyModel]) -> Iterator[Case]:

    sd, apply = models["SD 1.5"], lambda *given: NODES["TtuneApplySchedule"].execute(*given)[0]
    schedule, noise, edm_schedule = tuned(VP, "euler", 4), normal(3, 1, *sd.shape), tuned(EDM(), "euler", 4, "karras")
    remembering = lambda **model: schedule.replace(model=model)  # noqa: E731
    patched = lambda node, *given: TinyModel(node().patch(sd.patcher, *given)[0], VP, None, sd.shape)  # noqa: E731
    for kind, given in ({"sampling": "lcm"}, "a model of 50"), ({"sampling": "img_to_img"}, "does not have"):
        yield (
            f"refused: ModelSamplingDiscrete, {kind['sampling']}",
            lambda k=kind: patched(ModelSamplingDiscrete, k["sampling"], False).theirs(schedule, noise),
            given,
        )
    narrow = patched(ModelSamplingContinuousEDM, "v_prediction", 14.0, 0.002)
    yield "refused: sigmas beyond an EDM model's", lambda: narrow.theirs(edm_schedule, noise), "in the model's range"
    cosmos = patched(ModelSamplingContinuousEDM, "cosmos_rflow", 80.0, 0.002)
    yield "refused: cosmos_rflow", lambda: cosmos.theirs(edm_schedule, noise), "does not have"
    cascade = patched(ModelSamplingStableCascade, 2.0)
    yield "refused: StableCascade", lambda: cascade.theirs(edm_schedule, noise), "does not have"
    yield "refused: another prediction type", lambda: sd.theirs(remembering(prediction_type="v_prediction"), noise), "predicts 'epsilon'"
    yield "refused: another cfg", lambda: sd.theirs(remembering(guidance_scale=7.5), noise), "cfg must be 7.5"
    yield "refused: a linear noise schedule", lambda: sd.theirs(tuned(ttune.NoiseSchedule.linear(), "euler", 4), noise), "model's noise"
    sigmas = comfy.samplers.calculate_sigmas(sd.patcher.get_model_object("model_sampling"), "karras", 4)
    yield "refused: sigmas of a scheduler", lambda: sd.theirs(schedule, noise, sigmas=sigmas), "connect 'ttune: sigmas of schedule'"
    own = apply(sd.patcher, schedule)
    for name in ("dpmpp_2m", "uni_pc", "euler_ancestral", "lcm", "dpm_fast"):
        sampler = comfy.samplers.sampler_object(name)
        yield f"refused: {name} for euler", lambda s=sampler: sd.theirs(schedule, noise, model=own, sampler=s), "sampler must be euler"
    sd3 = models["SD3"]
    for ours, name in (("dpmpp_2m", "dpmpp_2m"), ("kdpm_2", "dpm_2"), ("res_2m", "res_multistep")):
        flow, sampler = tuned(FLOW, ours, 4), comfy.samplers.sampler_object(name)
        yield (
            f"refused: ComfyUI's {name} on SD3",
            lambda f=flow, s=sampler: sd3.theirs(f, normal(3, 1, 16, 8, 8), model=apply(sd3.patcher, f), sampler=s),
            "is another solver",
        )
    clipped, euler = remembering(clip_sample=1.0), comfy.samplers.sampler_object("euler")
    yield (
        "refused: clip_sample in ComfyUI's samplers",
        lambda: sd.theirs(clipped, noise, model=apply(sd.patcher, clipped), sampler=euler),
        "without clip_sample",
    )
    yield "refused: a second schedule", lambda: apply(own, schedule), "must have one schedule"
