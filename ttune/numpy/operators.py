"""The operators on NumPy arrays: checks and loops are native, see csrc/numpy.

Each has the arguments, meaning and rules of the operator of its name in ``ttune.ops``, whose docstring describes them. The
docstrings here say what a call is and where arrays differ.
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

try:
    _native: Any = importlib.import_module("ttune.lib._numpy")
except ImportError as error:
    raise ImportError(
        f"ttune.numpy needs its native module, which does not load ({error}): install ttune for this version of Python with a "
        f"C++ compiler, without TTUNE_SKIP_BUILD, and with pybind11 >= 3 beside it (pip install 'pybind11>=3')"
    ) from error

Array = NDArray[Any]


def linear_update(terms: Sequence[Array], coeffs: ArrayLike, step: SupportsIndex | None = None, clip: float | None = None) -> list[Array]:
    """Linear combinations of arrays in one pass over memory: :func:`ttune.ops.linear_update`.

    ``terms``: N >= 1 arrays of one shape and dtype. ``coeffs``: (R, C), or a table (K, R, C) with ``step`` in [0, K): float32
    or float64; nested lists are read as float64. ``clip`` clamps row 0, which later rows may use by the last column.

    Returns R arrays with the strides of ``numpy.empty_like(terms[0])``.
    ValueError (TypeError for what is no array or no integer) names the argument, the rule and the value received.
    """
    return _native.linear_update(list(terms), _as_coeffs(coeffs), step, clip)


def linear_update_(
    outs: Sequence[Array],
    terms: Sequence[Array],
    coeffs: ArrayLike,
    step: SupportsIndex | None = None,
    clip: float | None = None,
    seeds: Array | Sequence[int] | None = None,
    draw: SupportsIndex = 0,
) -> None:
    """:func:`linear_update` into existing arrays, optionally with Gaussian noise: :func:`ttune.ops.linear_update_`.

    ``outs``: R writable arrays like the terms; one may be a term itself. ``seeds``: (B,) int64, one per sample along the
    leading dimension. The last column of ``coeffs`` then multiplies the noise :func:`philox_normal` of ``draw``.
    """
    _native.linear_update_(list(outs), list(terms), _as_coeffs(coeffs), step, clip, None if seeds is None else _as_seeds(seeds), draw)


def philox_normal(
    sample_shape: Sequence[int], seeds: Array | Sequence[int], draw: SupportsIndex = 0, dtype: DTypeLike = np.float32
) -> Array:
    """Unit Gaussian noise of shape (B, *sample_shape), one int64 seed per sample: :func:`ttune.ops.philox_normal` on the CPU.

    Element i of a sample depends on (its seed, ``draw``, i) only. ``dtype``: float64 (float64 arithmetic), float32, or
    float16 and bfloat16 (made in float32, then rounded).
    TypeError: seeds or draw that are not integers. ValueError: seeds that are not one-dimensional.
    """
    seeds = _as_seeds(seeds)
    if seeds.dtype != np.int64:
        raise TypeError(f"seeds must be int64, got {seeds.dtype}")
    if seeds.ndim != 1:
        raise ValueError(f"seeds must be one-dimensional, one per sample, got shape {seeds.shape}")
    out = np.empty((seeds.shape[0], *sample_shape), dtype)
    _native.linear_update_([out], [], np.ones((1, 1)), None, None, seeds, draw)
    return out


def timestep_embedding(
    t: ArrayLike,
    dim: int,
    max_period: float = 10000.0,
    flip_sin_to_cos: bool = False,
    downscale_freq_shift: float = 1.0,
    scale: float = 1.0,
) -> Array:
    """Sinusoidal embedding of times, fractional ones too: :func:`ttune.ops.timestep_embedding`.

    ``t``: times of any shape in the network's own unit: float64, float32, float16, bfloat16, a signed integer dtype or uint8;
    numbers and lists are read as NumPy reads them. ``dim`` >= 1 columns; an odd number of them ends with one of zeros.

    Returns (*t.shape, dim), float64 if ``t`` is float64 and float32 otherwise. ValueError names the argument, the rule and
    the value received.
    """
    return _native.timestep_embedding(np.asarray(t), dim, max_period, flip_sin_to_cos, downscale_freq_shift, scale)


def embedding_lookup(table: Array, t: ArrayLike) -> Array:
    """Row ``t`` of a table, between rows their linear interpolation: :func:`ttune.ops.embedding_lookup`.

    ``table``: (n, *row), n >= 1. ``t``: times of any shape, clamped to [0, n - 1], as for :func:`timestep_embedding`.
    Returns (*t.shape, *row) in the table's dtype. ValueError names the argument, the rule and the value received.
    """
    return _native.embedding_lookup(_as_array("table", table), np.asarray(t))


def trajectory_loss(
    terms: Sequence[Array],
    coeffs: ArrayLike,
    target: Array,
    step: SupportsIndex | None = None,
    clip: float | None = None,
    weight: Array | None = None,
    kind: str = "l2",
    delta: float = 1.0,
) -> Array:
    """Loss of each sample between an update and a target, without storing the update: :func:`ttune.ops.trajectory_loss`.

    ``terms``, ``coeffs``, ``step``, ``clip``: as for :func:`linear_update`, with a leading batch dimension B; the last row of
    ``coeffs`` is the update that is compared. ``target``: the terms' shape and dtype. ``weight``: (B,) or the terms' shape, in
    the output's dtype. ``kind``: "l2", "l1" or "huber" with its ``delta`` > 0.

    Returns (B,) sums over the samples' elements: float64 for float64 arrays, else float32. ValueError names the argument,
    the rule and the value received.
    """
    return _loss(False, terms, coeffs, target, step, clip, weight, kind, delta)


def trajectory_loss_gradient(
    terms: Sequence[Array],
    coeffs: ArrayLike,
    target: Array,
    step: SupportsIndex | None = None,
    clip: float | None = None,
    weight: Array | None = None,
    kind: str = "l2",
    delta: float = 1.0,
) -> tuple[Array, Array]:
    """:func:`trajectory_loss` and, from the same pass, its gradient in the update: (loss, gradient), the gradient in the
    terms' shape and dtype. The slope of "l1" at 0 is 0."""
    return _loss(True, terms, coeffs, target, step, clip, weight, kind, delta)


