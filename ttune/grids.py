"""Time grids: where K steps stand, before anything is tuned. Each is a function of one line in GRIDS."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ttune.noise import Float64, NoiseSchedule


def grid(noise: NoiseSchedule, spacing: str, steps: int, *, t_start: float | None = None, final: str = "zero", offset: int = 0) -> Float64:
    """(steps + 1,) positions, strictly decreasing; ValueError says which rule the arguments break."""
    if spacing not in GRIDS:
        raise ValueError(f"spacing must be one of {sorted(GRIDS)} or a sequence of positions, got {spacing!r}")
    if final not in ("zero", "min"):
        raise ValueError(f"final must be 'zero' or 'min', got {final!r}")
    if noise.discrete_steps is not None and steps > noise.discrete_steps:
        raise ValueError(f"steps must be at most the {noise.discrete_steps} training steps, got {steps}")
    t_0 = noise.t_max if t_start is None else float(t_start)
    if not noise.t_min < t_0 <= noise.t_max:
        raise ValueError(f"t_start must lie in ({noise.t_min:g}, {noise.t_max:g}], got {t_start}")
    if offset and spacing != "leading":
        raise ValueError(f"offset is an option of the 'leading' grid, got offset={offset} with {spacing!r}")
    end = noise.t_clean if final == "zero" else noise.t_min
    evaluated = GRIDS[spacing](noise, t_0, steps, final) + offset
    positions = np.append(evaluated, end)
    if (np.diff(positions) >= 0).any() or positions[0] > noise.t_max:
        raise ValueError(
            f"spacing {spacing!r} with steps={steps}, t_start={t_start}, final={final!r}, offset={offset} gives positions that are not "
            f"strictly decreasing within [{end:g}, {noise.t_max:g}]: {positions.tolist()}"
        )
    return positions


def _training_steps(noise: NoiseSchedule, t_0: float, spacing: str) -> float:
    """How many training steps lie at or below t_0; the grids named after diffusers' spacings count in these."""
    if noise.discrete_steps is None:
        raise ValueError(f"spacing {spacing!r} counts training steps and needs a discrete noise schedule; use 'linspace' or 'log_snr'")
    return t_0 + 1


def _leading(noise: NoiseSchedule, t_0: float, steps: int, final: str) -> Float64:
    stride = _training_steps(noise, t_0, "leading") // steps
    return stride * np.arange(steps - 1, -1, -1.0)


def _trailing(noise: NoiseSchedule, t_0: float, steps: int, final: str) -> Float64:
    n = _training_steps(noise, t_0, "trailing")
    return np.round(n - np.arange(steps) * (n / steps)).astype(np.float64) - 1


def _linspace(noise: NoiseSchedule, t_0: float, steps: int, final: str) -> Float64:
    return t_0 * _evenness(noise, t_0, 1 - np.arange(steps) / steps)


def _quadratic(noise: NoiseSchedule, t_0: float, steps: int, final: str) -> Float64:
    return t_0 * _evenness(noise, t_0, (1 - np.arange(steps) / steps) ** 2)


def _evenness(noise: NoiseSchedule, t_0: float, u: Float64) -> Float64:
    """Fractions of t_0; flow matching bends them by its resolution shift."""
    return noise.even_times(u) / noise.even_times(1.0)


def _log_snr(noise: NoiseSchedule, t_0: float, steps: int, final: str) -> Float64:
    ends = noise.half_log_snr([t_0, noise.t_min])
    if not np.isfinite(ends).all():
        raise ValueError(f"spacing 'log_snr' needs a finite log-SNR at t_start; t_start={t_0:g} has none, start just below it")
    return _exact_start(t_0, noise.time(np.linspace(ends[0], ends[1], steps + 1)[:-1]))


def _karras(noise: NoiseSchedule, t_0: float, steps: int, final: str, rho: float = 7.0) -> Float64:
    """Even in (sigma / alpha)^(1/7) (Karras et al. 2022, eq. 5); the last evaluated position is the smallest trained time."""
    ends = np.exp(-noise.half_log_snr([t_0, noise.t_min]))
    if not np.isfinite(ends).all():
        raise ValueError(f"spacing 'karras' needs a finite sigma / alpha at t_start; t_start={t_0:g} has none, start just below it")
    points = steps if final == "zero" else steps + 1
    ratios = np.linspace(ends[0] ** (1 / rho), ends[1] ** (1 / rho), points) ** rho
    return _exact_start(t_0, noise.time(-np.log(ratios))[:steps])


def _exact_start(t_0: float, times: Float64) -> Float64:
    """The first time is t_0 itself, free of the rounding of a trip through the log-SNR and back."""
    return np.concatenate([[t_0], times[1:]])


GRIDS: dict[str, Callable[[NoiseSchedule, float, int, str], Float64]] = {
    "leading": _leading,
    "trailing": _trailing,
    "linspace": _linspace,
    "quadratic": _quadratic,
    "log_snr": _log_snr,
    "karras": _karras,
}
