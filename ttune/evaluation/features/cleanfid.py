"""clean-fid, loaded when it is first needed, and even where torchvision is built for another torch."""

from __future__ import annotations

import importlib
import types

from ttune.evaluation.features import torchvision_shim


def import_cleanfid(module: str) -> types.ModuleType:
    """Import ``cleanfid.<module>``, also beside a torchvision that was built for another torch.

    Raises:
        ModuleNotFoundError: clean-fid is not installed.
    """
    torchvision_shim.ensure()
    name = f"cleanfid.{module}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"clean-fid is needed for Inception's features and for kernel distances, pip install 'ttune[fid]' ({error})", name=error.name
        ) from error
