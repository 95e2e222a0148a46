"""What tells starting points apart: a digest of x_T and of every condition, whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor, uint8

from ttune.denoiser import Conditions


def point_digest(x_T: Tensor, conditions: Conditions) -> str:
    """SHA-256 of x_T (b, ...) and the conditions: tensors and arrays by dtype, shape and bytes, also in mappings, lists and tuples;
    anything else by its ``repr``. An object whose ``repr`` is its address is thus another one in every process."""
    total = hashlib.sha256()
    for part in (*_parts(x_T), *_parts(conditions)):
        total.update(part)
    return total.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        held = value.detach().cpu().contiguous()  # bfloat16 is unknown to NumPy, its bytes are not
        yield f"tensor {held.dtype} {tuple(held.shape)} ".encode() + held.reshape(-1).view(uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"array {value.dtype} {value.shape} ".encode() + value.tobytes()
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)} ".encode()
        for key in sorted(value, key=repr):
            yield f"{key!r} ".encode()
            yield from _parts(value[key])
    elif isinstance(value, (list, tuple)):
        yield f"{type(value).__name__} {len(value)} ".encode()
        for each in value:
            yield from _parts(each)
    else:
        yield f"{value!r} ".encode()