def inner_products(a: Sequence[Array], b: Sequence[Array]) -> Array:
    """Every inner product, over all elements, of one list of arrays with another: :func:`ttune.ops.inner_products`.

    ``a``, ``b``: at least one array each, all of one shape and dtype; an array may be in both. Returns (len(a), len(b)):
    float64 for float64 arrays, else float32. ValueError names the argument, the rule and the value received.
    """
    return _native.inner_products(list(a), list(b))


def set_num_threads(count: SupportsIndex) -> None:
    """Let every call use up to ``count`` threads from now on, in the whole process. Results do not depend on it.

    The default is 1, as for NumPy's own arithmetic: the update is a small part of a step, and the network's runtime has
    threads of its own. Threads live for one call, and small arrays (below 262,144 elements for an update) get one.
    ValueError: a count outside [1, 1024].
    """
    _native.set_num_threads(operator.index(count))


def get_num_threads() -> int:
    """What :func:`set_num_threads` set, 1 by default."""
    return _native.num_threads()


def _loss(with_gradient: bool, terms: Sequence[Array], coeffs: ArrayLike, target: Array, *options: Any) -> Any:
    step, clip, weight, kind, delta = options
    weight = None if weight is None else _as_array("weight", weight)
    target = _as_array("target", target)
    return _native.trajectory_loss(list(terms), _as_coeffs(coeffs), target, step, clip, weight, kind, delta, with_gradient)


def _as_array(name: str, value: Array) -> Array:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a numpy.ndarray, got {type(value).__name__}")
    return value


def _as_coeffs(coeffs: ArrayLike) -> Array:
    return coeffs if isinstance(coeffs, np.ndarray) else np.asarray(coeffs, np.float64)


def _as_seeds(seeds: Array | Sequence[int]) -> Array:
    if isinstance(seeds, np.ndarray):
        return seeds
    return np.array([operator.index(seed) for seed in seeds], np.int64)  # np.array alone would round a float
