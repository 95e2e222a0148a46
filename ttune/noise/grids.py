"""Spacings: the times of K steps before anything is tuned. Each is a function and one line in GRIDS."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ttune.messages.names import meant
from ttune.messages.warn import warn
from ttune.noise.schedules import Float64, NoiseSchedule


def grid(noise: NoiseSchedule, spacing: str, steps: int, *, t_start: float | None = None, final: str = "zero", offset: int = 0) -> Float64:
    """(steps + 1,) times, strictly decreasing; ValueError says which rule the arguments break."""
    if spacing not in GRIDS:
        raise ValueError(f"spacing must be one of {sorted(GRIDS)} or a sequence of times, got {spacing!r}{meant(spacing, GRIDS)}")
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
    times = np.append(evaluated, end)
    if spacing == "leading" and steps == 1 and times[0] <= 0:
        warn("spacing 'leading' with 1 step starts at t = 0, where there is no noise: use spacing='trailing' (--spacing trailing)")
    if (np.diff(times) >= 0).any() or times[0] > noise.t_max:
        raise ValueError(
            f"spacing {spacing!r} with steps={steps}, t_start={t_start}, final={final!r}, offset={offset} gives times that are not "
            f"strictly decreasing within [{end:g}, {noise.t_max:g}]: {times.tolist()}"
        )
    return times


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
    high, low = _log_rho(noise, t_0, "log_snr")
    return _exact_start(t_0, noise.time(-np.linspace(high, low, steps + 1)[:-1]))


def _karras(noise: NoiseSchedule, t_0: float, steps: int, final: str, rho: float = 7.0) -> Float64:
    """Even in (sigma / alpha)^(1/7) (Karras et al. 2022, eq. 5); the last evaluated time is the smallest trained time."""
    ends = np.exp(_log_rho(noise, t_0, "karras"))
    points = steps if final == "zero" else steps + 1
    ratios = np.linspace(ends[0] ** (1 / rho), ends[1] ** (1 / rho), points) ** rho
    return _exact_start(t_0, noise.time(-np.log(ratios))[:steps])


def _exponential(noise: NoiseSchedule, t_0: float, steps: int, final: str) -> Float64:
    """Even in log(sigma / alpha), and unlike ``log_snr`` the last evaluated time is the smallest trained time."""
    high, low = _log_rho(noise, t_0, "exponential")
    return _exact_start(t_0, noise.time(-np.linspace(high, low, steps if final == "zero" else steps + 1))[:steps])


def _beta(noise: NoiseSchedule, t_0: float, steps: int, final: str) -> Float64:
    """Times at even quantiles of Beta(0.6, 0.6): dense at both ends (Lee et al. 2024, arXiv 2407.12173)."""
    return t_0 * _evenness(noise, t_0, _beta_quantiles(1 - np.arange(steps) / steps))


def _beta57(noise: NoiseSchedule, t_0: float, steps: int, final: str) -> Float64:
    """The same of Beta(0.5, 0.7), denser where there is little noise: RES4LYF's spacing of this name, without rounding to whole times."""
    return t_0 * _evenness(noise, t_0, _beta_quantiles(1 - np.arange(steps) / steps, 0.5, 0.7))


def _beta_sigma(noise: NoiseSchedule, t_0: float, steps: int, final: str) -> Float64:
    """The same in sigma / alpha, both ends included, as diffusers' ``use_beta_sigmas``."""
    high, low = np.exp(_log_rho(noise, t_0, "beta_sigma"))
    points = steps if final == "zero" else steps + 1
    return _exact_start(t_0, noise.time(-np.log(low + _beta_quantiles(1 - np.linspace(0, 1, points)) * (high - low)))[:steps])


def _beta_quantiles(u: Float64, a: float = 0.6, b: float = 0.6) -> Float64:
    """Quantiles of Beta(a, b), by bisection of its mass, in each half from its own end."""
    lower_half, upper_half = _beta_mass(a, b), _beta_mass(b, a)
    at_half = lower_half(np.array(0.5))
    total = at_half + upper_half(np.array(0.5))
    below = u * total <= at_half
    return np.where(below, _inverse(lower_half, u * total), 1 - _inverse(upper_half, (1 - u) * total))


