"""Runs the nodes in a real ComfyUI and compares what they sample with ``ttune.sample``.

    python integrations/comfyui/check.py FOLDER [--checkpoint FILE] [--only WORDS] [--no-server]

FOLDER is a ComfyUI (main.py is there), run by a Python that has its requirements and ttune. Tiny networks of ComfyUI's own classes with
random weights are made on the spot; ``--checkpoint`` takes an SD 1.5 checkpoint instead of the first of them. Everything runs on the CPU.
The last case goes through a server of its own and POST /prompt. The exit status is 1 where a case fails.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ttune
from ttune.adapters.positioned import Positioned
from ttune.noise import EDM

HERE = Path(__file__).resolve().parent
CLOSE = 1e-5  # relative, of the largest element: the arithmetic of both sides is float32
CFG = 3.0
VP, FLOW = ttune.NoiseSchedule.scaled_linear(), ttune.NoiseSchedule.flow(3.0)


@dataclass
class Model:
    """One of ComfyUI's models, and the same network for ttune."""

    patcher: Any
    noise: ttune.NoiseSchedule
    network: Any  # network(x, tau, **conditions), or with position= where ``positioned``
    shape: tuple[int, ...]
    prediction_type: str = "epsilon"
    conditions: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"c": (77, 768)})
    positioned: bool = False

    def drawn(self, seed: int, rows: int = 1) -> dict[str, Tensor]:
        return {name: normal(seed, rows, *shape) for name, shape in self.conditions.items()}

    def conditioning(self, seed: int) -> list[Any]:
        values = self.drawn(seed)
        return [[values["c"], {"pooled_output": values["y"]} if "y" in values else {}]]

    def denoiser(self, scale: float | list[float] | None = CFG, **settings: Any) -> ttune.Denoiser:
        null = {name: value for name, value in self.drawn(2).items()}
        guidance = None if scale is None else ttune.ClassifierFree(scale, null)
        network = Positioned([self.network]) if self.positioned else self.network
        return ttune.Denoiser(network, self.noise, self.prediction_type, guidance=guidance, **settings)

    def ours(self, schedule: ttune.Schedule, x: Tensor, scale: float | list[float] | None = CFG, **options: Any) -> Tensor:
        settings = {name: options.pop(name) for name in ("clip_sample", "clip_epsilon") if name in options}
        conditions = {name: value.expand(len(x), *value.shape[1:]).contiguous() for name, value in self.drawn(1).items()}
        return ttune.sample(self.denoiser(scale, **settings), schedule.replace(model={}), x, conditions=conditions, **options)

    def theirs(
        self,
        schedule: ttune.Schedule,
        noise: Tensor,
        *,
        model: Any = None,
        sampler: Any = None,
        sigmas: Tensor | None = None,
        latent: Tensor | None = None,
        cfg: float = CFG,
        seed: int = 5,
        **options: Any,
    ) -> Tensor:
        """Through the nodes and ComfyUI's ``sample_custom``, as SamplerCustom calls it; in the units that its network sees."""
        import comfy.sample

        nodes = node_classes()
        sampler = nodes["TtuneScheduleSampler"]().sampler(schedule)[0] if sampler is None else sampler
        sigmas = nodes["TtuneScheduleSigmas"]().sigmas(schedule)[0] if sigmas is None else sigmas
        latent = torch.zeros_like(noise) if latent is None else self.patcher.model.process_latent_out(latent)
        patcher = self.patcher if model is None else model
        made = comfy.sample.sample_custom(
            patcher,
            noise,
            cfg,
            sampler,
            sigmas,
            self.conditioning(1),
            self.conditioning(2),
            latent,
            disable_pbar=True,
            seed=seed,
            **options,
        )
        return self.patcher.model.process_latent_in(made)


def node_classes() -> dict[str, Any]:
    sys.path[:0] = [str(HERE.parent)]
    try:
        import comfyui
    finally:
        del sys.path[0]
    return comfyui.NODE_CLASS_MAPPINGS


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tuned(noise: ttune.NoiseSchedule, sampler: str, steps: int, spacing: str = "linspace", **build: Any) -> ttune.Schedule:
    """As tuning leaves a schedule: the network gets fractional times beside the positions."""
    schedule = ttune.Schedule.build(noise, sampler, steps, spacing, **build)
    moved = schedule.conditioning * 0.97 + 0.01 * (noise.t_max - noise.t_min) * np.linspace(1, 0, len(schedule.conditioning))
    return schedule.replace(conditioning=np.clip(moved, noise.t_min, noise.t_max))


