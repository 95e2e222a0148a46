"""A diffusers folder or pipeline as a denoiser."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from ttune.adapters.diffusers.guidance import GuidanceInput, doubles, guidance_of
from ttune.adapters.diffusers.network import FAMILIES, HostNetwork, learns_variance, original
from ttune.adapters.diffusers.scheduler_config import bounds_of, config_of, noise_of, prediction_type_of, time_unit
from ttune.adapters.diffusers.sizes import size_of
from ttune.adapters.diffusers.vae_decoder import Decoder
from ttune.network.denoiser import Denoiser
from ttune.storage.bounded_read import read_bytes

NETWORKS = ("unet", "transformer")  # what pipelines call the network that denoises
VAES = ("vae", "vqvae", "movq", "first_stage")  # and what decodes its samples; under another name whatever has a method decode
VARIANT = re.compile(r"diffusion_pytorch_model\.([A-Za-z]\w*)(?:-\d+-of-\d+)?\.safetensors")
Source = str | PathLike[str] | Any
INDEX_BYTES = 2**20  # of a model_index.json, which has some 600
SHARDS_BYTES = 2**26  # of the list that says in which file each weight is; it has some 100 bytes a weight
# Besides diffusers and transformers, what the components are of that are not loaded: safety checkers have their pipeline's name.
_PIPELINES = ("stable_diffusion", "stable_diffusion_3", "flux")


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

    The network is the pipeline's ``unet`` or ``transformer`` itself, in evaluation mode; noise schedule, prediction type and clipping
    are what its scheduler's configuration says (``clip_epsilon`` as in Denoiser; "keep" is diffusers' default for DDIM). From a folder
    only the network is loaded, from safetensors, and no code of the folder's runs; the VAE when a picture is made (``denoiser.decode``),
    text encoders while ``prompts`` are encoded. ``dtype``, ``device`` and ``variant`` ("fp16": by default the one that is there, if there
    are no weights without) are of a folder's weights; a pipeline's stay.

    Conditions of sample i are entry seed_i modulo n: of ``prompts`` (n texts, encoded by the pipeline's own ``encode_prompt``), and of
    ``conditions`` (name -> (n, ...) or (1, ...), lists and dicts of such too, under the names of the network's arguments:
    ``encoder_hidden_states``, ``pooled_projections``, ``text_embeds``, ``time_ids``, ``class_labels``, ``image_embeds``). What prompts do
    not say is given beside them. ``extra_channels`` (n, C', height, width): what a network sees beside the sample's channels
    (inpainting: mask, then latents of the masked image; a depth map). Classes that are not given are drawn from the seed.
    ``guidance_scale`` means what the pipeline means by it: classifier-free guidance above 1, none at 1 and below, 0 included; for a network
    that was distilled with it (Flux, LCM) its input, by default the pipeline's own. The null condition is ``negative_prompt`` (by default
    the pipeline's own: none), for a DiT its null class, else ``null``. ``height``, ``width``: of an image in pixels; or ``sample_shape``:
    of one sample in the network's own layout (Flux: (patches, channels) of a square image); by default the size that the network was
    made for.

    Raises ValueError or OSError naming what is missing or not read: the class of the network, the scheduler, a folder without
    model_index.json, weights that are no safetensors, sizes that are no multiple of the VAE's pixels.
    """
    if negative_prompt is not None and (prompts is None or not isinstance(negative_prompt, str)):
        raise ValueError(f"negative_prompt must be one text that goes with prompts (--prompts FILE), got {negative_prompt!r}")
    parts = _Parts.of(source, dtype, device, variant)
    network = parts.network.eval()
    config: Any = getattr(original(network), "config", {})
    settings = config_of(parts.scheduler)
    host = HostNetwork(network, time_unit(settings))
    shape, host.grid = size_of(host, config, parts.pixels, sample_shape, height, width)
    if prompts is not None:
        check_said_once(conditions)
        guided = doubles(guidance_scale, config, parts.kind)
        prompted, encoded_null = encoded(parts.with_text(), prompts, negative_prompt, guided, _image_size(shape, parts.pixels))
        conditions = prompted | dict(conditions or {})
        null = encoded_null if null is None or encoded_null is None else {**encoded_null, **null}
    given = conditions or {}
    null = null_of_images(given, null)
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


