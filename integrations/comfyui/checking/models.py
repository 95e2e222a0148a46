"""Tiny networks of ComfyUI's own classes with random weights, each for ComfyUI and for ttune."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.sample
import comfy.sd
import comfy.supported_models
import comfy.utils
import numpy as np
import torch
from comfy.ldm.flux.model import FluxParams
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete
from torch import Tensor

import ttune
from ttune.adapters.preconditioned import Preconditioned
from ttune.noise.continuous import EDM

from .. import files, nodes

files.register()
NODES = {node.GET_SCHEMA().node_id: node for node in nodes.NODES}
CFG = 3.0
VP, FLOW = ttune.NoiseSchedule.scaled_linear(), ttune.NoiseSchedule.flow(3.0)


@dataclass
class TinyModel:
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
        network = Preconditioned([self.network]) if self.positioned else self.network
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
        sampler = NODES["TtuneScheduleSampler"].execute(schedule)[0] if sampler is None else sampler
        sigmas = NODES["TtuneScheduleSigmas"].execute(schedule)[0] if sigmas is None else sigmas
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


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tuned(noise: ttune.NoiseSchedule, sampler: str, steps: int, spacing: str = "linspace", **build: Any) -> ttune.Schedule:
    """As tuning leaves a schedule: the network gets fractional times beside the times."""
    schedule = ttune.Schedule.build(noise, sampler, steps, spacing, **build)
    moved = schedule.network_times * 0.97 + 0.01 * (noise.t_max - noise.t_min) * np.linspace(1, 0, len(schedule.network_times))
    return schedule.replace(network_times=np.clip(moved, noise.t_min, noise.t_max))


def write_checkpoint(path: Path) -> None:
    """ComfyUI's UNetModel with one level of 320 channels, the least that it recognises as SD 1.5; random weights."""
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


def stable_diffusion(checkpoint: Path) -> TinyModel:
    patcher = comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=False, output_clip=False)[0]
    comfy.model_management.load_models_gpu([patcher])
    net = patcher.model.diffusion_model
    return TinyModel(patcher, VP, lambda x, t, c: net(x, t.float(), context=c), (4, 8, 8))


def v_prediction(base: TinyModel, zero_snr: bool) -> TinyModel:
    patcher = ModelSamplingDiscrete().patch(base.patcher, "v_prediction", zero_snr)[0]
    return TinyModel(patcher, VP.zero_terminal_snr() if zero_snr else VP, base.network, base.shape, "v_prediction")


def edm(base: TinyModel) -> TinyModel:
    patcher = ModelSamplingContinuousEDM().patch(base.patcher, "v_prediction", 80.0, 0.002)[0]

    def network(x: Tensor, tau: Tensor, *, position: float, c: Tensor) -> Tensor:
        scale = (position**2 + 1) ** 0.5
        return x / scale**2 - base.network(x / scale, 0.25 * tau.log(), c) * (position / scale)

    return TinyModel(patcher, EDM(), network, base.shape, "sample", positioned=True)


def of_config(config: Any, noise: ttune.NoiseSchedule, unit: float, conditions: dict[str, tuple[int, ...]]) -> TinyModel:
    cpu = torch.device("cpu")
    model = config.get_model({}, "", device=cpu)
    net = model.diffusion_model
    filled(net)
    patcher = ModelPatcher(model, load_device=cpu, offload_device=cpu)
    comfy.model_management.load_models_gpu([patcher])
    return TinyModel(patcher, noise, lambda x, t, c, y: net(x, t * unit, context=c, y=y), (16, 8, 8), "flow_prediction", conditions)


def stable_diffusion_3() -> TinyModel:
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


def flux(schnell: bool = False) -> TinyModel:
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