# ---- models ------------------------------------------------------------------------------------------------


def write_checkpoint(path: Path) -> None:
    """ComfyUI's UNetModel with one level of 320 channels, the least that it recognises as SD 1.5; random weights."""
    import comfy.ops
    import comfy.utils
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    torch.manual_seed(0)
    net = UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        num_res_blocks=[1],
        channel_mult=[1],
        transformer_depth=[1],
        transformer_depth_output=[1, 1],
        transformer_depth_middle=1,
        use_spatial_transformer=True,
        context_dim=768,
        num_heads=8,
        num_head_channels=-1,
        legacy=False,
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    filled(net)
    comfy.utils.save_torch_file(
        {f"model.diffusion_model.{name}": value.contiguous() for name, value in net.state_dict().items()}, str(path)
    )


def filled(net: torch.nn.Module) -> None:
    """Weights of the usual size: ComfyUI's layers leave theirs uninitialised."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if value.ndim < 2:
                value.copy_(0.05 * torch.randn(value.shape, generator=generator) + (1.0 if name.endswith("weight") else 0.0))
            else:
                value.copy_(torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)


def stable_diffusion(checkpoint: Path) -> Model:
    import comfy.model_management
    import comfy.sd

    patcher = comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=False, output_clip=False)[0]
    comfy.model_management.load_models_gpu([patcher])
    net = patcher.model.diffusion_model
    return Model(patcher, VP, lambda x, t, c: net(x, t.float(), context=c), (4, 8, 8))


def v_prediction(base: Model, zero_snr: bool) -> Model:
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    patcher = ModelSamplingDiscrete().patch(base.patcher, "v_prediction", zero_snr)[0]
    return Model(patcher, VP.zero_terminal_snr() if zero_snr else VP, base.network, base.shape, "v_prediction")


def edm(base: Model) -> Model:
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    patcher = ModelSamplingContinuousEDM().patch(base.patcher, "v_prediction", 80.0, 0.002)[0]

    def network(x: Tensor, tau: Tensor, *, position: float, c: Tensor) -> Tensor:
        scale = (position**2 + 1) ** 0.5
        return x / scale**2 - base.network(x / scale, 0.25 * tau.log(), c) * (position / scale)

    return Model(patcher, EDM(), network, base.shape, "sample", positioned=True)


def of_config(config: Any, noise: ttune.NoiseSchedule, unit: float, conditions: dict[str, tuple[int, ...]]) -> Model:
    import comfy.model_management
    from comfy.model_patcher import ModelPatcher

    cpu = torch.device("cpu")
    model = config.get_model({}, "", device=cpu)
    net = model.diffusion_model
    filled(net)
    patcher = ModelPatcher(model, load_device=cpu, offload_device=cpu)
    comfy.model_management.load_models_gpu([patcher])
    return Model(patcher, noise, lambda x, t, c, y: net(x, t * unit, context=c, y=y), (16, 8, 8), "flow_prediction", conditions)


def stable_diffusion_3() -> Model:
    import comfy.supported_models

    text = {"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 128}}
    config = comfy.supported_models.SD3(
        {
            "in_channels": 16,
            "depth": 2,
            "input_size": None,
            "adm_in_channels": 32,
            "context_embedder_config": text,
            "num_patches": 64,
            "pos_embed_max_size": 8,
            "pos_embed_scaling_factor": None,
            "dtype": torch.float32,
        }
    )
    made = of_config(config, FLOW, 1000.0, {"c": (7, 64), "y": (32,)})
    made.patcher.model.diffusion_model.pos_embed.copy_(0.1 * normal(3, 1, 64, 128))
    return made


def flux(schnell: bool = False) -> Model:
    import comfy.supported_models
    from comfy.ldm.flux.model import FluxParams

    newer = {"txt_ids_dims": []} if "txt_ids_dims" in FluxParams.__dataclass_fields__ else {}
    kind = comfy.supported_models.FluxSchnell if schnell else comfy.supported_models.Flux
    sizes = {
        "vec_in_dim": 32,
        "context_in_dim": 64,
        "hidden_size": 64,
        "mlp_ratio": 2.0,
        "num_heads": 2,
        "depth": 1,
        "depth_single_blocks": 1,
    }
    config = kind(
        {
            "image_model": "flux",
            "in_channels": 16,
            "out_channels": 16,
            "axes_dim": [8, 12, 12],
            "theta": 10000,
            "patch_size": 2,
            "qkv_bias": True,
            "guidance_embed": not schnell,
            "dtype": torch.float32,
            **sizes,
            **newer,
        }
    )
    made = of_config(config, FLOW, 1.0, {"c": (7, 64), "y": (32,)})
    if not schnell:
        net = made.patcher.model.diffusion_model
        made.network = lambda x, t, c, y: net(x, t, context=c, y=y, guidance=x.new_full(x.shape[:1], 3.5))
    return made


# ---- cases -------------------------------------------------------------------------------------------------

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
    yield "SamplerCustomAdvanced, BasicGuider, Flux", advanced(models["Flux"])
    yield "a ControlNet's times", control_net(sd)
    yield from host_samplers(models)
    yield from refusals(models)


def start_of(model: Model, noise: Tensor) -> Tensor:
    return noise * model.noise.sigma_max if isinstance(model.noise, EDM) else noise


def every_sampler(models: dict[str, Model]) -> Iterator[Case]:
    for sampler in ttune.SAMPLERS:
        for name in ("SD 1.5", "SD3"):
            yield f"{name}, {sampler}", whole(models[name], sampler)
    for name in ("v", "Flux", "Schnell", "EDM"):
        for sampler in ("euler", "dpmpp_2m", "unipc"):
            yield f"{name}, {sampler}", whole(models[name], sampler)
    for t_start in (820.0, 750.0):
        yield f"SD 1.5, dpmpp_2m, from t = {t_start:g}", whole(models["SD 1.5"], "dpmpp_2m", t_start=t_start)


def whole(model: Model, sampler: str, steps: int = 4, **build: Any) -> Callable[[], tuple[Tensor, Tensor]]:
    def run() -> tuple[Tensor, Tensor]:
        schedule, noise = tuned(model.noise, sampler, steps, **build), normal(3, 2, *model.shape)
        seeds = node_seeds(5, 2) if schedule.tableau().stochastic else None
        return model.theirs(schedule, noise), model.ours(schedule, start_of(model, noise), seeds=seeds)

    return run


def node_seeds(seed: int, count: int) -> Tensor:
    return sys.modules[node_classes()["TtuneScheduleSampler"].__module__.replace("nodes", "sampler")].seeds_of(seed, count)


def starts_and_parts(sd: Model, sd3: Model) -> Iterator[Case]:
    from comfy_extras import nodes_custom_sampler as host

    for name, model in (("SD 1.5", sd), ("SD3", sd3)):
        schedule, noise, latent = tuned(model.noise, "dpmpp_2m", 4), normal(3, 1, *model.shape), normal(9, 1, *model.shape)
        sigmas = node_classes()["TtuneScheduleSigmas"]().sigmas(schedule)[0]

        def image_to_image(
            model: Model = model, schedule: Any = schedule, sigmas: Any = sigmas, noise: Any = noise, latent: Any = latent
        ) -> Any:
            part = schedule.part(2)
            state = float(part.alphas[0]) * latent + float(part.sigmas[0]) * noise
            low = host.SplitSigmasDenoise().get_sigmas(sigmas, 0.5)[1]
            return model.theirs(schedule, noise, sigmas=low, latent=latent), model.ours(part, state, from_state=True)

        def in_two(model: Model = model, schedule: Any = schedule, sigmas: Any = sigmas, noise: Any = noise) -> Any:
            high, low = host.SplitSigmas().get_sigmas(sigmas, 2)
            half = model.theirs(schedule, noise, sigmas=high)
            theirs = model.theirs(schedule, torch.zeros_like(noise), sigmas=low, latent=half)
            return theirs, model.ours(schedule.part(2), model.ours(schedule.part(0, 2), noise), from_state=True)

        def all_of_it(model: Model = model, schedule: Any = schedule, noise: Any = noise, latent: Any = latent) -> Any:
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

        protecting = ttune.Denoiser(Positioned([network]), VP, "sample")
        state = float(schedule.alphas[0]) * latent + float(schedule.sigmas[0]) * noise
        return sd.theirs(schedule, noise, latent=latent, noise_mask=mask), ttune.sample(
            protecting, schedule, state, conditions=sd.drawn(1), from_state=True
        )

    yield "SD 1.5, a mask", masked


def settings(sd: Model, zero_snr: Model) -> Iterator[Case]:
    noise = normal(3, 2, *sd.shape)
    yield "zero terminal SNR, ddim", whole(zero_snr, "ddim", spacing="trailing")
    yield "zero terminal SNR, dpmpp_2m", whole(zero_snr, "dpmpp_2m", spacing="trailing")
    yield "final='min'", whole(sd, "euler", final="min")
    yield "final='min', flow", whole(stable_diffusion_3(), "euler", final="min")

    def coefficients() -> tuple[Tensor, Tensor]:
        schedule = tuned(VP, "dpmpp_2m", 4)
        corrections = 0.02 * np.cos(np.arange(12.0)).reshape(4, 3)
        corrections[0, 2] = 0  # there is no prediction before the first
        schedule = schedule.replace(coefficients=corrections, conditioning=schedule.conditioning)
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


def host_samplers(models: dict[str, Model]) -> Iterator[Case]:
    import comfy.samplers

    fitting = {
        "SD 1.5": ("euler", "ddim", "heun", "kdpm_2", "dpmpp_2m"),
        "v": ("euler",),
        "SD3": ("euler", "heun"),
        "Flux": ("euler",),
        "EDM": ("heun",),
    }
    for name, samplers in fitting.items():
        model = models[name]
        for sampler in samplers:
            for start in (None, 0.8):

                def run(model: Model = model, sampler: str = sampler, start: float | None = start) -> tuple[Tensor, Tensor]:
                    schedule = tuned(model.noise, sampler, 4, t_start=None if start is None else start * model.noise.t_max)
                    own = comfy.samplers.sampler_object({"kdpm_2": "dpm_2"}.get(sampler, sampler))
                    patcher = node_classes()["TtuneApplySchedule"]().apply(model.patcher, schedule)[0]
                    noise = normal(3, 2, *model.shape)
                    return model.theirs(schedule, noise, model=patcher, sampler=own), model.ours(schedule, start_of(model, noise))

                yield f"ComfyUI's {sampler}, {name}{'' if start is None else ', from .8 T'}", run


def advanced(model: Model) -> Callable[[], tuple[Tensor, Tensor]]:
    """By the nodes themselves, with FluxGuidance, a schedule that remembers its guidance, and a noise of their own."""
    from comfy_extras import nodes_custom_sampler as host
    from comfy_extras.nodes_flux import FluxGuidance

    def call(node: Any, *given: Any) -> Any:
        made = getattr(node(), getattr(node, "FUNCTION", "execute"))(*given)
        return made[0] if isinstance(made, tuple) else made.args[0]  # nodes of ComfyUI's newer interface return an object

    def run() -> tuple[Tensor, Tensor]:
        nodes, schedule = node_classes(), tuned(FLOW, "dpmpp_2m", 4).replace(model={"guidance_scale": 3.5, "guidance": "input"})
        guider = call(host.BasicGuider, model.patcher, call(FluxGuidance, model.conditioning(1), 3.5))
        sampler, sigmas = nodes["TtuneScheduleSampler"]().sampler(schedule)[0], nodes["TtuneScheduleSigmas"]().sigmas(schedule)[0]
        latent = {"samples": torch.zeros(2, *model.shape)}
        made = call(host.SamplerCustomAdvanced, call(host.RandomNoise, 21), guider, sampler, sigmas, latent)["samples"]
        noise = torch.randn(2, *model.shape, generator=torch.manual_seed(21))
        return model.patcher.model.process_latent_in(made), model.ours(schedule, noise, None)

    return run


def control_net(sd: Model) -> Callable[[], tuple[Tensor, Tensor]]:
    from comfy.controlnet import ControlNet

    class Recording(torch.nn.Module):
        dtype = torch.float32

        def __init__(self) -> None:
            super().__init__()
            self.heard: list[Tensor] = []

        def forward(self, x: Tensor, hint: Tensor, timesteps: Tensor, context: Tensor, **_: Any) -> dict[str, list[Tensor]]:
            self.heard.append(timesteps)
            return {"output": []}

    def run() -> tuple[Tensor, Tensor]:
        from comfy.sample import sample_custom

        nodes, schedule, noise, network = node_classes(), tuned(VP, "heun", 4), normal(3, 1, *sd.shape), Recording()
        control = ControlNet(network, load_device=torch.device("cpu")).set_cond_hint(normal(1, 1, 3, 64, 64))
        conditioning = [[sd.drawn(1)["c"], {"control": control, "control_apply_to_uncond": True}]]
        sampler, sigmas = nodes["TtuneScheduleSampler"]().sampler(schedule)[0], nodes["TtuneScheduleSigmas"]().sigmas(schedule)[0]
        latent = torch.zeros_like(noise)
        sample_custom(sd.patcher, noise, 1.0, sampler, sigmas, conditioning, conditioning, latent, disable_pbar=True, seed=5)
        return torch.cat(network.heard), torch.tensor(schedule.conditioning, dtype=torch.float32)

    return run


def refusals(models: dict[str, Model]) -> Iterator[Case]:
    import comfy.samplers
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete, ModelSamplingStableCascade

    sd, apply = models["SD 1.5"], lambda *given: node_classes()["TtuneApplySchedule"]().apply(*given)[0]
    schedule, noise, edm_schedule = tuned(VP, "euler", 4), normal(3, 1, *sd.shape), tuned(EDM(), "euler", 4, "karras")
    remembering = lambda **model: schedule.replace(model=model)  # noqa: E731
    patched = lambda node, *given: Model(node().patch(sd.patcher, *given)[0], VP, None, sd.shape)  # noqa: E731
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
    for ours, name in (("dpmpp_2m", "dpmpp_2m"), ("kdpm_2", "dpm_2")):
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


# ---- the server --------------------------------------------------------------------------------------------

CONDITIONING_NODE = """
import torch
class CheckConditioning:
    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "make", "ttune"
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0})}}
    def make(self, seed):
        return ([[torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(seed)), {}]],)
