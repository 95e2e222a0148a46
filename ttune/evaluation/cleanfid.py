"""clean-fid, loaded when it is first needed, and even where torchvision is built for another torch."""

from __future__ import annotations

import importlib
import sys
import types

import torch

# Kept for the life of the process: the schemas go when their library object does.
_nms_schemas: torch.library.Library | None = None


def import_cleanfid(module: str) -> types.ModuleType:
    """Import ``cleanfid.<module>`` even where torchvision is built for another torch.

    torchvision's registry wheel is a CUDA build. Beside a CPU torch its native library does not load and
    its import fails at the first operators, ``torchvision::nms`` and ``qnms``, which nothing here calls.
    Only where that happens their schemas are defined, and the import tried again.

    Raises:
        ModuleNotFoundError: clean-fid is not installed.
    """
    global _nms_schemas
    name = f"cleanfid.{module}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"clean-fid is needed for Inception's features and for kernel distances, pip install 'ttune[fid]' ({error})", name=error.name
        ) from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _nms_schemas is not None:
            raise
        for loaded in [key for key in sys.modules if key.split(".")[0] in ("torchvision", "cleanfid")]:
            del sys.modules[loaded]
        _nms_schemas = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            _nms_schemas.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module(name)