def _image_size(shape: tuple[int, ...] | None, pixels: int) -> tuple[int, int] | None:
    return None if shape is None or len(shape) < 3 else (shape[-2] * pixels, shape[-1] * pixels)


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
        folder = Path(source) if Path(source).is_dir() else _from_hub(str(source), variant)
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
    read = _read_index(folder)
    index = _components(folder, read)
    name = network_name(index)
    family_of_named(index[name])
    vae_name = decoding_name({part: getattr(diffusers, kind, None) for part, (library, kind) in index.items() if library == "diffusers"})
    variant = variant or _only_variant(folder / name)
    settings = {} if dtype is None else {"torch_dtype": dtype}
    memory = {"low_cpu_mem_usage": find_spec("accelerate") is not None}  # its default warns where it cannot have its way

    def component(name: str, base: type, **more: Any) -> Any:
        with _in_words(folder, name):
            return _class(name, index[name], base).from_pretrained(folder, subfolder=name, local_files_only=True, **more)

    def weights(part: str) -> Any:
        _check_shards(folder / part)
        here = variant if part == name else _only_variant(folder / part)
        return component(part, ModelMixin, use_safetensors=True, variant=here, **memory, **settings).requires_grad_(False).to(device)

    def with_text() -> Any:
        absent = {other: None for other in index if other in (name, vae_name, "safety_checker", "feature_extractor", "image_encoder")}
        given = absent | {name: network, "scheduler": scheduler}
        _check_encoders(folder, index, given)
        kind = _class("_class_name", ("diffusers", read.get("_class_name")), DiffusionPipeline)
        with _in_words(folder, "pipeline"):
            pipeline = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, variant=variant, **settings, **given).to(
                device
            )
            if vae_name is not None:  # by which it counts pixels, whether it is loaded or not
                pipeline.vae_scale_factor = pixels_of(vae_config)
        return pipeline

    vae_config: Any = {}
    if vae_name is not None:
        with _in_words(folder, vae_name):
            vae_config = _class(vae_name, index[vae_name], ModelMixin).load_config(folder, subfolder=vae_name, local_files_only=True)
    network, scheduler = weights(name), component("scheduler", SchedulerMixin)
    return _Parts(network, scheduler, str(read.get("_class_name")), vae_name, lambda: weights(str(vae_name)), vae_config, with_text)


def _only_variant(folder: Path) -> str | None:
    """The variant that a component was saved in, where there is but one and no weights without."""
    found = {path.name for path in folder.glob("diffusion_pytorch_model*.safetensors")}
    variants = {match[1] for name in found if (match := VARIANT.fullmatch(name))}
    plain = [name for name in found if not VARIANT.fullmatch(name)]
    return next(iter(variants)) if len(variants) == 1 and not plain else None


@contextmanager
def _in_words(folder: Path, what: str) -> Iterator[None]:
    """A folder that diffusers or transformers trips over is a ValueError that names it, as far as they did not find words themselves."""
    try:
        yield
    except (ValueError, OSError, ImportError, RuntimeError):
        raise
    except Exception as error:
        raise ValueError(f"{folder}: its {what} could not be loaded ({type(error).__name__}: {error})") from error


def _check_encoders(folder: Path, index: Mapping[str, tuple[str, str]], given: Mapping[str, Any]) -> None:
    """What the pipeline loads besides the ``given``: text encoders, tokenizers, from files that hold no code."""
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    for name, (library, kind) in index.items():
        if name not in given:
            _class(name, (library, kind), (ModelMixin, PreTrainedModel, PreTrainedTokenizerBase), ("diffusers", "transformers"))
            _check_shards(folder / name)
        elif library not in ("diffusers", "transformers", *_PIPELINES) and kind != "TunedScheduler":
            raise _foreign(name, (library, kind), ("diffusers", "transformers"))
    # Older releases of diffusers run <component>/<library>.py, and None.py of the folder itself.
    code = sorted(file for place in (folder, *(folder / name for name in index)) for file in place.glob("*.py"))
    if code:
        raise ValueError(f"{folder}: there must be no Python files beside text encoders, which diffusers might run, found {code[0]}")


