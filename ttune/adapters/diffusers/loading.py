"""A diffusers folder or pipeline as a denoiser."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from ttune.adapters.diffusers.conditions import check_said_once, drawn_conditions, encoded, null_of_images
from ttune.adapters.diffusers.folder import (
    check_encoders,
    check_network_class,
    check_shards,
    class_of,
    errors_named,
    from_hub,
    listed_components,
    only_variant,
    read_index,
)
from ttune.adapters.diffusers.guidance import GuidanceInput, doubles, guidance_of
from ttune.adapters.diffusers.network import HostNetwork, learns_variance, original
from ttune.adapters.diffusers.scheduler_config import bounds_of, config_of, noise_of, prediction_type_of, time_unit
from ttune.adapters.diffusers.sizes import size_of
from ttune.adapters.diffusers.vae_decoder import Decoder
from ttune.network.denoiser import Denoiser

NETWORKS = ("unet", "transformer")  # what pipelines call the network that denoises
VAES = ("vae", "vqvae", "movq", "first_stage")  # and what decodes its samples; under another name whatever has a method decode
Source = str | PathLike[str] | Any


def load(
    source: Source,
    *,
    guidance_scale: float | None = None,
    prompts: Sequence[str] | None = None,
    negative_prompt: str | None = None,
    conditions: Mapping[str, Any] | None = None,
    null: Mapping[str, Any] | None = None,
    sample_shape: Sequence[int] | None = None,
    height: int | None = None,
    width: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    variant: str | None = None,
    clip_epsilon: str = "recompute",
) -> Denoiser:
    """A :class:`ttune.Denoiser` of ``source``: a pipeline, a local folder that one was saved to, or a hub id (which needs a network).

    The network is the pipeline's ``unet`` or ``transformer``, in evaluation mode; noise schedule, prediction type and clipping are those
    of its scheduler's configuration. From a folder only safetensors are read and no code runs: the network now, the VAE when a picture
    is made (``denoiser.decode``), text encoders while ``prompts`` are encoded.

    Args:
        prompts, conditions: sample i has entry seed_i modulo n. ``prompts`` are n texts, encoded by the pipeline's own
            ``encode_prompt``; ``conditions`` (name -> (n, ...) or (1, ...), lists and dicts of such too) have the names of the network's
            arguments (``class_labels``, ``image_embeds``, …), and ``extra_channels`` (n, C', height, width) for what a network sees
            beside the sample's channels (a mask, a depth map). Classes that are not given are drawn from the seed.
        guidance_scale: as the pipeline has it: classifier-free guidance above 1, none at 1 and below, 0 included; for a network that was
            distilled with it (Flux, LCM) its input, by default the pipeline's own.
        negative_prompt, null: the null condition: a text (by default the pipeline's own, none), for a DiT its null class, else ``null``.
        height, width, sample_shape: of an image in pixels, or of one sample in the network's own layout (Flux: (patches, channels) of a
            square image); by default the size that the network was made for.
        dtype, device, variant: of a folder's weights; a pipeline's stay. The variant ("fp16") by default is the only one there.
        clip_epsilon: as of a Denoiser; "keep" is diffusers' default for DDIM.

    Raises ValueError or OSError naming what is missing or not read: the class of the network, the scheduler, a folder without
    model_index.json, weights that are no safetensors, sizes that are no multiple of the VAE's pixels.
    """
    _check_prompts(prompts, negative_prompt, conditions)
    if dtype is not None and not isinstance(dtype, torch.dtype):  # diffusers would take float32 for it, with no error
        raise TypeError(f"dtype must be a torch.dtype, such as torch.float16, got {dtype!r}")
    parts = _Parts.of(source, dtype, device, variant)
    network = parts.network.eval()
    config: Any = getattr(original(network), "config", {})
    settings = config_of(parts.scheduler)
    host = HostNetwork(network, time_unit(settings))
    shape, host.grid = size_of(host, config, parts.pixels, sample_shape, height, width)
    if prompts is not None:
        guided = doubles(guidance_scale, config, parts.kind)
        conditions, null = parts.with_prompts(conditions, null, prompts, negative_prompt, guided, shape)
    given, null = conditions or {}, null_of_images(conditions or {}, null)
    guidance = guidance_of(guidance_scale, given, null, host.names(), config, parts.kind, parts.default_scale)
    host.guidance = guidance.scale if isinstance(guidance, GuidanceInput) else None
    return Denoiser(
        host,
        noise_of(parts.scheduler, tokens=_tokens(config, shape)),
        prediction_type_of(settings),
        guidance=guidance,
        clip_epsilon=clip_epsilon,
        integer_time=host.whole,
        name=type(original(network)).__name__,
        sample_shape=shape,
        draw_conditions=drawn_conditions(host.names(), conditions, config, host.family.shared),
        learned_variance=learns_variance(config),
        decode=parts.decoder(host),
        shared=host.family.shared,
        **bounds_of(settings),
    )


def _check_prompts(prompts: Sequence[str] | None, negative_prompt: str | None, conditions: Mapping[str, Any] | None) -> None:
    if negative_prompt is not None and (prompts is None or not isinstance(negative_prompt, str)):
        raise ValueError(f"negative_prompt must be one text that goes with prompts (--prompts FILE), got {negative_prompt!r}")
    if prompts is not None:
        check_said_once(conditions)


def _tokens(config: Any, shape: tuple[int, ...] | None) -> int | None:
    """Patches of a sample, which the shift of some flow models depends on."""
    if shape is None:
        return None
    if len(shape) == 2:
        return shape[0]
    patch = config.get("patch_size", 1)
    return (shape[-2] // patch) * (shape[-1] // patch)


@dataclass(frozen=True)
class _Parts:
    """The components of a pipeline that a denoiser is made of. ``kind``: the pipeline's class; ``vae_name``: what it calls its VAE."""

    network: torch.nn.Module
    scheduler: Any
    kind: str
    vae_name: str | None
    vae: Callable[[], Any]
    vae_config: Mapping[str, Any]
    with_text: Callable[[], Any]

    @staticmethod
    def of(source: Source, dtype: torch.dtype | None, device: torch.device | str | None, variant: str | None) -> _Parts:
        if not isinstance(source, (str, PathLike)):
            return _of_pipeline(source)
        folder = Path(source) if Path(source).is_dir() else from_hub(str(source), variant)
        return _of_folder(folder, dtype, device, variant)

    @property
    def pixels(self) -> int:
        """Of an image, along one side of a latent."""
        return pixels_of(self.vae_config) if self.vae_name is not None else 1

    @property
    def default_scale(self) -> float | None:
        """The guidance scale of the pipeline's own signature."""
        kind = getattr(diffusers, self.kind, None)
        parameters = inspect.signature(kind.__call__).parameters if isinstance(kind, type) else {}
        default = parameters["guidance_scale"].default if "guidance_scale" in parameters else None
        return float(default) if isinstance(default, (int, float)) else None

    def with_prompts(
        self,
        conditions: Mapping[str, Any] | None,
        null: Mapping[str, Any] | None,
        prompts: Sequence[str],
        negative_prompt: str | None,
        guided: bool,
        shape: tuple[int, ...] | None,
    ) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
        """(conditions, null) with those of the ``prompts`` and, where ``guided``, of the null prompt; what is given goes before.
        ``shape``: of a sample."""
        size = None if shape is None or len(shape) < 3 else (shape[-2] * self.pixels, shape[-1] * self.pixels)
        prompted, null_prompt = encoded(self.with_text(), prompts, negative_prompt, guided, size)
        return prompted | dict(conditions or {}), null_prompt if null is None or null_prompt is None else {**null_prompt, **null}

    def decoder(self, host: HostNetwork) -> Decoder | None:
        return None if self.vae_name is None else Decoder(self.vae, host.family.patches, host.grid, self.vae_name)


def pixels_of(vae_config: Mapping[str, Any]) -> int:
    return 2 ** (len(vae_config.get("block_out_channels") or (1,) * 4) - 1)


def network_name(components: Mapping[str, Any]) -> str:
    """Which component is the network; ValueError if none is, or the pipeline has several."""
    found = [name for name in NETWORKS if components.get(name) is not None]
    others = [name for name in components if name.startswith(tuple(f"{n}_" for n in NETWORKS)) and components[name] is not None]
    if len(found) != 1 or others:
        raise ValueError(f"source must have one network, named {' or '.join(NETWORKS)}, got {[*found, *others] or sorted(components)}")
    return found[0]


def decoding_name(kinds: Mapping[str, Any]) -> str | None:
    """Which component, of those of these classes, makes pictures of samples."""
    decoding = [name for name, kind in kinds.items() if callable(getattr(kind, "decode", None))]
    return next((name for name in (*VAES, *decoding) if name in decoding), None)


def _of_pipeline(pipeline: Any) -> _Parts:
    components = getattr(pipeline, "components", None)
    if not isinstance(components, Mapping) or components.get("scheduler") is None:
        raise TypeError(f"source must be a folder, a hub id or a diffusers pipeline with a scheduler, got {type(pipeline).__name__}")
    name = decoding_name({name: type(one) for name, one in components.items() if isinstance(one, torch.nn.Module)})
    vae = None if name is None else components[name]
    config = getattr(vae, "config", {})
    network = components[network_name(components)]
    return _Parts(network, components["scheduler"], type(pipeline).__name__, name, lambda: vae, config, lambda: pipeline)


def _of_folder(folder: Path, dtype: torch.dtype | None, device: torch.device | str | None, variant: str | None) -> _Parts:
    read = read_index(folder)
    index = listed_components(folder, read)
    name = network_name(index)
    check_network_class(index[name])
    vae_name = decoding_name({part: getattr(diffusers, kind, None) for part, (library, kind) in index.items() if library == "diffusers"})
    variant = variant or only_variant(folder / name)
    settings = {} if dtype is None else {"torch_dtype": dtype}
    memory = {"low_cpu_mem_usage": find_spec("accelerate") is not None}  # its default warns where it cannot have its way

    def component(name: str, base: type, **more: Any) -> Any:
        with errors_named(folder, name):
            return class_of(name, index[name], base).from_pretrained(folder, subfolder=name, local_files_only=True, **more)

    def weights(part: str) -> Any:
        check_shards(folder / part)
        here = variant if part == name else only_variant(folder / part)
        return component(part, ModelMixin, use_safetensors=True, variant=here, **memory, **settings).requires_grad_(False).to(device)

    def with_text() -> Any:
        absent = {other: None for other in index if other in (name, vae_name, "safety_checker", "feature_extractor", "image_encoder")}
        given = absent | {name: network, "scheduler": scheduler}
        check_encoders(folder, index, given)
        kind = class_of("_class_name", ("diffusers", read.get("_class_name")), DiffusionPipeline)
        with errors_named(folder, "pipeline"):
            pipeline = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, variant=variant, **settings, **given).to(
                device
            )
            if vae_name is not None:  # by which it counts pixels, whether it is loaded or not
                pipeline.vae_scale_factor = pixels_of(vae_config)
        return pipeline

    vae_config: Any = {}
    if vae_name is not None:
        with errors_named(folder, vae_name):
            vae_config = class_of(vae_name, index[vae_name], ModelMixin).load_config(folder, subfolder=vae_name, local_files_only=True)
    network, scheduler = weights(name), component("scheduler", SchedulerMixin)
    return _Parts(network, scheduler, str(read.get("_class_name")), vae_name, lambda: weights(str(vae_name)), vae_config, with_text)
