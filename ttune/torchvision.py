"""torchvision for libraries that import it, even where it is built for another torch."""

from __future__ import annotations

import importlib
import sys

import torch

# Kept for the life of the process: the schemas go when their library object does.
_schemas: torch.library.Library | None = None


def ensure() -> None:
    """Make ``import torchvision`` work, if it is installed at all.

    Its registry wheel is a CUDA build. Beside a CPU torch its native library does not load and its import fails at the first
    operators, ``torchvision::nms`` and ``qnms``, which no diffusion model calls. Only then, they are declared (not implemented).
    """
    global _schemas
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _schemas is not None:
            raise
        for loaded in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[loaded]
        _schemas = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            _schemas.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
