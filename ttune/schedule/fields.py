"""What the fields of a schedule may hold: each as a frozen value, or a ValueError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ttune.noise.numbers import Float64, float64_array
from ttune.noise.schedules import NoiseSchedule
from ttune.samplers.correction import MAX_DEPTH

Option = float | str | bool | tuple[float, ...]  # a sampler's own


def checked_times(noise: NoiseSchedule, values: ArrayLike) -> Float64:
    times = frozen("times", values)
    if len(times) < 2:
        raise ValueError(f"times must be at least two (one step), got {len(times)}")
    if (np.diff(times) >= 0).any():
        raise ValueError(f"times must be strictly decreasing, got {times.tolist()}")
    if times[0] > noise.t_max or times[-1] < noise.t_clean:
        raise ValueError(f"times must lie in [{noise.t_clean:g}, {noise.t_max:g}], got {times.tolist()}")
    return times


def checked_coefficients(values: ArrayLike, evaluations: int) -> Float64:
    try:
        array = float64_array(values)
    except (TypeError, ValueError):
        raise ValueError(f"coefficients must be a table of numbers, got {values!r}") from None
    if array.ndim != 2 or array.shape[0] != evaluations or not 2 <= array.shape[1] <= 2 + MAX_DEPTH:
        raise ValueError(
            f"coefficients must have shape ({evaluations}, 2 to {2 + MAX_DEPTH}): one row per evaluation, columns x, D and earlier D; "
            f"got {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"coefficients must be finite, got {array.tolist()}")
    array.flags.writeable = False
    return array


def checked_variants(values: Sequence[int], evaluations: int) -> tuple[int, ...]:
    """As a tuple; () if all are 0, so that what is the same compares the same."""
    try:
        numbers = list(values)
    except TypeError:
        raise ValueError(f"variants must be a sequence of whole numbers, got {values!r}") from None
    if not all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) and v >= 0 for v in numbers):
        raise ValueError(f"variants must be whole numbers >= 0, got {numbers}")
    if numbers and len(numbers) != evaluations:
        raise ValueError(f"variants must hold one number per network evaluation, {evaluations}, or none, got {len(numbers)}")
    return tuple(map(int, numbers)) if any(numbers) else ()


def checked_options(options: Mapping[str, Any]) -> dict[str, Option]:
    if not isinstance(options, Mapping):
        raise ValueError(f"options must be a mapping of names to values, got {options!r}")
    checked: dict[str, Option] = {}
    for name, value in options.items():
        plain = value if isinstance(value, (bool, str)) else plain_number(value)
        if not isinstance(name, str) or plain is None:
            raise ValueError(f"options must map names to finite numbers, lists of them, words or truth values, got {name!r}: {value!r}")
        checked[name] = plain
    return checked


def plain_number(value: Any) -> int | float | tuple[float, ...] | None:
    """A finite number, or a tuple of them; None for anything else."""
    if isinstance(value, np.ndarray) or hasattr(value, "detach"):
        value = value.tolist()  # a plain number, if it has no dimension
    if isinstance(value, (list, tuple)):
        numbers = tuple(plain_number(v) for v in value)
        return numbers if all(isinstance(v, (int, float)) for v in numbers) else None  # pyright: ignore[reportReturnType]
    if isinstance(value, (int, np.integer)):
        return None if isinstance(value, bool) else int(value)
    return float(value) if isinstance(value, (float, np.floating)) and np.isfinite(value) else None


def frozen(name: str, values: ArrayLike) -> Float64:
    try:
        array = float64_array(values)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a sequence of numbers, got {values!r}") from None
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array.tolist()}")
    array.flags.writeable = False
    return array
