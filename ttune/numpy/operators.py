"""The operators on NumPy arrays: checks and loops are native, see csrc/numpy."""

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
    """Linear combinations of arrays in one pass over memory.

    Args:
        terms: N >= 1 arrays of one shape and dtype.
        coeffs: (R, C), float32 or float64; or a table (K, R, C). Columns: the N terms in order; with ``clip``, the
            clamped row 0. Nested lists are read as float64.
        step: the row block of a table, in [0, K).
        clip: clamp row 0 (the x_0 prediction) to [-clip, clip]. It is returned clamped, and the rows after it may use it;
            row 0's own coefficient of that column is ignored. NaN stays NaN.

    Returns R arrays with the strides of ``numpy.empty_like(terms[0])``. Arithmetic is float64 for float64 and float32
    otherwise. A zero coefficient still multiplies, so NaN propagates. Without ``clip``, equivalent to:

        rows = coeffs if step is None else coeffs[step]
        [sum(c * term for c, term in zip(row, terms)) for row in rows]

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
    """:func:`linear_update` into existing arrays, optionally with Gaussian noise.

    Args:
        outs: R writable arrays like the terms. An output may be one of the terms (same memory, same strides);
            overlapping one in part, or another output, is an error.
        terms, coeffs, step, clip: as for :func:`linear_update`; ``terms`` may be empty where there is noise.
        seeds: (B,) int64, one per sample along the leading dimension. The last column of ``coeffs`` then multiplies unit
            Gaussian noise, a function of (seed, draw, element) alone: see :func:`philox_normal`.
        draw: which noise of the sample.
    """
    _native.linear_update_(list(outs), list(terms), _as_coeffs(coeffs), step, clip, None if seeds is None else _as_seeds(seeds), draw)


def philox_normal(
    sample_shape: Sequence[int], seeds: Array | Sequence[int], draw: SupportsIndex = 0, dtype: DTypeLike = np.float32
) -> Array:
    """Unit Gaussian noise of shape (B, *sample_shape), one int64 seed per sample: Philox4x32-10 (Salmon et al., SC 2011)
    and Box-Muller.

    Element i of a sample depends on (its seed, ``draw``, i) only, so a sample has the same noise in any batch, and the
    noise that ``ttune.ops.philox_normal`` makes. ``dtype``: float64 (float64 arithmetic), float32, or float16 and
    bfloat16 (made in float32, then rounded).
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
    """Sinusoidal embedding of times, fractional ones too (Vaswani et al. 2017, section 3.5; the flags are diffusers').

    Args:
        t: times of any shape, in the network's own unit: float64, float32, float16, bfloat16 or a signed integer dtype, or
            uint8. Numbers and lists are read as NumPy reads them.
        dim: columns of the result, >= 1. An odd one ends with a column of zeros.
        max_period: > 0, the longest period over 2 pi.
        flip_sin_to_cos: [cos | sin] in place of [sin | cos].
        downscale_freq_shift: the frequencies end at 1 / max_period with 1, one step before it with 0.
        scale: multiplies the times.

    Returns (*t.shape, dim), float64 if ``t`` is float64 and float32 otherwise; the angle is formed and reduced in float64
    for every dtype. A NaN or infinite time gives NaN. ValueError names the argument, the rule and the value received.
    """
    return _native.timestep_embedding(np.asarray(t), dim, max_period, flip_sin_to_cos, downscale_freq_shift, scale)


def embedding_lookup(table: Array, t: ArrayLike) -> Array:
    """Row ``t`` of a table, between rows their linear interpolation.

    Args:
        table: (n, *row), n >= 1.
        t: times of any shape, clamped to [0, n - 1], as for :func:`timestep_embedding`.

    Returns (*t.shape, *row) in the table's dtype; float64 arithmetic for float64, float32 otherwise. A whole ``t`` returns
    its row bit for bit, whatever the next one holds. A NaN time gives a row of NaN.
    ValueError names the argument, the rule and the value received.
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
    """Loss of each sample between an update and a target, without storing the update.

    Args:
        terms, coeffs, step, clip: as for :func:`linear_update`; the terms have a leading batch dimension B. The last row
            of ``coeffs`` is the update that is compared: one row, or with ``clip`` also two, of which row 0 is the x_0
            prediction that the other uses, clamped. One row with ``clip``: the clamped prediction is compared.
        target: what the update should be; the terms' shape and dtype.
        weight: (B,) or the terms' shape, in the output's dtype.
        kind: of the difference d, "l2": d^2; "l1": |d|; "huber": d^2 / 2 up to |d| = ``delta``, beyond it
            delta (|d| - delta / 2).
        delta: > 0; used by "huber" alone.

    Returns (B,), each the *sum* over the sample's elements of weight times element: float64 for float64 arrays, else
    float32, which is also the dtype of the arithmetic. ValueError names the argument, the rule and the value received.
    """
    return _loss(terms, coeffs, target, step, clip, weight, kind, delta, False)


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
    return _loss(terms, coeffs, target, step, clip, weight, kind, delta, True)


def inner_products(a: Sequence[Array], b: Sequence[Array]) -> Array:
    """Every inner product, over all elements, of one list of arrays with another, in one pass over memory.

    ``a``, ``b``: at least one array each, all of one shape and dtype; an array may be in both. Returns (len(a), len(b)):
    float64 for float64 arrays, else float32; sums are exact to 1e-6 of the sum of the products' magnitudes.
    ValueError names the argument, the rule and the value received.
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


def _loss(
    terms: Sequence[Array],
    coeffs: ArrayLike,
    target: Array,
    step: SupportsIndex | None,
    clip: float | None,
    weight: Array | None,
    kind: str,
    delta: float,
    with_gradient: bool,
) -> Any:
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