def _check_shards(folder: Path) -> None:
    """Weights in several files are read from those that a list names, and it could name pickles."""
    for path in folder.glob("*.safetensors.index*.json"):
        try:
            named = json.loads(read_bytes(path, SHARDS_BYTES, "a list of weights files"))["weight_map"].values()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path}: not a readable list of weights files: {error}") from None
        others = [file for file in named if not str(file).endswith(".safetensors")]
        if others:
            raise ValueError(f"{path}: weights must be in files .safetensors, got {others[0]!r}")


def _read_index(folder: Path) -> dict[str, Any]:
    """``model_index.json``."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise ValueError(f"{folder}: there must be a model_index.json, as pipeline.save_pretrained writes it, found none")
    try:
        read = json.loads(read_bytes(path, INDEX_BYTES, "a list of components"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a readable list of components: {error}") from None
    if not isinstance(read, dict):
        raise ValueError(f"{path}: not a readable list of components: must be a mapping, got {type(read).__name__}")
    return read


def _components(folder: Path, read: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Component -> (library, class)."""
    listed = {k: v for k, v in read.items() if isinstance(v, list) and not k.startswith("_")}
    index = {k: tuple(v) for k, v in listed.items() if len(v) == 2 and all(isinstance(w, str) for w in v)}
    if "scheduler" not in index:
        raise ValueError(f"{folder / 'model_index.json'}: there must be a scheduler among the components, got {sorted(index)}")
    return index  # pyright: ignore[reportReturnType]


def family_of_named(entry: tuple[str, str]) -> None:
    """Refuse a network of another class before its weights are read."""
    if entry[1] not in FAMILIES:
        raise ValueError(
            f"network must be one of {', '.join(FAMILIES)}, got {entry[1]}; wrap it in a function network(x, tau, **conditions) "
            f"and make its ttune.Denoiser yourself"
        )


def _class(name: str, entry: tuple[str, Any], base: type | tuple[type, ...], libraries: Sequence[str] = ("diffusers",)) -> Any:
    """The class of a component, which must be a ``base``; a folder's own code is not run, so it must be one of these libraries'."""
    library, kind = entry
    if name == "scheduler" and kind == "TunedScheduler":
        from ttune.adapters.diffusers.scheduler import TunedScheduler

        return TunedScheduler
    found = getattr(__import__(library), kind, None) if library in libraries and isinstance(kind, str) else None
    if found is None:
        raise _foreign(name, entry, libraries)
    if "dummy" in getattr(found, "__module__", ""):
        found()  # a placeholder of a class that needs another package, and says which
    if not (isinstance(found, type) and issubclass(found, base)):
        bases = " or ".join(one.__name__ for one in (base if isinstance(base, tuple) else (base,)))
        raise ValueError(f"{name} must be a {bases}, which {kind!r} of {library!r} is not")
    return found


def _foreign(name: str, entry: tuple[str, Any], libraries: Sequence[str]) -> ValueError:
    return ValueError(f"{name} must be a class of {' or '.join(libraries)}, got {entry[1]!r} of {entry[0]!r}; its code is not run")


def _from_hub(name: str, variant: str | None) -> Path:
    """A pipeline's folder in the local cache, downloaded if need be. Nothing of it is loaded: it is as foreign as any other folder."""
    try:
        return Path(DiffusionPipeline.download(name, use_safetensors=True, **({} if variant is None else {"variant": variant})))
    except Exception as error:  # diffusers, its hub client and the network beneath raise many kinds
        raise OSError(
            f"{name!r} is no folder here, and as a hub id it could not be loaded, which needs a network or a copy in the local cache "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'})"
        ) from error
