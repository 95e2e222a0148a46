"""Which implementation runs: the operators' library, the list of backends, and the choice between them.

An operator is defined once, in Python, with its reference (:func:`define`). Native modules implement it for a dispatch
key; PyTorch's dispatcher then prefers them to the reference by itself. Choosing "reference" overrides those keys with
the reference for as long as the choice lasts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

LIBRARY = torch.library.Library("ttune", "FRAGMENT")  # holds the schemas; dropping it would undefine the operators
_REFERENCES: dict[str, Callable[..., Any]] = {}
_LOAD_ERRORS: dict[str, str] = {}  # native module -> why it did not load

_FOLDER = Path(__file__).resolve().parent.parent / "lib"


def define(name: str, schema: str, reference: Callable[..., Any]) -> None:
    """Define ``torch.ops.ttune.<name>`` with ``schema`` and its reference, which serves every device that has no kernel."""
    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    _REFERENCES[name] = reference


def load_native() -> None:
    """Load the native modules that this installation has. What does not load is not an error: the reference does its
    work, and :func:`backends` says why."""
    for module in ("_ops_cpu",):
        path = _FOLDER / f"{module}.so"
        if not path.exists():
            _LOAD_ERRORS[module] = f"not built: {module}.so is not in ttune/lib (installed with TTUNE_SKIP_BUILD=1, or without building)"
            continue
        try:
            torch.ops.load_library(path)
        except OSError as error:
            _LOAD_ERRORS[module] = f"{module}.so does not load: {error}"


def _why_not_cpu() -> str:
    return _LOAD_ERRORS.get("_ops_cpu", "")


def _why_not_cuda() -> str:
    if torch.version.cuda is None:
        return f"not part of this build, and this torch ({torch.__version__}) has no CUDA"
    return "not part of this build"


@dataclass(frozen=True)
class Backend:
    """``key``: the dispatch key of its kernels. ``why_not``: "" where it may run, else the reason."""

    name: str
    key: str
    why_not: Callable[[], str]

    def operators(self) -> list[str]:
        """The operators that this backend implements now."""
        if self.why_not():
            return []
        has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
        return [name for name in _REFERENCES if has_kernel(f"ttune::{name}", self.key)]


_BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("reference", "CompositeExplicitAutograd", lambda: ""),
        Backend("cpu", "CPU", _why_not_cpu),
        Backend("cuda", "CUDA", _why_not_cuda),
        Backend("triton", "CUDA", lambda: "not part of this build"),
    )
}
_KERNEL_KEYS = ("CPU", "CUDA")


def backends() -> dict[str, dict[str, Any]]:
    """Every backend by name: {"available": bool, "reason": why not ("" if available), "operators": list of names}."""
    return {
        name: {"available": not backend.why_not(), "reason": backend.why_not(), "operators": backend.operators()}
        for name, backend in _BACKENDS.items()
    }


class _Choice:
    """The process-wide choice: PyTorch has one table of kernels, so this cannot be a choice per thread."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._override: torch.library.Library | None = None

    def switch(self, name: str | None) -> None:
        if name == "reference" and self._override is None:
            self._override = torch.library.Library("ttune", "IMPL")
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Warning only once for all operators")  # overriding a kernel is the purpose
                for operator, reference in _REFERENCES.items():
                    for key in _KERNEL_KEYS:
                        self._override.impl(operator, reference, key)
        elif name != "reference" and self._override is not None:
            self._override._destroy()  # gives every key back to the kernel that had it
            self._override = None
        self.name = name


_CHOICE = _Choice()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the operators on the backend ``name`` within a ``with`` block, in the whole process; blocks nest.

    A backend serves the tensors of its own device; other tensors go where they would go without it. Graphs made by
    torch.compile follow the choice without being compiled again.
    ValueError: a name that is not a backend. RuntimeError: one that cannot run here, with the reason.
    """
    if name not in _BACKENDS:
        raise ValueError(f"backend must be one of {sorted(_BACKENDS)}, got {name!r}")
    if reason := _BACKENDS[name].why_not():
        raise RuntimeError(f"backend must be available, got {name!r}: {reason}")
    previous = _CHOICE.name
    _CHOICE.switch(name)
    try:
        yield
    finally:
        _CHOICE.switch(previous)
