"""The operators as PyTorch knows them: how one is defined, and the native modules that implement them.

An operator is defined once, in Python, with its reference. Native modules implement it for a dispatch key, and PyTorch's
dispatcher then prefers them to the reference by itself: a call costs no Python beyond the operator.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

LIBRARY = torch.library.Library("ttune", "FRAGMENT")  # holds the schemas; dropping it would undefine the operators
REFERENCES: dict[str, Callable[..., Any]] = {}
NATIVE: dict[str, list[str]] = {}  # dispatch key -> operators with a native kernel
LOAD_ERRORS: dict[str, str] = {}  # native module -> why it did not load

_FOLDER = Path(__file__).resolve().parent.parent / "lib"
_NOT_BUILT = {
    "_ops_cpu": "installed with TTUNE_SKIP_BUILD=1, or without building",
    "_ops_cuda": "no nvcc was found at installation, or it was switched off",
}


def define(
    name: str,
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., Any] | None = None,
) -> None:
    """Define ``torch.ops.ttune.<name>`` with ``schema`` and its reference, which serves every device that has no kernel.

    ``fake``: its results' shapes, dtypes and strides, for torch.compile. ``backward`` and ``setup_context``: its derivative,
    as ``torch.library.register_autograd`` takes them.
    """
    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"ttune::{name}", fake, lib=LIBRARY)
    if backward is not None:
        torch.library.register_autograd(f"ttune::{name}", backward, setup_context=setup_context, lib=LIBRARY)
    REFERENCES[name] = reference


def load_modules() -> None:
    """Load the native modules that this installation has and this torch can use. What does not load is not an error:
    another backend does its work, and ``LOAD_ERRORS`` says why."""
    LOAD_ERRORS.clear()
    for module, reason in _NOT_BUILT.items():
        path = _FOLDER / f"{module}.so"
        if module == "_ops_cuda" and torch.version.cuda is None:
            LOAD_ERRORS[module] = f"this torch ({torch.__version__}) has no CUDA"
        elif not path.exists():
            LOAD_ERRORS[module] = f"not built: {module}.so is not in ttune/lib ({reason})"
        else:
            try:
                torch.ops.load_library(path)
            except OSError as error:
                LOAD_ERRORS[module] = f"{module}.so does not load: {error}"
    for key in ("CPU", "CUDA"):
        NATIVE[key] = [name for name in REFERENCES if has_kernel(name, key)]


def has_kernel(operator: str, key: str) -> bool:
    """Whether something is registered for ``operator`` at this very dispatch key."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"ttune::{operator}", key)


def native_function(module: str, function: str) -> Any:
    """A plain C function of a loaded module, called without handing the interpreter to other threads; None where there is none."""
    return None if module in LOAD_ERRORS else _found(_FOLDER / f"{module}.so", function)


def description(module: str, function: str) -> str:
    """What a loaded module says of itself, by a plain C function of its own; "" for one that is not loaded."""
    describe = native_function(module, function)
    if describe is None:
        return ""
    describe.restype = ctypes.c_char_p
    return describe().decode()


# Asked at every choice of a backend, where the answer took .2 of the .4 ms that a choice cost.
@cache
def _found(path: Path, function: str) -> Any:
    return getattr(ctypes.PyDLL(str(path)), function, None)
