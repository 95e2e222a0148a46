"""How many samples at a time the memory holds: half as many after every time that it did not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")

# How those say it that raise a plain RuntimeError: the machine's allocator, cuBLAS and cuDNN for their work space, Metal.
_SAID = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)


@dataclass
class Batches:
    """Remembers for later calls how many samples went through; None while all that were asked for did. ``of``: of what, for the message,
    and ``smaller``: what would spare the attempt."""

    of: str
    most: int | None = None
    smaller: str = "a smaller chunk (--batch-size)"

    def through(self, call: Callable[[slice | None], T], n: int, join: Callable[[Sequence[T]], T]) -> T:
        """``call(None)`` for all of ``n`` samples at once, or the join of ``call(rows)`` for as many at a time as the memory holds.

        What ``call`` returns must belong to its samples alone. It is said once per halving, as a RuntimeWarning. Where not even one
        sample goes through, the error is that of the last attempt.
        """
        while True:
            size = n if self.most is None else min(self.most, n)
            try:
                if size == n:
                    return call(None)
                return join([call(slice(i, min(i + size, n))) for i in range(0, n, size)])
            except RuntimeError as error:
                if size <= 1 or not is_out_of_memory(error):
                    raise
            # Out here the error is gone, and with its traceback the tensors of the attempt.
            self.halve(size)

    def halve(self, size: int) -> None:
        """From now on half of ``size`` at a time, which the memory did not hold."""
        self.most = -(-size // 2)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        warnings.warn(
            f"out of memory with {size} samples in {self.of}: going on with {self.most} at a time; {self.smaller} would spare the attempt",
            RuntimeWarning,
            stacklevel=2,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Of a device, or of the machine and of libraries on a device, for which torch has no error of its own."""
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID))
