"""From the name of a model on the command line to a Denoiser."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ttune import zoo
from ttune.messages.names import meant
from ttune.network.denoiser import Denoiser
from ttune.storage.bounded_read import read_bytes

PROMPTS_BYTES = 2**26  # of a file of prompts; COCO's 600,000 captions have 32 MB
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_model(
    name: str,
    *,
    guidance_scale: float | None = None,
    prompts: Path | None = None,
    negative_prompt: str | None = None,
    class_labels: Sequence[int] | None = None,
    height: int | None = None,
    width: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
    variant: str | None = None,
) -> Denoiser:
    """A model of this project by name (``fashion``, ``emoji``), a diffusers folder or hub id, or what ``package.module:factory`` returns.

    A bundled name is that model even where a folder has the same one; ``./fashion`` is the folder. The last form imports and runs
    that code, from the current folder too. ``prompts``: a file with one prompt a line. The others are those of
    :func:`ttune.diffusers.load`; a bundled model knows ``guidance_scale``, ``class_labels`` and ``device``, a factory ``device`` alone.
    """
    if name == zoo.emoji.NAME:
        folder = zoo.emoji.folder()
        name, prompts = str(folder), prompts or folder / zoo.emoji.PROMPTS
    text = {"prompts": prompts, "negative_prompt": negative_prompt}
    more = text | {"height": height, "width": width, "dtype": dtype, "variant": variant}
    if name not in zoo.MODELS and (os.path.isdir(name) or HUB_ID.fullmatch(name)):
        return _of_diffusers(name, guidance_scale, class_labels, device, **more)
    _refuse(name, "text-conditional diffusers models", text)
    _refuse(name, "diffusers models", more)
    if name in zoo.MODELS:
        guided = guidance_scale is not None and guidance_scale > 1  # as of every other model
        denoiser = zoo.load(name, guidance_scale=guidance_scale if guided else None)
        if class_labels is not None:
            denoiser.draw_conditions = _classes("class_label", class_labels, zoo.CLASSES)
        return _moved(denoiser, device)
    module, colon, factory = name.partition(":")
    if not colon or not module or not factory:
        raise ValueError(
            f"model must be a bundled name ({', '.join(zoo.MODELS)}), a folder of a diffusers pipeline, its hub id (owner/name), or "
            f"'package.module:factory', where factory() returns a ttune.Denoiser, got {name!r}{meant(name, zoo.MODELS)}"
        )
    given = {"guidance_scale": guidance_scale, "class_labels": class_labels}
    _refuse(name, "bundled and diffusers models", given, "; set it in the factory")
    denoiser = imported("model", name)()
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"model: {name!r} must return a ttune.Denoiser, got {type(denoiser).__name__}")
    return _moved(denoiser, device)


def _of_diffusers(
    name: str,
    guidance_scale: float | None,
    class_labels: Sequence[int] | None,
    device: str | None,
    *,
    prompts: Path | None,
    dtype: str | None,
    **more: Any,
) -> Denoiser:
    import torch

    from ttune.adapters import diffusers

    return diffusers.load(
        name,
        guidance_scale=guidance_scale,
        prompts=None if prompts is None else _lines(prompts),
        conditions=None if class_labels is None else {"class_labels": torch.tensor(list(class_labels))},
        dtype=None if dtype is None else getattr(torch, dtype),
        device=_device(device) if device is not None else "cuda" if torch.cuda.is_available() else None,
        **more,
    )


def _refuse(name: str, owners: str, given: Mapping[str, Any], instead: str = "") -> None:
    """ValueError for settings that only other models have."""
    for setting, value in given.items():
        if value is not None:
            folder = f"; the folder of that name is ./{name}" if os.path.isdir(name) else instead
            shown = repr(str(value)) if isinstance(value, Path) else value
            raise ValueError(f"{setting} {'are' if setting.endswith('s') else 'is'} for {owners}, got {shown} with {name!r}{folder}")


def _classes(name: str, labels: Sequence[int], count: int) -> Callable[[Any], dict[str, Any]]:
    import torch

    if not all(0 <= label < count for label in labels) or not labels:
        raise ValueError(f"class_labels must lie in [0, {count - 1}], at least one, got {list(labels)}")
    table = torch.tensor(list(labels))
    return lambda seeds: {name: table.to(seeds.device)[seeds.remainder(len(table))]}


def _device(name: str) -> Any:
    import torch

    try:
        found = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be one that torch knows, such as cpu or cuda:1, got {name!r}: {error}") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: torch finds no GPU here, got {name!r}")
    return found


def _moved(denoiser: Denoiser, device: str | None) -> Denoiser:
    """Its networks on ``device``, where there is one."""
    if device is not None:
        for module in denoiser.modules():
            module.to(_device(device))
    return denoiser


def _lines(path: Path) -> list[str]:
    """The prompts of a file: its lines that are not empty."""
    try:
        text = read_bytes(path, PROMPTS_BYTES, "a file of prompts").decode("utf-8-sig")  # Notepad begins a file with a byte-order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"prompts: {path} must be text in UTF-8, got {error}") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"prompts: {path} must hold at least one line of text, got none")
    return lines


def imported(argument: str, name: str) -> Callable[..., Any]:
    """The function that ``package.module:factory`` names, from the current folder too; importing runs that code."""
    module, colon, factory = name.partition(":")
    if not colon or not module or not factory:
        raise ValueError(f"{argument} must be 'package.module:factory', got {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        target = getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{argument}: {name!r} cannot be loaded: {error}") from error
    if not callable(target):
        raise TypeError(f"{argument}: {name!r} must be a function, got {type(target).__name__}")
    return target


def bundled_data(model: str) -> Any:
    """Clean images and their conditions, for the methods that need them."""
    if model != "fashion":
        raise ValueError(f"clean images are needed, which the command line has for the bundled model (fashion) only, got {model!r}")
    from ttune.zoo.fashion_mnist import load_test_images, to_unit_range

    images, labels = load_test_images()
    return to_unit_range(images), {"class_label": labels}


def bundled_features(model: str) -> Any:
    """What Fréchet distances are measured in, instead of pooled pixels."""
    from ttune.evaluation import lenet64

    return lenet64() if model == "fashion" else None
