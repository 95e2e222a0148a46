"""From the name of a model on the command line to a Denoiser."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ttune import zoo
from ttune.denoiser import Denoiser
from ttune.reading import read_bytes

PROMPTS_BYTES = 2**26  # of a file of prompts; COCO's 600,000 captions have 32 MB
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_model(name: str, *, guidance_scale: float | None = None, prompts: Path | None = None) -> Denoiser:
    """A bundled model by name (``fashion``), a diffusers folder or hub id, or what ``package.module:factory`` returns.

    A bundled name is that model even where a folder has the same one; ``./fashion`` is the folder. The last form imports and runs
    that code, from the current folder too. ``guidance_scale`` is for bundled and diffusers models; a factory sets its own guidance.
    ``prompts``: a file with one prompt a line, for a text-conditional diffusers model.
    """
    if name not in zoo.MODELS and (os.path.isdir(name) or HUB_ID.fullmatch(name)):
        import torch

        from ttune.adapters import diffusers

        texts = None if prompts is None else _lines(prompts)
        device = "cuda" if torch.cuda.is_available() else None
        return diffusers.load(name, guidance_scale=guidance_scale, prompts=texts, device=device)
    if prompts is not None:
        folder = f"; the folder of that name is ./{name}" if os.path.isdir(name) else ""
        raise ValueError(f"prompts are for text-conditional diffusers models, got {str(prompts)!r} with {name!r}{folder}")
    if name in zoo.MODELS:
        return zoo.load(name, guidance_scale=guidance_scale)
    module, colon, factory = name.partition(":")
    if not colon or not module or not factory:
        raise ValueError(
            f"model must be a bundled name ({', '.join(zoo.MODELS)}), a folder of a diffusers pipeline, its hub id (owner/name), or "
            f"'package.module:factory', where factory() returns a ttune.Denoiser, got {name!r}"
        )
    if guidance_scale is not None:
        raise ValueError(f"guidance_scale is for bundled and diffusers models, got {guidance_scale} with {name!r}; set it in the factory")
    denoiser = imported("model", name)()
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"model: {name!r} must return a ttune.Denoiser, got {type(denoiser).__name__}")
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
