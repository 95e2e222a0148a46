"""Other people's models and samplers, one file each: ``ttune.k_diffusion``, ``ttune.edm``, … are imported when first used.

Every adapter makes a host's model a :class:`ttune.Denoiser`, so that it can be tuned, and makes the host's own sampler use the tuned
schedule, by one mechanism: at the raw network the time is replaced, evaluation by evaluation (:mod:`ttune.adapters.timestep_override`).
"""

from __future__ import annotations

import importlib
from types import ModuleType

# ttune.NAME is ttune.adapters.NAME.
ADAPTERS = ("diffusers", "dpm_solver", "edm", "exchange", "guided_diffusion", "hub", "k_diffusion", "latent_diffusion", "onnx")
WITHOUT_TORCH = ("exchange", "hub", "onnx")


def load(name: str) -> ModuleType:
    """The adapter ``name``; AttributeError, since it is asked for as an attribute of ttune, if this build has none of that name."""
    if name not in ADAPTERS:
        raise AttributeError(f"adapters are {', '.join(ADAPTERS)}, got {name!r}")
    module = f"{__name__}.{name}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            raise AttributeError(f"ttune.{name} is not part of this version") from None
        raise
