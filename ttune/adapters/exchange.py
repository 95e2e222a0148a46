"""Schedules as the lists of numbers that other tools take, and back: diffusers' ``timesteps`` and ``sigmas``, k-diffusion's sigmas.

TimeTuner's ``t_ratios`` are :func:`ttune.timetuner_ratios` and :func:`ttune.apply_timetuner_ratios`. A list has the times only: what
the network is passed goes with :func:`ttune.diffusers.apply`, :func:`ttune.k_diffusion.wrap` and their like, or is given up by name.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ttune.messages.warn import warn
from ttune.noise.continuous import Flow
from ttune.noise.numbers import Float64, float64_array
from ttune.noise.schedules import NoiseSchedule
from ttune.schedule.schedule import Schedule

_EXACT = 1e-5  # relative: schedulers keep their lists in float32
_BETWEEN = 0.01  # relative, of a noise level between whole times: .006 was measured between the first two of Stable Diffusion's
_NO_SIGNAL = 4000.0  # a noise level from which on schedulers write any large number for infinity (zero terminal SNR)


def sigmas(schedule: Schedule, *, times_only: bool = False) -> list[float]:
    """(n_times) sigma / alpha at the times, 0 where the schedule ends clean: k-diffusion's ``sigmas``. Of flow models sigma itself.

    ValueError where the network is passed other times than the solver's, unless ``times_only``; and where sigma / alpha is infinite.
    """
    _check_times_only(schedule, times_only, "ttune.k_diffusion.wrap")
    if not isinstance(schedule.noise, Flow) and (schedule.alphas == 0).any():
        raise ValueError(f"schedule must start where alpha > 0 to have a finite sigma / alpha, it starts at {schedule.times[0]:g}")
    return (schedule.sigmas if isinstance(schedule.noise, Flow) else schedule.sigmas / schedule.alphas).tolist()


def timesteps(schedule: Schedule, *, times_only: bool = False, train_steps: int = 1000) -> list[float]:
    """(n_steps) the times without the last, in diffusers' unit: indices of discrete models, ``train_steps`` times t of flow models.

    Schedulers end where they end, most of them clean; so must the schedule. ValueError as for :func:`sigmas`.
    """
    _check_times_only(schedule, times_only, "ttune.diffusers.apply")
    if schedule.times[-1] != schedule.noise.t_clean:
        raise ValueError(f"schedule must end clean (final='zero'), as a scheduler that is given timesteps does, got {schedule.times[-1]:g}")
    return (schedule.times[:-1] * (train_steps if isinstance(schedule.noise, Flow) else 1)).tolist()


def set_timesteps(scheduler: Any, schedule: Schedule, *, times_only: bool = False, mu: float | None = None) -> dict[str, list[float]]:
    """What to give to ``scheduler.set_timesteps`` of diffusers, or to a pipeline, for the times of ``schedule``: {"timesteps": [...]};
    {"sigmas": [...]} for a flow scheduler that shifts what it is given (Stable Diffusion 3): there the shift is taken off first.

    It is tried on a copy of ``scheduler``, configured as it is, and the noise levels of its steps are compared with the schedule's.
    ValueError, naming the scheduler, where it takes no timesteps (DDIM, PNDM, DEIS, …), changes them (DPMSolverMultistep and Singlestep,
    DDPM, LCM and TCD truncate fractions; whole times, of ``schedule.with_integer_times()``, those do take), or steps elsewhere than
    its timesteps say (Karras sigmas, ``shift_terminal``, ``final_sigmas_type="sigma_min"``, …). ``mu`` is the shift of a scheduler with
    ``use_dynamic_shifting``, as its pipeline computes it from the image's size. A scheduler with other betas than the model's is a
    UserWarning. Which solver the scheduler is, is not checked.
    """
    name = type(scheduler).__name__
    steps = getattr(getattr(scheduler, "config", {}), "num_train_timesteps", 1000)
    wanted = timesteps(schedule, times_only=times_only, train_steps=steps)
    accepted = inspect.signature(scheduler.set_timesteps).parameters
    if "timesteps" not in accepted:
        raise ValueError(f"scheduler: {name} takes no timesteps of others; use ttune.diffusers.apply")
    if isinstance(schedule.noise, Flow) and "sigmas" in accepted and _shift(scheduler, mu) != 1:
        return set_sigmas(scheduler, schedule, times_only=times_only, **({} if mu is None else {"mu": mu}))
    trial = _tried(scheduler, {"timesteps": wanted} | ({} if mu is None else {"mu": mu}))
    if isinstance(trial, str):
        raise ValueError(f"scheduler: {name} refuses these timesteps: {trial}; use ttune.diffusers.apply")
    # Heun's and its like list a time once per evaluation.
    made = list(dict.fromkeys(float(t) for t in trial.timesteps))
    changed = [(w, m) for w, m in zip(wanted, made, strict=False) if abs(w - m) > _EXACT * max(1.0, abs(w))]
    if changed or len(made) != len(wanted):
        change = f"{changed[0][0]:g} to {changed[0][1]:g}" if changed else f"{len(wanted)} times to {len(made)}"
        truncates = bool(changed) and all(m == int(w) for w, m in changed)
        what, cure = "changes", "use ttune.diffusers.apply"
        if truncates:
            what, cure = "truncates", "schedule.with_integer_times() gives whole ones, ttune.diffusers.apply keeps them"
        raise ValueError(f"scheduler: {name} {what} times, {change}; {cure}")
    reason = elsewhere(trial, schedule)
    if reason:
        raise ValueError(f"scheduler: {name} keeps these times and steps elsewhere: {reason}; use ttune.diffusers.apply")
    return {"timesteps": wanted}


def set_sigmas(scheduler: Any, schedule: Schedule, *, times_only: bool = False, **own: Any) -> dict[str, list[float]]:
    """As :func:`set_timesteps`, by sigmas: {"sigmas": [...]} for ``scheduler.set_timesteps`` or a pipeline (flow models above all).

    Some schedulers want the 0 at the end and some add it, flow schedulers shift what they are given: of these lists the one that puts
    the copy on the schedule's sigmas is returned. ``own`` goes to ``set_timesteps`` (``mu=…`` of dynamic shifting).
    """
    name = type(scheduler).__name__
    wanted = sigmas(schedule, times_only=times_only)
    if wanted[-1] != 0:
        raise ValueError(f"schedule must end clean (final='zero'), as schedulers that are given sigmas do, got sigma {wanted[-1]:g}")
    if "sigmas" not in inspect.signature(scheduler.set_timesteps).parameters:
        raise ValueError(f"scheduler: {name} takes no sigmas of others; use ttune.diffusers.apply")
    shift = _shift(scheduler, own.get("mu"))
    reasons: list[str] = []
    for given in ([unshifted(sigma, shift) for sigma in wanted[:-1]], wanted[:-1], wanted):
        trial = _tried(scheduler, {"sigmas": given} | own)
        reason = trial if isinstance(trial, str) else elsewhere(trial, schedule, exact=True)
        if not reason:
            return {"sigmas": given}
        reasons.append(reason)
    why = next((reason for reason in reasons if reason), "")
    raise ValueError(f"scheduler: {name} does not keep the sigmas that it is given ({why}); use ttune.diffusers.apply")


def shift_of(config: Mapping[str, Any], mu: float | None = None) -> float:
    """The shift s of a flow scheduler's grid, t -> s t / (1 + (s - 1) t): its fixed one, or what ``mu`` makes of a dynamic one."""
    if not config.get("use_dynamic_shifting") or mu is None:
        return float(config.get("shift") or config.get("flow_shift") or 1.0)
    return mu if config.get("time_shift_type") == "linear" else math.exp(mu)


