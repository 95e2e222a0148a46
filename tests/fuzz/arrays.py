"""``ttune.numpy``: bit for bit what the operators make of the same tensors on the CPU, or both refuse; negative strides besides."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.fuzz.corpus import Case, cases
from tests.fuzz.operators import BOUNDS, NAMES, Call, check_alike, embeddings, losses, products, read_call, updates
from tests.fuzz.target import Target
from ttune import ops


@dataclass(frozen=True)
class Twin:
    """A call for tensors, and which of its arrays are given to NumPy back to front (as a view that reads them forwards)."""

    call: Call
    reversed_: int


def _array(value: Any, turned: bool) -> Any:
    if isinstance(value, list):
        return [_array(inner, turned) for inner in value]
    if not isinstance(value, Tensor):
        return value
    if value.dtype == torch.bfloat16:
        import ml_dtypes

        array = value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    else:
        array = value.numpy()
    return np.ascontiguousarray(array[..., ::-1])[..., ::-1] if turned and array.ndim else array


def check(twin: Twin) -> bool:
    from ttune import numpy as tnp

    call = twin.call
    theirs, ours = call.made(), call.made()
    arrays = {name: _array(value, bool(twin.reversed_ >> i & 1) and name != "outs") for i, (name, value) in enumerate(ours.items())}
    native = _result(getattr(ops, call.name), theirs)
    result = _result(getattr(tnp, call.name), arrays)
    if isinstance(native, Exception) or isinstance(result, Exception):
        assert isinstance(result, Exception), f"torch's refuses ({native!r}), NumPy's does not"
        assert isinstance(native, Exception), f"NumPy's refuses ({result!r}), torch's does not"
        assert isinstance(result, ValueError | TypeError | OverflowError), repr(result)
        assert re.search(NAMES, str(result)), f"names no argument: {result}"
        return False
    if twin.reversed_ and call.name in ("inner_products", "trajectory_loss"):  # sums in another order
        for array, tensor, bound in zip(result, native, BOUNDS[call.name](call.made()), strict=True):
            check_alike(torch.from_numpy(array), tensor, bound)
        return True
    for array, tensor in zip(result, native, strict=True):
        assert array.shape == tuple(tensor.shape)
        assert str(array.dtype) == str(tensor.dtype).removeprefix("torch.")
        assert np.array_equal(array.astype(np.float64), tensor.double().numpy(), equal_nan=True)
    return True


def _result(function: Any, values: dict[str, Any]) -> list[Any] | Exception:
    try:
        result = function(**values)
    except Exception as error:
        return error
    if "outs" in values:
        return values["outs"]
    return result if isinstance(result, list) else [result]


def _simple(call: Call) -> bool:
    """Whether both have a meaning for it: an alias by overlapping views is torch's own affair, and so is a gradient."""
    return not call.aliases and not call.asking


_calls = st.one_of(updates().filter(_simple), updates().filter(_simple), losses(), embeddings(), products())


def _twin(file: Path) -> Twin:
    return Twin(read_call(file), 0x55)  # the first argument back to front, the second not, and so on


def _cases() -> tuple[Case, ...]:
    """The operators' own, which both have a meaning for."""
    kinds = ("updates", "losses", "embeddings", "products")
    return tuple(case for kind in kinds for case in cases(kind, _twin) if _simple(_twin(case.path).call))


ARRAYS = Target("ttune.numpy", st.builds(Twin, _calls, st.integers(0, 255)), check, 8, _cases)
