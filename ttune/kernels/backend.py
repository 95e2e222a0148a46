"""Which implementation runs: the list of backends, whether each may run here and why not, and the choice between them.

PyTorch's dispatcher prefers native kernels to the reference by itself (library.py). Choosing another backend overrides
their dispatch keys for as long as the choice lasts.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ttune.kernels import triton as triton_kernels
from ttune.kernels.library import LOAD_ERRORS, NATIVE, REFERENCES, description, has_kernel, load_modules
from ttune.messages.names import must_be_one_of


def load_native() -> None:
    """Load the native modules; :func:`backends` says why one does not serve."""
    load_modules()
    _CHOICE.switch(None)
    if "_ops_cuda" not in LOAD_ERRORS:
        # Asking for the GPU now would start CUDA in every process that imports ttune, before it may fork.
        torch.cuda._lazy_call(_leave_unknown_gpus)


# ------------------------------------------------------------------------------------------------- may it run, and why not


@cache
def _on_path(programs: tuple[str, ...], path: str | None) -> bool:
    return any(shutil.which(program, path=path) for program in programs)


def _why_not_cpu() -> str:
    return LOAD_ERRORS.get("_ops_cpu", "")


def _why_not_cuda() -> str:
    if reason := LOAD_ERRORS.get("_ops_cuda", "") or _why_no_device():
        return reason
    built = description("_ops_cuda", "ttune_cuda_architectures")
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
        LOAD_ERRORS["_ops_cuda"] = reason
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


# ------------------------------------------------------------------------------------------------------------- backends


@dataclass(frozen=True)
class Backend:
    """``why_not``: "" where it may run, else the reason. ``operators``: those that it implements. ``dispatch_keys``: the
    keys of the tensors that it serves. ``kernel``: its Python kernel for an operator, None for a native module, which
    registers itself. ``detail``: one line for ``ttune info``."""

    why_not: Callable[[], str]
    operators: Callable[[], list[str]]
    dispatch_keys: Callable[[], tuple[str, ...]]
    kernel: Callable[[str], Callable[..., Any]] | None
    detail: Callable[[], str]


# In the order of preference for a tensor that several of them could serve.
_BACKENDS = {
    "cuda": Backend(
        _why_not_cuda,
        lambda: NATIVE["CUDA"],
        lambda: ("CUDA",),
        None,
        lambda: description("_ops_cuda", "ttune_cuda_architectures"),
    ),
    "triton": Backend(
        _why_not_triton,
        lambda: list(triton_kernels.MODULES),
        lambda: ("CPU", "CUDA") if _interpreted() else ("CUDA",),
        triton_kernels.kernel,
        lambda: "interpreted on the CPU" if _interpreted() else f"triton {triton_kernels.version()}",
    ),
    "cpu": Backend(_why_not_cpu, lambda: NATIVE["CPU"], lambda: ("CPU",), None, lambda: description("_ops_cpu", "ttune_simd_level")),
    "reference": Backend(lambda: "", lambda: list(REFERENCES), lambda: ("CPU", "CUDA"), REFERENCES.__getitem__, lambda: "plain PyTorch"),
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


# ----------------------------------------------------------------------------------------------------------- the choice


Place = tuple[str, str]  # operator, dispatch key


@dataclass(frozen=True, eq=False)
class _Block:
    """A block of :func:`use_backend`, and the thread that began it."""

    name: str
    thread: int


class _BackendChoice:
    """The process-wide choice: PyTorch has one table of kernels, so this cannot be a choice per thread.

    A kernel written in Python is reached by a forwarder in that table, which asks for the choice at every call. PyTorch frees a kernel
    that it takes out of the table while another thread may be about to call it, and what then lies in its place is called instead
    (measured: once in 7,000 calls of four threads beside a fifth that switched all the time, another operator's kernel among them). So
    forwarders stay for as long as there are other threads, and go, with the 2.5 us of a call that they cost, where there are none.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.lock = threading.RLock()
        self._blocks: list[_Block] = []  # of all threads, begun and not ended, in the order of their beginning
        self.kernels: dict[Place, Callable[..., Any]] = {}  # never changed, only replaced: threads read it meanwhile
        self._forwarded: set[Place] = set()
        self._forwarders: torch.library.Library | None = None

    def enter(self, name: str) -> _Block:
        """Choose ``name`` until :meth:`leave` is called with the block that this returns."""
        block = _Block(name, threading.get_ident())
        with self.lock:
            self.switch(name)
            self._blocks.append(block)
        return block

    def leave(self, block: _Block) -> None:
        """The latest choice among those not yet left holds: blocks of several threads end in any order."""
        with self.lock:
            self._keep([other for other in self._blocks if other is not block])

    def renew(self) -> None:
        """The same choice, where what there is to choose from has changed."""
        with self.lock:
            self.switch(self.name)

    def after_fork_in_child(self) -> None:
        """The thread that forked, which held the lock meanwhile, is the only one here: blocks of other threads will not end."""
        self.lock.release()
        mine = [block for block in self._blocks if block.thread == threading.get_ident()]
        if len(mine) < len(self._blocks):
            self._keep(mine)

    def _keep(self, blocks: list[_Block]) -> None:
        self._blocks = blocks
        self.switch(blocks[-1].name if blocks else None)

    def switch(self, name: str | None) -> None:
        """Make ``name`` the choice, None the order of preference."""
        kernels = self._wanted(name)
        if not kernels and self._forwarders is not None and threading.active_count() == 1:
            self._forwarders._destroy()  # gives every key back to the kernel that had it
            self._forwarders, self._forwarded = None, set()
        for place in sorted(kernels.keys() - self._forwarded):
            self._forward(place)
        self.kernels = kernels
        self.name = name

    def _forward(self, place: Place) -> None:
        operator, key = place
        native = _native_kernel(place)

        def forward(*arguments: Any) -> Any:
            return self.kernels.get(place, native)(*arguments)

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
        native = "_ops_cuda" not in LOAD_ERRORS
        if native or _interpreted() or torch.version.cuda is None or importlib.util.find_spec("triton") is None:
            return {}
        return {(operator, "CUDA"): triton_kernels.kernel(operator) for operator in triton_kernels.MODULES}


def is_native(operator: str, key: str) -> bool:
    """Whether tensors of this dispatch key go to the native kernel of ``operator`` now."""
    return operator in NATIVE.get(key, ()) and (operator, key) not in _CHOICE.kernels


def _native_kernel(place: Place) -> Callable[..., Any]:
    """What serves ``place`` without a forwarder."""
    operator, key = place
    if not has_kernel(operator, key):
        return REFERENCES[operator]
    kernel = torch.library.get_kernel(f"ttune::{operator}", key)
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))
    return lambda *arguments: kernel.call_boxed(keys, *arguments)


_CHOICE = _BackendChoice()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_CHOICE.lock.acquire, after_in_parent=_CHOICE.lock.release, after_in_child=_CHOICE.after_fork_in_child)


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
    block = _CHOICE.enter(name)
    try:
        yield
    finally:
        _CHOICE.leave(block)
