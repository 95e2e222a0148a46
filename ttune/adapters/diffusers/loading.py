"""A diffusers folder or pipeline as a denoiser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from ttune.adapters.diffusers.conditions import drawn_conditions, encoded
from ttune.adapters.diffusers.network import FAMILIES, HostNetwork, learns_variance, original, sample_shape_of
from ttune.adapters.diffusers.picture import Decoder
from ttune.adapters.diffusers.scheduler_config import bounds_of, config_of, noise_of, prediction_type_of, time_unit
from ttune.denoiser import ClassifierFree, Denoiser
from ttune.reading import read_bytes

NETWORKS = ("unet", "transformer")  # what pipelines call the network that denoises
Source = str | PathLike[str] | Any
FLUX_SIDE = 64  # patches of a 1024 x 1024 image, its pipeline's default
INDEX_BYTES = 2**20  # of a model_index.json, which has some 600
SHARDS_BYTES = 2**26  # of a list of which weight is in which file, which has some 100 a weight
# Besides diffusers and transformers, what the components are of that are not loaded: safety checkers have their pipeline's name.
_PIPELINES = ("stable_diffusion", "stable_diffusion_3", "flux")


def load(
    source: Source,
    *,
    guidance_scale: float | None = None,
    prompts: Sequence[str] | None = None,
    negative_prompt: str | None = None,
    conditions: Mapping[str, Tensor] | None = None,
    null: Mapping[str, Any] | None = None,
    sample_shape: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    clip_epsilon: str = "recompute",
) -> Denoiser:
    """A :class:`ttune.Denoiser` of ``source``: a pipeline, a local folder that one was saved to, or a hub id (which needs a network).

    The network is the pipeline's ``unet`` or ``transformer`` itself, in evaluation mode; noise schedule, prediction type and clipping
    are what its scheduler's configuration says (``clip_epsilon`` as in Denoiser; "keep" is diffusers' default for DDIM). From a folder
    only the network is loaded, from safetensors, and no code of the folder's runs; the VAE when a picture is made (``denoiser.decode``),
    text encoders while ``prompts`` are encoded. ``dtype`` and ``device`` are where a folder's weights go; a pipeline's stay.

    Conditions of sample i are entry seed_i modulo n: of ``prompts`` (n texts, encoded by the pipeline's own ``encode_prompt``), or of
    ``conditions`` (name -> (n, ...), under the names of the network's arguments: ``encoder_hidden_states``, ``pooled_projections``,
    ``text_embeds``, ``time_ids``, ``class_labels``, ``guidance``). A class-conditional network has its classes without being told.
    ``guidance_scale``: classifier-free guidance; the null condition is ``negative_prompt`` (by default the pipeline's own: none), for a
    DiT its null class, else ``null``. ``sample_shape``: of one sample in the network's own layout (Flux: (patches, channels)), by
    default the size that the network was made for.

    Raises ValueError or OSError naming what is missing or not read: the class of the network, the scheduler, a folder without
    model_index.json, weights that are no safetensors.
    """
    parts = _Parts.of(source, dtype, device)
    network = parts.network.eval()
    config: Any = getattr(original(network), "config", {})
    settings = config_of(parts.scheduler)
    host = HostNetwork(network, time_unit(settings))
    shape = tuple(sample_shape) if sample_shape is not None else _default_shape(host, config)
    if prompts is not None:
        if conditions is not None:
            raise ValueError("prompts and conditions cannot both be given: the prompts become the conditions")
        conditions, encoded_null = encoded(parts.with_text(), prompts, negative_prompt, guidance_scale, shape)
        null = encoded_null if null is None else null
    draw = drawn_conditions(host.family.names(config), conditions, config)
    return Denoiser(
        host,
        noise_of(parts.scheduler, tokens=_tokens(host, config, shape)),
        prediction_type_of(settings),
        guidance=_guidance(guidance_scale, null, config),
        clip_epsilon=clip_epsilon,
        integer_time=host.whole,
        name=type(original(network)).__name__,
        sample_shape=shape,
        draw_conditions=draw,
        learned_variance=learns_variance(config),
        decode=Decoder(parts.vae, _patches(host, shape)) if parts.has_vae else None,
        **bounds_of(settings),
    )


def _default_shape(host: HostNetwork, config: Any) -> tuple[int, ...] | None:
    return (FLUX_SIDE**2, config["in_channels"]) if host.family.normalised else sample_shape_of(config)


def _patches(host: HostNetwork, shape: tuple[int, ...] | None) -> bool:
    """Whether a sample is a row of 2 x 2 patches (Flux)."""
    return host.family.normalised and shape is not None and len(shape) == 2


def _tokens(host: HostNetwork, config: Any, shape: tuple[int, ...] | None) -> int | None:
    """Patches of a sample, which the shift of some flow models depends on."""
    if shape is None:
        return None
    if len(shape) == 2:
        return shape[0]
    patch = config.get("patch_size", 1)
    return (shape[-2] // patch) * (shape[-1] // patch)


def _guidance(scale: float | None, null: Mapping[str, Any] | None, config: Any) -> ClassifierFree | None:
    if scale is None:
        return None
    if null is None and config.get("num_embeds_ada_norm") is not None and config.get("caption_channels") is None:
        null = {"class_labels": config["num_embeds_ada_norm"]}  # DiT's class for none
    if null is None:
        raise ValueError(f"null must say what the condition of the unguided half is, for guidance_scale={scale:g}; or give prompts")
    return ClassifierFree(scale, null)


class _Parts:
    """The components of a pipeline that a denoiser is made of."""

    def __init__(
        self, network: torch.nn.Module, scheduler: Any, vae: Callable[[], Any], has_vae: bool, with_text: Callable[[], Any]
    ) -> None:
        self.network, self.scheduler, self.vae, self.has_vae, self.with_text = network, scheduler, vae, has_vae, with_text

    @staticmethod
    def of(source: Source, dtype: torch.dtype | None, device: torch.device | str | None) -> _Parts:
        if not isinstance(source, (str, PathLike)):
            return _of_pipeline(source)
        if Path(source).is_dir():
            return _of_folder(Path(source), dtype, device)
        return _of_folder(_from_hub(str(source)), dtype, device)


def network_name(components: Mapping[str, Any]) -> str:
    """Which component is the network; ValueError if none is, or the pipeline has several."""
    found = [name for name in NETWORKS if components.get(name) is not None]
    others = [name for name in components if name.startswith(tuple(f"{n}_" for n in NETWORKS)) and components[name] is not None]
    if len(found) != 1 or others:
        raise ValueError(f"source must have one network, named {' or '.join(NETWORKS)}, got {[*found, *others] or sorted(components)}")
    return found[0]


def _of_pipeline(pipeline: Any) -> _Parts:
    components = getattr(pipeline, "components", None)
    if not isinstance(components, Mapping) or components.get("scheduler") is None:
        raise TypeError(f"source must be a folder, a hub id or a diffusers pipeline with a scheduler, got {type(pipeline).__name__}")
    vae = components.get("vae")
    return _Parts(components[network_name(components)], components["scheduler"], lambda: vae, vae is not None, lambda: pipeline)


def _of_folder(folder: Path, dtype: torch.dtype | None, device: torch.device | str | None) -> _Parts:
    read = _read_index(folder)
    index = _components(folder, read)
    name = network_name(index)
    family_of_named(index[name])
    settings = {} if dtype is None else {"torch_dtype": dtype}
    memory = {"low_cpu_mem_usage": find_spec("accelerate") is not None}  # its default warns where it cannot have its way

    def component(name: str, base: type, **more: Any) -> Any:
        with _in_words(folder, name):
            return _class(name, index[name], base).from_pretrained(folder, subfolder=name, local_files_only=True, **more)

    def weights(name: str) -> Any:
        _check_shards(folder / name)
        return component(name, ModelMixin, use_safetensors=True, **memory, **settings).requires_grad_(False).to(device)

    def with_text() -> Any:
        absent = {other: None for other in index if other in (name, "vae", "safety_checker", "feature_extractor", "image_encoder")}
        given = absent | {name: network, "scheduler": scheduler}
        _check_encoders(folder, index, given)
        kind = _class("_class_name", ("diffusers", read.get("_class_name")), DiffusionPipeline)
        with _in_words(folder, "pipeline"):
            pipeline = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, **settings, **given).to(device)
            if "vae" in index:  # by which it counts pixels, whether it is loaded or not
                config = _class("vae", index["vae"], ModelMixin).load_config(folder, subfolder="vae")
                pipeline.vae_scale_factor = 2 ** (len(config.get("block_out_channels", (1,) * 4)) - 1)
        return pipeline

    network, scheduler = weights(name), component("scheduler", SchedulerMixin)
    return _Parts(network, scheduler, lambda: weights("vae"), "vae" in index, with_text)


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
        found()  # it stands for a class that needs another package, and says which
    if not (isinstance(found, type) and issubclass(found, base)):
        bases = " or ".join(one.__name__ for one in (base if isinstance(base, tuple) else (base,)))
        raise ValueError(f"{name} must be a {bases}, which {kind!r} of {library!r} is not")
    return found


def _foreign(name: str, entry: tuple[str, Any], libraries: Sequence[str]) -> ValueError:
    return ValueError(f"{name} must be a class of {' or '.join(libraries)}, got {entry[1]!r} of {entry[0]!r}; its code is not run")


def _from_hub(name: str) -> Path:
    """A pipeline's folder in the local cache, downloaded if need be. Nothing of it is loaded: it is as foreign as any other folder."""
    try:
        return Path(DiffusionPipeline.download(name, use_safetensors=True))
    except Exception as error:  # diffusers, its hub client and the network beneath raise many kinds
        raise OSError(
            f"{name!r} is no folder here, and as a hub id it could not be loaded, which needs a network or a copy in the local cache "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'})"
        ) from error