NODE_CLASS_MAPPINGS = {"TtuneCheckConditioning": CheckConditioning}
"""


class Server:
    """A ComfyUI of its own: its folders are temporary, its custom nodes are these."""

    def __init__(self, folder: Path, base: Path, port: int) -> None:
        for name in ("models/checkpoints", "custom_nodes", "output", "input", "user", "web"):
            (base / name).mkdir(parents=True, exist_ok=True)
        shutil.copytree(HERE, base / "custom_nodes" / "ttune", ignore=shutil.ignore_patterns("__pycache__", "check.py"))
        (base / "custom_nodes" / "check_conditioning.py").write_text(CONDITIONING_NODE)
        (base / "web" / "index.html").write_text("")
        self.address, self.log = f"http://127.0.0.1:{port}", (base / "log").open("w+")
        options = [
            "--cpu",
            "--port",
            str(port),
            "--disable-api-nodes",
            "--base-directory",
            str(base),
            "--front-end-root",
            str(base / "web"),
        ]
        database = ["--database-url", "sqlite:///:memory:"]
        self.process = subprocess.Popen(
            [sys.executable, "main.py", *options, *database], cwd=folder, stdout=self.log, stderr=subprocess.STDOUT
        )

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.address + path, data=data), timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:  # a prompt that the server refuses to queue
            raise ValueError(error.read().decode()) from None

    def ready(self, seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.ask("/system_stats")
                return
            except OSError:
                time.sleep(0.5)
        self.log.seek(0)
        raise RuntimeError(f"the server did not start:\n{self.log.read()[-2000:]}")

    def run(self, prompt: dict[str, Any], seconds: float = 180) -> dict[str, Any]:
        number = self.ask("/prompt", {"prompt": prompt})["prompt_id"]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            history = self.ask(f"/history/{number}")
            if number in history:
                return history[number]
            time.sleep(0.2)
        raise RuntimeError("the prompt did not end")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


def workflow(schedule: Path) -> dict[str, Any]:
    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    return {
        "model": node("CheckpointLoaderSimple", ckpt_name="tiny.safetensors"),
        "load": node("TtuneLoadSchedule", path=str(schedule), steps=0),
        "sigmas": node("TtuneScheduleSigmas", schedule=["load", 0]),
        "sampler": node("TtuneScheduleSampler", schedule=["load", 0]),
        "positive": node("TtuneCheckConditioning", seed=1),
        "negative": node("TtuneCheckConditioning", seed=2),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sample": node(
            "SamplerCustom",
            model=["model", 0],
            add_noise=True,
            noise_seed=11,
            cfg=CFG,
            positive=["positive", 0],
            negative=["negative", 0],
            sampler=["sampler", 0],
            sigmas=["sigmas", 0],
            latent_image=["latent", 0],
        ),
        "save": node("SaveLatent", samples=["sample", 0], filename_prefix="check"),
    }


def through_the_server(folder: Path, checkpoint: Path, port: int) -> Iterator[Case]:
    import safetensors.torch

    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        server = Server(folder, base, port)
        try:
            shutil.copy(checkpoint, base / "models" / "checkpoints" / "tiny.safetensors")
            server.ready()
            sd = stable_diffusion(checkpoint)
            for sampler, steps in (("dpmpp_2m", 5), ("ddpm", 4)):

                def run(sampler: str = sampler, steps: int = steps) -> tuple[Tensor, Tensor]:
                    schedule = tuned(VP, sampler, steps, t_start=820.0)
                    schedule.save(base / f"{sampler}.json")
                    history = server.run(workflow(base / f"{sampler}.json"))
                    if "save" not in history["outputs"]:
                        raise RuntimeError(str(history["status"])[-1500:])
                    [file] = history["outputs"]["save"]["latents"]
                    made = safetensors.torch.load_file(base / "output" / file["filename"])["latent_tensor"]
                    seeds = node_seeds(11, 1) if schedule.tableau().stochastic else None
                    noise = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(11))
                    return sd.patcher.model.process_latent_in(made), sd.ours(schedule, noise, seeds=seeds)

                yield f"POST /prompt, {sampler}", run
            yield "refused: POST /prompt, no such file", lambda: server.run(workflow(base / "missing.json")), "No such file"
        finally:
            server.stop()


def report(case: Case) -> bool:
    name, run, *refusal = case
    passed, shown = False, "accepted"
    try:
        made = run()
        if not refusal:
            theirs, ours = made
            difference = float((theirs - ours).abs().max() / ours.abs().max())
            passed, shown = difference < CLOSE, f"{difference:.1e}"
    except Exception as error:
        passed = bool(refusal) and isinstance(error, ValueError) and refusal[0] in str(error)
        shown = "refused" if passed else f"{type(error).__name__}: {error}"
    print(f"{name:44} {shown:>10}  {'pass' if passed else 'FAIL'}", flush=True)
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a ComfyUI: main.py is there")
    parser.add_argument("--checkpoint", type=Path, help="an SD 1.5 checkpoint instead of a tiny one with random weights")
    parser.add_argument("--only", default="", metavar="WORDS", help="the cases with these words in their names")
    parser.add_argument("--no-server", action="store_true", help="in process only")
    parser.add_argument("--port", type=int, default=8299, help="of the server")
    arguments = parser.parse_args()
    folder, sys.argv = arguments.folder.resolve(), sys.argv[:1]  # ComfyUI reads the command line too
    if not (folder / "main.py").is_file():
        parser.error(f"folder must be that of a ComfyUI, with its main.py, got {folder}")
    sys.path[:1] = [str(folder)]  # in the place of this script's folder
    from comfy import cli_args

    cli_args.args.cpu = True
    with torch.no_grad(), tempfile.TemporaryDirectory() as name:
        checkpoint = arguments.checkpoint
        if checkpoint is None:
            checkpoint = Path(name) / "tiny.safetensors"
            write_checkpoint(checkpoint)
        results = [report(case) for case in cases(checkpoint) if arguments.only in case[0]]
        if not arguments.no_server:
            made = through_the_server(folder, checkpoint, arguments.port)
            results += [report(case) for case in made if arguments.only in case[0]]
    print(f"{sum(results)} of {len(results)} cases within {CLOSE:g}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
