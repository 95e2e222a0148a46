"""torchvision for libraries that import it, even where it is built for another torch.

Its registry wheel is a CUDA build. Beside a CPU torch its native library does not load and its import fails at the first operator,
``torchvision::nms``. diffusers and clean-fid import torchvision, and call none of its operators. So, only where that import fails, the
schemas of the missing operators are declared, and not implemented. A warning says so once.

``ttune.diffusers`` and ``ttune.evaluation`` do this themselves. For plain scripts, which import diffusers or clean-fid without ttune,

    python -c "from ttune.evaluation.features import torchvision_shim; torchvision_shim.install()"

does it for the environment that this Python belongs to: it copies this file to site-packages and has it loaded at every start by a
``.pth`` file (``make install`` does so). So this file imports nothing of ttune, and no torch before torchvision is imported.
``torchvision_shim.remove()`` takes both files away.
"""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType
from typing import Any

_NAME = "torchvision"
_COPY = "torchvision_beside_cpu_torch"  # name of the copy in site-packages, and of its .pth file
_OPERATORS = ("nms", "qnms")  # at which its import fails

# Kept for the life of the process: the schemas go when their library object does.
_schemas: Any = None


def ensure() -> None:
    """Make ``import torchvision`` work, if it is installed at all."""
    watch()
    with contextlib.suppress(ModuleNotFoundError):
        __import__(_NAME)


def watch() -> None:
    """From now on an import of torchvision that fails for its missing operators is tried again with these declared. Done once."""
    if not any(type(finder).__name__ == TorchvisionFinder.__name__ for finder in sys.meta_path):  # the copy's may be there
        sys.meta_path.insert(0, TorchvisionFinder())


class TorchvisionFinder:
    """Finds torchvision where the other finders do, and has it loaded by :class:`_Loader`."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _NAME:
            return None
        for finder in sys.meta_path:
            spec: Any = None if finder is self or not hasattr(finder, "find_spec") else finder.find_spec(name, path, target)
            if spec is not None:
                spec.loader = spec.loader and _Loader(spec.loader)
                return spec
        return None


class _Loader:
    """A loader of torchvision that tries twice."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            self._loader.exec_module(module)
        except RuntimeError as error:
            if f"{_NAME}::{_OPERATORS[0]}" not in str(error) or _schemas is not None:
                raise
            for loaded in [name for name in sys.modules if name.startswith(f"{_NAME}.")]:
                del sys.modules[loaded]
                vars(module).pop(loaded.split(".")[1], None)
            _declare()
            self._loader.exec_module(module)


def _declare() -> None:
    """The schemas of the missing operators, and a warning that they are all there is of them."""
    global _schemas
    import warnings

    import torch

    _schemas = torch.library.Library(_NAME, "FRAGMENT")
    for operator in _OPERATORS:
        _schemas.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    text = (
        f"the installed torchvision is built for another torch than {torch.__version__}: it was imported with its operators declared and "
        f"not implemented, which is enough for diffusers and clean-fid; install the torchvision of this torch, from where torch came"
    )
    # In torchvision's name, whose state it is.
    warnings.warn_explicit(text, UserWarning, f"{_NAME}/__init__.py", 0, module=_NAME)


def install() -> list[str]:
    """Write the copy and its ``.pth`` file to site-packages of this Python, and return their paths."""
    import shutil

    copy, start = _places()
    shutil.copyfile(__file__, copy)
    with open(start, "w", encoding="utf-8") as file:
        file.write(f"import {_COPY}; {_COPY}.watch()\n")
    return [copy, start]


def remove() -> list[str]:
    """Remove what :func:`install` wrote; returns the paths of what was there."""
    import os

    found = [path for path in _places() if os.path.exists(path)]
    for path in found:
        os.remove(path)
    return found


def _places() -> tuple[str, str]:
    import os
    import sysconfig

    folder = sysconfig.get_path("purelib")
    return os.path.join(folder, f"{_COPY}.py"), os.path.join(folder, f"{_COPY}.pth")