def unshifted(values: Any, shift: float) -> Any:
    """The noise levels of flow models that ``shift`` moves to ``values``, a number or an array."""
    return values / (shift - (shift - 1) * values)


def _shift(scheduler: Any, mu: float | None) -> float:
    """The shift that a flow scheduler puts on what it is given."""
    config = getattr(scheduler, "config", {})
    if config.get("use_dynamic_shifting") and mu is None:
        raise ValueError(
            f"mu must be given: {type(scheduler).__name__} has use_dynamic_shifting, its shift depends on the size of the image "
            f"(calculate_shift of its pipeline); or use ttune.diffusers.apply"
        )
    return shift_of(config, mu)


def _tried(scheduler: Any, arguments: dict[str, Any]) -> Any:
    """A copy of ``scheduler`` after ``set_timesteps``, or why it refused."""
    trial = copy.deepcopy(scheduler)
    try:
        trial.set_timesteps(**arguments)
    except (ValueError, TypeError, IndexError, AssertionError) as error:
        return str(error)
    return trial


def elsewhere(trial: Any, schedule: Schedule, *, exact: bool = False) -> str | None:
    """Where the steps of ``trial`` (after ``set_timesteps``) are, if not on the noise levels of ``schedule``; None if they are.

    Levels are sigma / alpha (sigma of flow models), after each other and at the end. ``exact``: given as sigmas; given as times,
    schedulers interpolate between whole ones on a straight line of sigma / alpha, where ttune has one of log alpha.
    """
    flow = isinstance(schedule.noise, Flow)
    listed = getattr(trial, "sigmas", None)
    if listed is not None:
        levels = np.asarray([float(s) for s in listed])
        levels = levels[np.append(True, np.diff(levels) != 0)]  # Heun's has one per evaluation
    elif not hasattr(trial, "alphas_cumprod"):
        return "it has neither sigmas nor alphas_cumprod to be compared"
    else:
        squares = np.asarray(trial.alphas_cumprod, np.float64)[[int(t) for t in trial.timesteps]]
        squares = np.append(squares, float(getattr(trial, "final_alpha_cumprod", 1.0)))
        levels = np.sqrt((1 - squares) / np.maximum(squares, 1e-300))
    noise = schedule.noise if exact or flow or not hasattr(trial, "alphas_cumprod") else _noise_of(trial, schedule)
    with np.errstate(divide="ignore"):
        wanted = noise.sigma(schedule.times) / (1.0 if flow else noise.alpha(schedule.times))
    if len(levels) != len(wanted):
        return f"{len(levels) - 1} steps instead of {len(wanted) - 1}"
    slack = _EXACT if exact or flow else _BETWEEN
    off = np.abs(levels - wanted) > slack * np.maximum(wanted, 0.1 if exact else 0.0) + 1e-6
    off &= np.minimum(levels, wanted) < _NO_SIGNAL
    if not off.any():
        return None
    i = int(np.argmax(off))
    where = f"step {i} begins" if i < len(levels) - 1 else "the last step ends"
    return f"{where} at the noise level {levels[i]:.4g} instead of {wanted[i]:.4g}"


