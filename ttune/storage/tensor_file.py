"""Tensors out of safetensors files that anybody may have written: nothing in them is believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import safetensors
import torch
from torch import Tensor


def load_tensors(path: str | PathLike[str], shapes: Mapping[str, tuple[int | None, ...]], advice: str = "") -> dict[str, Tensor]:
    """The tensors of ``path`` by name, on the CPU, in the file's own floating dtypes: exactly those of ``shapes``, where None means
    any size, and finite. ``advice``: what to do about a file that is none.

    Names, dtypes and shapes are checked before a byte of the values is read, so a file that claims gigabytes costs nothing.
    FileNotFoundError: there is no such file. ValueError names the file, the rule and what it has instead.
    """
    path, then = Path(path), f"; {advice}" if advice else ""
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            _check_names(path, set(file.keys()), set(shapes), then)
            for name, shape in shapes.items():
                found = tuple(file.get_slice(name).get_shape())
                if len(found) != len(shape) or any(want not in (None, size) for want, size in zip(shape, found, strict=True)):
                    raise ValueError(f"{path}: {name} must have the shape {_shown(shape)}, got {found}{then}")
            tensors = {name: file.get_tensor(name) for name in shapes}
    except FileNotFoundError:
        raise
    except (safetensors.SafetensorError, OSError, RuntimeError, AttributeError) as error:  # the last: a dtype that this torch has not
        raise ValueError(f"{path}: not a readable safetensors file ({error}){then}") from None
    for name, value in tensors.items():
        if not value.is_floating_point():
            raise ValueError(f"{path}: {name} must hold floating-point numbers, got {value.dtype}{then}")
        if not torch.isfinite(value.float() if value.element_size() < 2 else value).all():
            raise ValueError(f"{path}: {name} must be finite, got NaN or infinity in it{then}")
    return tensors


def _check_names(path: Path, found: set[str], wanted: set[str], then: str) -> None:
    if found != wanted:
        missing, unknown = sorted(wanted - found)[:4], sorted(found - wanted)[:4]
        said = [f"without {json.dumps(missing)}"] if missing else []
        said += [f"with {json.dumps(unknown)}"] if unknown else []
        raise ValueError(f"{path}: must hold exactly {len(wanted)} tensors by their names, got a file {' and '.join(said)}{then}")


def _shown(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"
