"""What a folder of a diffusers pipeline holds: its index, classes and weights. No code of it is run and no pickle is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from ttune.adapters.diffusers.network import FAMILIES
from ttune.storage.bounded_read import read_bytes

VARIANT = re.compile(r"diffusion_pytorch_model\.([A-Za-z]\w*)(?:-\d+-of-\d+)?\.safetensors")
INDEX_BYTES = 2**20  # of a model_index.json, which has some 600
SHARDS_BYTES = 2**26  # of the list that says in which file each weight is; it has some 100 bytes a weight
# Besides diffusers and transformers, what the components are of that are not loaded: safety checkers have their pipeline's name.
_PIPELINES = ("stable_diffusion", "stable_diffusion_3", "flux")


def only_variant(folder: Path) -> str | None:
    """The variant that a component was saved in, where there is but one and no weights without."""
    found = {path.name for path in folder.glob("diffusion_pytorch_model*.safetensors")}
    variants = {match[1] for name in found if (match := VARIANT.fullmatch(name))}
    plain = [name for name in found if not VARIANT.fullmatch(name)]
    return next(iter(variants)) if len(variants) == 1 and not plain else None


@contextmanager
def errors_named(folder: Path, what: str) -> Iterator[None]:
    """A folder that diffusers or transformers trips over is a ValueError that names it, as far as they did not find words themselves."""
    try:
        yield
    except (ValueError, OSError, ImportError, RuntimeError):
        raise
    except Exception as error:
        raise ValueError(f"{folder}: its {what} could not be loaded ({type(error).__name__}: {error})") from error


def check_encoders(folder: Path, index: Mapping[str, tuple[str, str]], given: Mapping[str, Any]) -> None:
    """What the pipeline loads besides the ``given``: text encoders, tokenizers, from files that hold no code."""
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    for name, (library, kind) in index.items():
        if name not in given:
            class_of(name, (library, kind), (ModelMixin, PreTrainedModel, PreTrainedTokenizerBase), ("diffusers", "transformers"))
            check_shards(folder / name)
        elif library not in ("diffusers", "transformers", *_PIPELINES) and kind != "TunedScheduler":
            raise _foreign(name, (library, kind), ("diffusers", "transformers"))
    # Older releases of diffusers run <component>/<library>.py, and None.py of the folder itself.
    code = sorted(file for place in (folder, *(folder / name for name in index)) for file in place.glob("*.py"))
    if code:
        raise ValueError(f"{folder}: there must be no Python files beside text encoders, which diffusers might run, found {code[0]}")


def check_shards(folder: Path) -> None:
    """Weights in several files are read from those that a list names, and it could name pickles."""
    for path in folder.glob("*.safetensors.index*.json"):
        try:
            named = json.loads(read_bytes(path, SHARDS_BYTES, "a list of weights files"))["weight_map"].values()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path}: not a readable list of weights files: {error}") from None
        others = [file for file in named if not str(file).endswith(".safetensors")]
        if others:
            raise ValueError(f"{path}: weights must be in files .safetensors, got {others[0]!r}")


def read_index(folder: Path) -> dict[str, Any]:
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


def listed_components(folder: Path, read: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Component -> (library, class)."""
    listed = {k: v for k, v in read.items() if isinstance(v, list) and not k.startswith("_")}
    index = {k: tuple(v) for k, v in listed.items() if len(v) == 2 and all(isinstance(w, str) for w in v)}
    if "scheduler" not in index:
        raise ValueError(f"{folder / 'model_index.json'}: there must be a scheduler among the components, got {sorted(index)}")
    return index  # pyright: ignore[reportReturnType]


def check_network_class(entry: tuple[str, str]) -> None:
    """Refuse a network of another class before its weights are read."""
    if entry[1] not in FAMILIES:
        raise ValueError(
            f"network must be one of {', '.join(FAMILIES)}, got {entry[1]}; wrap it in a function network(x, tau, **conditions) "
            f"and make its ttune.Denoiser yourself"
        )


def class_of(name: str, entry: tuple[str, Any], base: type | tuple[type, ...], libraries: Sequence[str] = ("diffusers",)) -> Any:
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


def from_hub(name: str, variant: str | None) -> Path:
    """A pipeline's folder in the local cache, downloaded if need be. Nothing of it is loaded: it is as foreign as any other folder."""
    try:
        return Path(DiffusionPipeline.download(name, use_safetensors=True, **({} if variant is None else {"variant": variant})))
    except Exception as error:  # diffusers, its hub client and the network beneath raise many kinds
        raise OSError(
            f"{name!r} is no folder here, and as a hub id it could not be loaded, which needs a network or a copy in the local cache "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'})"
        ) from error
