"""The native kernels on small tensors of the CPU, called past PyTorch's dispatcher.

For an operator of the stable ABI the dispatcher wraps every tensor anew: 2 of the 2.8 us that an update of 3,072 numbers takes. A loop that
knows its tensors spares that. :func:`allowed` says whether anything would see the operator's call, which must then be made.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import cache
from struct import Struct
from typing import Any

import torch
from torch import Tensor

from ttune.kernels.autograd_bypass import transformed
from ttune.kernels.backend import is_native
from ttune.kernels.library import native_function
from ttune.kernels.tensors import DTYPES

MOST = 32768  # elements: of more the operator gives parts to several threads
Update = Callable[[int, int, int, Sequence[Tensor], Sequence[Tensor]], None]
_ADDRESS = Tensor.data_ptr


def allowed(x: Tensor) -> bool:
    """Whether kernels may be called so on tensors like ``x``: a small plain one, no backend chosen but the native one, and no mode,
    transformation, profiler or compiler that sees operators."""
    return (
        _small(x)
        and is_native("linear_update_", "CPU")
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
        and not torch.autograd._profiler_enabled()  # pyright: ignore[reportPrivateImportUsage]
        and not torch.compiler.is_compiling()
    )


def _small(x: Tensor) -> bool:
    return type(x) is Tensor and plain(x) and x.dtype in DTYPES and 0 < x.numel() <= MOST and not transformed()


def plain(x: Tensor) -> bool:
    """Whether the elements of ``x`` lie row-major in the memory of the CPU, as they are."""
    return x.is_cpu and x.layout is torch.strided and x.is_contiguous() and not x.is_neg()


def bound_update(coeffs: Tensor, terms: int, clip: float | None, dtype: torch.dtype, draw: int | None) -> Update | None:
    """:func:`ttune.ops.linear_update_` with these numbers on plain tensors, as a function of (elements, elements of a sample, address of
    the seeds, outputs, terms), which checks nothing. None where there is no native kernel.

    ``coeffs`` (R, C) as there, for so many ``terms``; ``draw``: the number of the noise, None without.
    """
    call = _native("ttune_linear_update", None, ctypes.c_char_p, ctypes.c_char_p)
    if call is None or dtype not in DTYPES or coeffs.device.type != "cpu":
        return None
    outs, columns = coeffs.shape
    assert columns == terms + (clip is not None) + (draw is not None)
    kind = DTYPES.index(dtype), terms, outs, clip is not None, draw is not None, clip or 0.0, draw or 0
    constants = Struct(f"=5qdq{outs * columns}d").pack(*kind, *coeffs.double().flatten().tolist())
    pack = Struct(f"={3 + outs + terms}Q").pack

    def update(elements: int, sample_size: int, seeds: int, outs: Sequence[Tensor], terms: Sequence[Tensor]) -> None:
        call(constants, pack(elements, sample_size, seeds, *map(_ADDRESS, outs), *map(_ADDRESS, terms)))

    return update


def all_finite(x: Tensor) -> bool:
    """Whether no element of ``x`` is infinite or NaN."""
    find = _native("ttune_all_finite", ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    if find is not None and _small(x):
        return bool(find(DTYPES.index(x.dtype), x.data_ptr(), x.numel()))
    # A sum is not finite where an element is not, and takes a third of the time of looking at each.
    return math.isfinite(x.sum().item()) or bool(torch.isfinite(x).all())


@cache
def _native(name: str, result: Any, *arguments: Any) -> Any:
    """The C function of this name; None in a module that was built before there was one."""
    function = native_function("_ops_cpu", name)
    if function is not None:
        function.restype, function.argtypes = result, arguments
    return function
