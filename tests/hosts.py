"""Libraries whose networks the tests borrow."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

import pytest
import torch


@functools.cache
def _torchvision_schemas() -> torch.library.Library | None:
    """torchvision's registry wheel is a CUDA build: beside a CPU torch its import fails for want of ``torchvision::nms``,
    which the models do not call, and diffusers' import with it. Where that is so, the schemas are defined."""
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return None
    except RuntimeError:
        for loaded in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[loaded]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


def diffusers() -> Any:
    """The package ``diffusers``, or the test is skipped."""
    _torchvision_schemas()
    return pytest.importorskip("diffusers")
