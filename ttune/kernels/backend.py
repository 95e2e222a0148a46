"""Which implementation runs: the operators' library, the list of backends, and the choice between them.

An operator is defined once, in Python, with its reference (:func:`define`). Native modules implement it for a dispatch
key, and PyTorch's dispatcher then prefers them to the reference by itself: a call costs no Python beyond the operator.
Choosing another backend overrides those keys for as long as the choice lasts.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ttune.kernels import triton as triton_kernels
from ttune.messages.names import must_be_one_of

LIBRARY = torch.library.Library("ttune", "FRAGMENT")  # holds the schemas; dropping it would undefine the operators
_REFERENCES: dict[str, Callable[..., Any]] = {}
_LOAD_ERRORS: dict[str, str] = {}  # native module -> why it did not load
_NATIVE: dict[str, list[str]] = {}  # dispatch key -> operators with a native kernel

_FOLDER = Path(__file__).resolve().parent.parent / "lib"


def define(name: str, schema: str, reference: Callable[..., Any]) -> None:
    """Define ``torch.ops.ttune.<name>`` with ``schema`` and its reference, which serves every device that has no kernel."""
    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    _REFERENCES[name] = reference


def load_native() -> None:
    """Load the native modules that this installation has and this torch can use. What does not load is not an error:
    another backend does its work, and :func:`backends` says why."""
    for module in ("_ops_cpu", "_ops_cuda"):
        path = _FOLDER / f"{module}.so"
        if module == "_ops_cuda" and torch.version.cuda is None:
            _LOAD_ERRORS[module] = f"this torch ({torch.__version__}) has no CUDA"
        elif not path.exists():
            _LOAD_ERRORS[module] = f"not built: {module}.so is not in ttune/lib ({_NOT_BUILT[module]})"
        else:
            try:
                torch.ops.load_library(path)
            except OSError as error:
                _LOAD_ERRORS[module] = f"{module}.so does not load: {error}"
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    for key in ("CPU", "CUDA"):
        _NATIVE[key] = [name for name in _REFERENCES if has_kernel(f"ttune::{name}", key)]
    _CHOICE.switch(None)
    if "_ops_cuda" not in _LOAD_ERRORS:
        # Asking for the GPU now would start CUDA in every process that imports ttune, before it may fork.
        torch.cuda._lazy_call(_leave_unknown_gpus)


_NOT_BUILT = {
    "_ops_cpu": "installed with TTUNE_SKIP_BUILD=1, or without building",
    "_ops_cuda": "no nvcc was found at installation, or it was switched off",
}


def _describe_native(module: str, function: str) -> str:
    """What a loaded module says of itself, by a plain C function of its own."""
    return "" if module in _LOAD_ERRORS else _said_by(_FOLDER / f"{module}.so", function)


# Asked at every choice of a backend, where the answers below took .2 of the .4 ms that a choice cost.
@cache
def _said_by(library: Path, function: str) -> str:
    describe = ctypes.CDLL(str(library))[function]
    describe.restype = ctypes.c_char_p
    return describe().decode()


@cache
def _on_path(programs: tuple[str, ...], path: str | None) -> bool:
    return any(shutil.which(program, path=path) for program in programs)


def _why_not_cpu() -> str:
    return _LOAD_ERRORS.get("_ops_cpu", "")


def _why_not_cuda() -> str:
    if reason := _LOAD_ERRORS.get("_ops_cuda", "") or _why_no_device():
        return reason
    built = _describe_native("_ops_cuda", "ttune_cuda_architectures")
    for device in range(torch.cuda.device_count()):
        here = torch.cuda.get_device_capability(device)
        if not any(_runs_on(code, here) for code in built.split(", ")):
            return f"built for {built}, GPU {device} is sm_{here[0]}{here[1]}: set TTUNE_CUDA_ARCHITECTURES and install again"
    return ""


def _runs_on(code: str, here: tuple[int, int]) -> bool:
    """Whether a GPU of capability ``here`` runs ``code``: "sm_90" is machine code, for its own major version from its minor on;
    "compute_90" is PTX, which later GPUs compile. A letter behind it ("sm_90a") binds either to that very GPU."""
    kind, _, number = code.partition("_")
    if not number[-1].isdigit():
        return divmod(int(number[:-1]), 10) == here
    major, minor = divmod(int(number), 10)
    return here >= (major, minor) and (kind == "compute" or here[0] == major)


def _leave_unknown_gpus() -> None:
    """Once CUDA has started: a module without code for a GPU of this machine leaves them to the next backend."""
    if reason := _why_not_cuda():
        _LOAD_ERRORS["_ops_cuda"] = reason
        _CHOICE.renew()


def _why_no_device() -> str:
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) has no CUDA"
    return "" if torch.cuda.is_available() else "torch finds no CUDA device"


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _why_not_triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install ttune[triton]"
    if _interpreted():
        return ""
    if not os.environ.get("CC") and not _on_path(("gcc", "clang"), os.environ.get("PATH")):
        return "triton needs a C compiler for its launchers, and found neither gcc nor clang; CC names another"
    reason = _why_no_device()
    return reason and f"{reason} (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests)"


@dataclass(frozen=True)
class Backend:
    """``why_not``: "" where it may run, else the reason. ``operators``: those that it implements. ``dispatch_keys``: the
    keys of the tensors that it serves. ``kernel``: its Python kernel for an operator, None for a native module, which
    registers itself. ``detail``: one line for ``ttune info``."""

    name: str
    why_not: Callable[[], str]
    operators: Callable[[], list[str]]
    dispatch_keys: Callable[[], tuple[str, ...]]
    kernel: Callable[[str], Callable[..., Any]] | None
    detail: Callable[[], str]


# In the order of preference for a tensor that several of them could serve.
_BACKENDS = {
    backend.name: backend
    for backend in (
        Backend(
            "cuda",
            _why_not_cuda,
            lambda: _NATIVE["CUDA"],
            lambda: ("CUDA",),
            None,
            lambda: _describe_native("_ops_cuda", "ttune_cuda_architectures"),
        ),
        Backend(
            "triton",
            _why_not_triton,
            lambda: list(triton_kernels.MODULES),
            lambda: ("CPU", "CUDA") if _interpreted() else ("CUDA",),
            triton_kernels.kernel,
            lambda: "interpreted on the CPU" if _interpreted() else f"triton {triton_kernels.version()}",
        ),
        Backend(
            "cpu",
            _why_not_cpu,
            lambda: _NATIVE["CPU"],
            lambda: ("CPU",),
            None,
            lambda: _describe_native("_ops_cpu", "ttune_simd_level"),
        ),
        Backend(
            "reference", lambda: "", lambda: list(_REFERENCES), lambda: ("CPU", "CUDA"), _REFERENCES.__getitem__, lambda: "plain PyTorch"
        ),
    )
}


def backends() -> dict[str, dict[str, Any]]:
    """Every backend by name, in the order of preference: {"available": bool, "reason": why not ("" if available),
    "operators": list of names, "detail": instruction set, architectures or version}."""
    report = {}
    for name, backend in _BACKENDS.items():
        reason = backend.why_not()
        report[name] = {
            "available": not reason,
            "reason": reason,
            "operators": [] if reason else backend.operators(),
            "detail": "" if reason else backend.detail(),
        }
    return report


Place = tuple[str, str]  # operator, dispatch key


@dataclass(frozen=True)
class _Block:
    """A block of :func:`use_backend`, and the thread that began it."""

    token: object
    name: str
    thread: int


class _BackendChoice:
    """The process-wide choice: PyTorch has one table of kernels, so this cannot be a choice per thread.

    A kernel written in Python is reached by a forwarder in that table, which asks for the choice at every call. PyTorch frees a kernel
    that it takes out of the table while another thread may be about to call it, and what then lies in its place is called instead
    (measured: once in 7,000 calls of four threads beside a fifth that switched all the time, another operator's kernel among them). So
    forwarders stay for as long as there are other threads, and go, with the microseconds that they cost, where there are none.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._lock = threading.RLock()
        self._entered: list[_Block] = []  # blocks of all threads that have begun and not ended, in the order of their beginning
        self._kernels: dict[Place, Callable[..., Any]] = {}  # never changed, only replaced: threads read it meanwhile
        self._forwarded: set[Place] = set()
        self._forwarders: torch.library.Library | None = None

    def enter(self, name: str) -> object:
        """Choose ``name`` until :meth:`leave` is called with what this returns."""
        token = object()
        with self._lock:
            self.switch(name)
            self._entered.append(_Block(token, name, threading.get_ident()))
        return token

    def leave(self, token: object) -> None:
        """The latest choice among those not yet left holds: blocks of several threads end in any order."""
        with self._lock:
            self._entered = [entry for entry in self._entered if entry.token is not token]
            self._switch_to_latest()

    def renew(self) -> None:
        """The same choice, where what there is to choose from has changed."""
        with self._lock:
            self.switch(self.name)

    def before_fork(self) -> None:
        """No other thread is at work here while the process is copied."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """The one thread there has a lock that is free, and the blocks of the others, which nobody will leave, are left."""
        self._lock = threading.RLock()
        mine = [entry for entry in self._entered if entry.thread == threading.get_ident()]
        if len(mine) < len(self._entered):
            self._entered = mine
            self._switch_to_latest()

    def _switch_to_latest(self) -> None:
        self.switch(self._entered[-1].name if self._entered else None)

    def switch(self, name: str | None) -> None:
        kernels = self._wanted(name)
        if not kernels and self._forwarders is not None and threading.active_count() == 1:
            self._forwarders._destroy()  # gives every key back to the kernel that had it
            self._forwarders, self._forwarded = None, set()
        for place in sorted(kernels.keys() - self._forwarded):
            self._forward(place)
        self._kernels = kernels
        self.name = name

    def _forward(self, place: Place) -> None:
        operator, key = place
        native = _native_kernel(place)

        def forward(*arguments: Any) -> Any:
            return self._kernels.get(place, native)(*arguments)

        if self._forwarders is None:
            self._forwarders = torch.library.Library("ttune", "IMPL")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Warning only once for all operators")  # overriding a kernel is the purpose
            self._forwarders.impl(operator, forward, key)
        self._forwarded.add(place)

    def _wanted(self, name: str | None) -> dict[Place, Callable[..., Any]]:
        """The kernels written in Python that the choice ``name`` means, by where they serve."""
        chosen = _BACKENDS.get(name or "")
        if chosen is not None and chosen.kernel is not None:
            return {(operator, key): chosen.kernel(operator) for operator in chosen.operators() for key in chosen.dispatch_keys()}
        # Without a native module for the GPU, Triton is the next in the order there.
        # Without asking for a device: that would start CUDA in every process that imports ttune, before it may fork.
        native = "_ops_cuda" not in _LOAD_ERRORS
        if native or _interpreted() or torch.version.cuda is None or importlib.util.find_spec("triton") is None:
            return {}
        return {(operator, "CUDA"): triton_kernels.kernel(operator) for operator in triton_kernels.MODULES}


def _native_kernel(place: Place) -> Callable[..., Any]:
    """What serves ``place`` without a forwarder."""
    operator, key = place
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"ttune::{operator}", key):
        return _REFERENCES[operator]
    kernel = torch.library.get_kernel(f"ttune::{operator}", key)
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))
    return lambda *arguments: kernel.call_boxed(keys, *arguments)


_CHOICE = _BackendChoice()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(
        before=_CHOICE.before_fork, after_in_parent=_CHOICE.after_fork_in_parent, after_in_child=_CHOICE.after_fork_in_child
    )


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the operators on the backend ``name`` within a ``with`` block, in the whole process; blocks nest. Of blocks in several threads
    the one that began last holds for all of them, and none is left over when all have ended. Threads may compute meanwhile: a call is
    made by what was chosen before or by what is chosen now.

    A backend serves the tensors of its own device; other tensors go where they would go without it. Graphs made by
    torch.compile follow the choice without being compiled again.
    ValueError: a name that is not a backend. RuntimeError: one that cannot run here, with the reason.
    """
    must_be_one_of("backend", name, sorted(_BACKENDS))
    if reason := _BACKENDS[name].why_not():
        raise RuntimeError(f"backend must be available, got {name!r}: {reason}")
    token = _CHOICE.enter(name)
    try:
        yield
    finally:
        _CHOICE.leave(token)
