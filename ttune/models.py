"""From the name of a model on the command line to a Denoiser."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from ttune import zoo
from ttune.denoiser import Denoiser


def load_model(name: str, *, guidance_scale: float | None = None) -> Denoiser:
    """A bundled model by name (``fashion``), or what ``package.module:factory`` returns.

    The second form imports and runs that code, from the current folder too. ``guidance_scale`` is for bundled models;
    a factory sets its own guidance.
    """
    if name in zoo.MODELS:
        return zoo.load(name, guidance_scale=guidance_scale)
    module, colon, factory = name.partition(":")
    if not colon or not module or not factory:
        raise ValueError(
            f"model must be a bundled name ({', '.join(zoo.MODELS)}) or 'package.module:factory', where factory() returns a "
            f"ttune.Denoiser, got {name!r}; folders and hub ids of diffusers are not read by this version: wrap the network in a factory"
        )
    if guidance_scale is not None:
        raise ValueError(f"guidance_scale is an option of bundled models, got {guidance_scale} with {name!r}; set it in the factory")
    denoiser = imported("model", name)()
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"model: {name!r} must return a ttune.Denoiser, got {type(denoiser).__name__}")
    return denoiser


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
