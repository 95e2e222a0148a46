"""A tuned schedule carried to another number of steps: a start for the tuning of a neighbouring budget."""

from __future__ import annotations

import numpy as np

from ttune.noise.schedules import Float64
from ttune.schedule.schedule import Schedule

APART = 1e-6  # of the largest time: two times of a resampled grid are at least this far apart


def resampled(schedule: Schedule, steps: int) -> Schedule:
    """``schedule`` with ``steps`` steps: the same first and last time, the others on the same curve of half log-SNR over
    the fraction of the steps done. Network times keep their distance from the solver times, in units of the step, on such a curve
    too; for samplers with several evaluations a step they are the solver times. Tuned coefficients are not carried over.

    Raises ValueError for fewer than one step, or a number of steps that the sampler cannot have.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if steps == schedule.steps:
        return schedule
    resized = schedule.replace(times=_times(schedule, steps))
    if len(schedule.network_times) != schedule.steps or len(resized.network_times) != steps:
        return resized
    offsets = (schedule.network_times - schedule.times[:-1]) / -np.diff(schedule.times)
    carried = np.interp(np.arange(steps) / steps, np.arange(schedule.steps) / schedule.steps, offsets)
    network_times = resized.times[:-1] - carried * np.diff(resized.times)
    return resized.replace(network_times=np.clip(network_times, schedule.noise.t_min, schedule.noise.t_max))


def _times(schedule: Schedule, steps: int) -> Float64:
    noise, old = schedule.noise, schedule.times
    # The log-SNR of the ends may be infinite: the curve runs between the smallest trained time, or the last time if that is
    # later, and just inside the largest.
    latest = noise.t_max if np.isfinite(noise.half_log_snr(noise.t_max)) else (1 - 1e-3) * noise.t_max
    curve = noise.half_log_snr(np.clip(old, max(noise.t_min, old[-1]), latest))
    wanted = np.interp(np.arange(1, steps) / steps, np.arange(len(old)) / schedule.steps, curve)
    apart = APART * noise.t_max
    times = np.concatenate([old[:1], noise.time(wanted), old[-1:]])
    # Where the old grid ends in a plateau of that curve, the times would meet.
    for i in range(1, steps):
        times[i] = min(times[i], times[i - 1] - apart)
    for i in range(steps - 1, 0, -1):
        times[i] = max(times[i], times[i + 1] + apart)
    return times