def _beta_mass(a: float, b: float) -> Callable[[Float64], Float64]:
    """x -> integral of x^(a-1) (1-x)^(b-1) from 0, by its series x^a sum (1-b)_n x^n / (n! (a+n)), halved at each term below 1/2."""
    n = np.arange(60)
    terms = np.cumprod(np.concatenate([[1.0], (n[1:] - b) / n[1:]])) / (a + n)
    return lambda x: x**a * np.polynomial.polynomial.polyval(x, terms)


def _inverse(mass: Callable[[Float64], Float64], wanted: Float64) -> Float64:
    """The x in [0, 1/2] of a growing ``mass``."""
    low, high = np.zeros_like(wanted), np.full_like(wanted, 0.5)
    for _ in range(60):
        middle = (low + high) / 2
        below = mass(middle) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(wanted > 0, high, 0.0)


def _bong_tangent(noise: NoiseSchedule, t_0: float, steps: int, final: str) -> Float64:
    """RES4LYF's spacing of this name: two arctangents in the time itself, each half of the way, steep in the middle, dense at both ends.

    The first is atan(s (m - x)) at x = 0 ... m - 1, the second -atan(s x) at x = 0 ... n - 1, with m + n = steps + 2, m = 60 % of that
    and s = 8 / (steps + 2). Made for flow matching, whose time is sigma; its resolution shift does not bend it.
    """
    if steps == 1:  # the first half would be one point, of no length
        return np.array([t_0])
    end = 0.0 if final == "zero" else noise.t_min
    m, slope = int((steps + 2) * 0.6), 8 / (steps + 2)
    curves = np.arctan(slope * np.arange(m, 0.0, -1)), np.arctan(slope * -np.arange(steps + 2.0 - m))
    upper, lower = ((curve - curve[-1]) / (curve[0] - curve[-1]) for curve in curves)
    fractions = np.concatenate([(1 + upper[:-1]) / 2, lower[:-1] / 2])
    return _exact_start(t_0, end + fractions * (t_0 - end))


# Align Your Steps (Sabour et al. 2024, arXiv 2404.14507): sigma / alpha of the published ten steps.
AYS_TABLES = {
    "ays": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),  # Stable Diffusion 1.5
    "ays_sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "ays_deepfloyd": (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006),  # DeepFloyd-IF, stage 1: pixels
    "ays_svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),  # Stable Video Diffusion
}


def _ays(table: str) -> Callable[[NoiseSchedule, float, int, str], Float64]:
    def grid(noise: NoiseSchedule, t_0: float, steps: int, final: str) -> Float64:
        """The published table, its logarithm interpolated linearly to any number of steps and stretched to this schedule's ends."""
        published = np.log(AYS_TABLES[table])
        at = np.linspace(0, len(published) - 1, steps + 1)[:-1]
        fraction = (np.interp(at, np.arange(len(published)), published) - published[-1]) / (published[0] - published[-1])
        high, low = _log_rho(noise, t_0, table)
        return _exact_start(t_0, noise.time(-(low + fraction * (high - low))))

    return grid


def _log_rho(noise: NoiseSchedule, t_0: float, spacing: str) -> Float64:
    """log(sigma / alpha) at t_0 and at the smallest trained time."""
    ends = -noise.half_log_snr([t_0, noise.t_min])
    if not np.isfinite(ends).all():
        raise ValueError(f"spacing {spacing!r} needs a finite sigma / alpha at t_start; t_start={t_0:g} has none, start just below it")
    return ends


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
    "exponential": _exponential,
    "beta": _beta,
    "beta57": _beta57,
    "beta_sigma": _beta_sigma,
    "bong_tangent": _bong_tangent,
    **{name: _ays(name) for name in AYS_TABLES},
}