def _noise_of(scheduler: Any, schedule: Schedule) -> NoiseSchedule:
    """The scheduler's own noise schedule; a UserWarning where it is not the model's."""
    noise = NoiseSchedule.from_alphas_cumprod(np.asarray(scheduler.alphas_cumprod, np.float64))
    mine, theirs = noise.sigma(schedule.times), schedule.sigmas
    if (np.abs(mine - theirs) > 1e-3 * theirs + 1e-6).any():
        i = int(np.argmax(np.abs(mine - theirs)))
        warn(
            f"scheduler: {type(scheduler).__name__} has other betas than the model of the schedule (sigma {mine[i]:.4g} instead of "
            f"{theirs[i]:.4g} at time {schedule.times[i]:g}): give it the beta_schedule, beta_start and beta_end of the model",
        )
    return noise


def from_timesteps(
    noise: NoiseSchedule, sampler: str, values: Sequence[float], *, final: str = "zero", train_steps: int = 1000, **build: Any
) -> Schedule:
    """A schedule from diffusers' ``timesteps``: indices of discrete models, ``train_steps`` times t of flow models; noisiest first.

    ``final`` "zero" adds a clean time at the end, where there is none; "min" takes the last as it is. More goes to
    :meth:`ttune.Schedule.build` (``options``, ``eta``, …).
    """
    times = _numbers("values", values) / (train_steps if isinstance(noise, Flow) else 1)
    return Schedule.build(noise, sampler, None, _ended(noise, times, final), **build)


def from_sigmas(noise: NoiseSchedule, sampler: str, values: Sequence[float], *, final: str = "zero", **build: Any) -> Schedule:
    """A schedule from k-diffusion's sigmas (sigma / alpha), or from those of a flow model (sigma itself); a 0 at the end is the clean
    time, which ``final`` "zero" adds where there is none. Values beyond the trained range raise ValueError."""
    levels = _numbers("values", values)
    high = float(noise.sigma(noise.t_max))
    if not isinstance(noise, Flow):
        high = float("inf") if noise.alpha(noise.t_max) == 0 else high / float(noise.alpha(noise.t_max))
    if (levels < 0).any() or (levels > high * (1 + _EXACT)).any():
        raise ValueError(f"values must lie in [0, {high:.6g}], the noise levels of the model, got {levels.tolist()}")
    times = levels if isinstance(noise, Flow) else np.where(levels > 0, noise.time(-np.log(np.maximum(levels, 1e-300))), noise.t_clean)
    return Schedule.build(noise, sampler, None, _ended(noise, np.minimum(times, noise.t_max), final), **build)


def _ended(noise: NoiseSchedule, times: Float64, final: str) -> Float64:
    if final not in ("zero", "min"):
        raise ValueError(f"final must be 'zero' or 'min', got {final!r}")
    return np.append(times, noise.t_clean) if final == "zero" and times[-1] > noise.t_clean else times


def _numbers(name: str, values: Sequence[float]) -> Float64:
    array = float64_array(values)
    if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a list of finite numbers, got {array.tolist()}")
    return array


def _check_times_only(schedule: Schedule, times_only: bool, instead: str) -> None:
    untuned = np.clip(schedule.tableau().times, schedule.noise.t_min, schedule.noise.t_max)
    if not times_only and not np.array_equal(schedule.network_times, untuned):
        raise ValueError(
            f"schedule passes the network other times than its own, which a list of times cannot say; use {instead}, or give them "
            f"up with times_only=True (--times-only)"
        )


__all__ = ["from_sigmas", "from_timesteps", "set_sigmas", "set_timesteps", "sigmas", "timesteps"]
