"""LuChengTHU's DPM-Solver (and the copies of it in Stable Diffusion's code): a tuned schedule in ``DPM_Solver.sample``.

    wrapped = ttune.dpm_solver.wrap(network, noise_schedule, schedule)
    solver = DPM_Solver(model_wrapper(wrapped, noise_schedule, model_type="noise"), noise_schedule, algorithm_type="dpmsolver++")
    with ttune.dpm_solver.apply(solver, schedule):
        x_0 = solver.sample(x_T, **ttune.dpm_solver.arguments(schedule, noise_schedule))

The time is replaced before ``model_wrapper``, so that its conversions stay at the solver's time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ttune.adapters.patch import Checked, Patch, opened, overriding, refuse_other_noise, refuse_settings, refuse_twice, remove
from ttune.adapters.timestep_override import TimestepOverride
from ttune.messages.names import meant
from ttune.network.denoiser import Denoiser
from ttune.network.threshold import DynamicThreshold
from ttune.noise.schedules import Float64, NoiseSchedule
from ttune.schedule.schedule import Schedule

__all__ = ["apply", "arguments", "denoiser", "noise", "remove", "wrap"]

_PREDICTIONS = {"noise": "epsilon", "x_start": "sample", "v": "v_prediction", "score": "score"}  # of model_type
# ttune's sampler -> its order; None where that is an option of the schedule's
_ORDERS = {"ddim": 1, "dpm_solver_1": 1, "dpmpp_2m": 2, "dpmpp_3m": 3, "dpm_solver_multistep": None}
# From so many steps on some versions of the host ignore lower_order_final (the newest; older ones from 15 on).
_KEEPS_ORDER = 10


def noise(noise_schedule: Any) -> NoiseSchedule:
    """A ``NoiseScheduleVP`` as a :class:`ttune.NoiseSchedule`: "discrete" by its table, "linear" as continuous VP."""
    if noise_schedule.schedule == "discrete":
        return NoiseSchedule.from_alphas_cumprod(np.exp(2 * _table(noise_schedule)))
    if noise_schedule.schedule == "linear":
        return NoiseSchedule.continuous_vp(float(noise_schedule.beta_0), float(noise_schedule.beta_1))
    raise ValueError(f"noise_schedule must be 'discrete' or 'linear', got {noise_schedule.schedule!r}, which ttune has no name for")


def denoiser(network: Callable[..., Tensor], noise_schedule: Any, model_type: str = "noise", **settings: Any) -> Denoiser:
    """A :class:`ttune.Denoiser` of the ``network`` that ``model_wrapper`` is given; ``settings`` go to it.

    The network is passed what the host passes it: for N discrete steps index · 1000 / N.
    """
    if model_type not in _PREDICTIONS:
        raise ValueError(f"model_type must be one of {sorted(_PREDICTIONS)}, got {model_type!r}{meant(model_type, _PREDICTIONS)}")
    scale = _scale(noise_schedule)
    scaled = network if scale == 1 else lambda x, tau, **conditions: network(x, tau * scale, **conditions)
    return Denoiser(scaled, noise(noise_schedule), _PREDICTIONS[model_type], **settings)


def wrap(
    network: Callable[..., Tensor],
    noise_schedule: Any,
    schedule: Schedule | str | PathLike[str],
    *,
    calls_per_evaluation: int | None = 1,
    unmatched: str = "raise",
    check_model: bool = True,
) -> Callable[..., Tensor]:
    """``network`` for ``model_wrapper``, passed the network times of ``schedule``; the rest is as for
    :class:`ttune.adapters.timestep_override.TimestepOverride`. A schedule of another network is refused, unless ``check_model`` is
    False."""
    schedule = opened(schedule, network, check_model)
    _check_noise(schedule, noise_schedule)
    scale = _scale(noise_schedule)
    in_host_units = lambda t: scale * t  # noqa: E731
    override = TimestepOverride.of(
        schedule,
        in_host_units,
        in_host_units,
        unit="t_input",
        slack=1e-3 if scale != 0 and schedule.noise.discrete_steps else 1e-6,  # (t - 1/N) 1000 cancels in float32
        calls_per_evaluation=calls_per_evaluation,
        unmatched=unmatched,
    )

    def wrapped(x: Tensor, t_input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return network(x, override(t_input), *args, **kwargs)

    return wrapped


def apply(solver: Any, schedule: Schedule | str | PathLike[str], *, check_model: bool = True) -> Patch:
    """Make ``solver`` step on the times of ``schedule``; give its ``sample`` the :func:`arguments`.

    Undone by ``remove(solver)``, or at the end of a ``with`` block. ValueError for a solver that steps otherwise than the schedule's
    (``algorithm_type`` or ``predict_x0``, thresholding, correctors; of a ``model_wrapper`` the model's type and the guidance scale, where
    the schedule remembers its model) and, when sampling, for other arguments than those. A schedule of another network is refused
    where the solver's model is a module. ``check_model=False`` compares nothing that the schedule remembers of its model.
    """
    refuse_twice(solver)
    schedule = opened(schedule, getattr(solver, "model", None), check_model)
    _check_noise(schedule, solver.noise_schedule)
    _check_algorithm(solver, schedule)
    _check_correctors(solver, schedule)
    _check_wrapper(solver, schedule)
    times = _continuous(schedule.noise, _stepped(schedule))

    def get_time_steps(skip_type: str, t_T: float, t_0: float, N: int, device: Any) -> Tensor:
        if len(times) != N + 1:
            raise ValueError(f"steps must be {len(times) - 1}, as in ttune.dpm_solver.arguments of the schedule that is applied, got {N}")
        return torch.tensor(times, dtype=torch.get_default_dtype(), device=device)

    undo = [overriding(solver, "get_time_steps", get_time_steps), overriding(solver, "sample", _Sample(solver, schedule))]
    return Patch(solver, TimestepOverride.of(schedule), undo)


class _Sample(Checked):
    """``solver.sample`` that takes nothing but the :func:`arguments` of the schedule; ``skip_type`` has no say on its times."""

    def __init__(self, solver: Any, schedule: Schedule) -> None:
        required = arguments(schedule, solver.noise_schedule)
        self.ends = {"t_start": required.pop("t_start"), "t_end": required.pop("t_end")}
        self.default_end = 1.0 / float(solver.noise_schedule.total_N)
        if required["order"] == 1:  # nothing to lower, and one formula
            required.pop("lower_order_final")
        else:
            default = inspect.signature(solver.sample).parameters.get("solver_type")
            required.setdefault("solver_type", None if default is None else default.default)
        super().__init__(solver.sample, required, "ttune.dpm_solver.arguments of the schedule that is applied")

    def check(self, given: Mapping[str, Any]) -> None:
        super().check(given)
        for name, value in self.ends.items():
            # The host's own start is replaced like every time; its own end is where it denoises to zero from.
            got = given.get(name)
            if got is None:
                got = value if name == "t_start" else self.default_end
            if not np.isclose(float(got), value, rtol=1e-5, atol=1e-9):
                raise ValueError(f"{name} must be {value:.9g}, as in {self.source}, got {given.get(name)}")


def arguments(schedule: Schedule, noise_schedule: Any) -> dict[str, Any]:
    """What ``DPM_Solver.sample`` must be given for ``schedule``: steps, ends, order, method.

    A schedule that ends clean is one step less and ``denoise_to_zero``. ``solver_type`` "heun" is the host's "taylor". The solver itself
    must be of the schedule's kind (``algorithm_type="dpmsolver++"``, once ``predict_x0=True``, for dpmpp_2m and dpmpp_3m; "dpmsolver"
    for dpm_solver_multistep), which :func:`apply` checks. ValueError for a sampler that it does not have.
    """
    _check_noise(schedule, noise_schedule)
    if schedule.sampler not in _ORDERS:
        raise ValueError(f"schedule must be for one of {sorted(_ORDERS)}, the multistep solvers of DPM_Solver, got {schedule.sampler!r}")
    order = _ORDERS[schedule.sampler] or int(schedule.options.get("order", 2))  # pyright: ignore[reportArgumentType]
    times = _stepped(schedule)
    steps = len(times) - 1
    if steps < order:
        raise ValueError(
            f"schedule must have at least {order + schedule.steps - steps} steps for a solver of order {order}, got {schedule.steps}"
        )
    clean = steps < schedule.steps
    if schedule.lower_order_final and (steps >= _KEEPS_ORDER or (clean and order > 2)):
        raise ValueError(
            f"schedule: with lower_order_final this solver lowers its order otherwise from {_KEEPS_ORDER} steps on (older versions from 15 "
            f"on), or before a clean end, got {schedule.steps} steps of order {order}; build one with lower_order_final=False"
        )
    heun = schedule.options.get("solver_type", "midpoint") == "heun"
    ends = _continuous(schedule.noise, times[[0, -1]])
    return {
        "steps": steps,
        "t_start": float(ends[0]),
        "t_end": float(ends[1]),
        "order": order,
        "method": "multistep",
        "denoise_to_zero": clean,
        # The step to the clean end, which is of first order, is not one of the solver's own.
        "lower_order_final": schedule.lower_order_final and not clean,
        # Versions differ in the other name, their default.
        **({"solver_type": "taylor"} if heun else {}),
    }


def _check_algorithm(solver: Any, schedule: Schedule) -> None:
    """ValueError where ``solver`` integrates the other prediction; of first order both are one."""
    if schedule.sampler not in _ORDERS or _ORDERS[schedule.sampler] == 1 or schedule.options.get("order") == 1:
        return
    named = _algorithm(solver)
    wanted = "dpmsolver" if schedule.sampler == "dpm_solver_multistep" else "dpmsolver++"
    if named != wanted:
        older = f", in older versions predict_x0={wanted == 'dpmsolver++'}"
        raise ValueError(
            f"solver must be made with algorithm_type={wanted!r}{older}, for a schedule of {schedule.sampler!r}, got {named!r}"
        )


def _algorithm(solver: Any) -> str:
    return getattr(solver, "algorithm_type", "dpmsolver++" if getattr(solver, "predict_x0", False) else "dpmsolver")


def _check_correctors(solver: Any, schedule: Schedule) -> None:
    """ValueError where ``solver`` changes its predictions or states otherwise than the schedule's denoiser did."""
    if getattr(solver, "correcting_xt_fn", None) is not None:
        raise ValueError("solver: correcting_xt_fn must be None, a schedule has no place for one")
    clip, threshold = schedule.model.get("clip_sample"), schedule.model.get("threshold")
    if clip is not None or threshold is not None:
        refuse_settings(schedule, "DPM_Solver", clip_epsilon="recompute")
    corrector = getattr(solver, "correcting_x0_fn", None)
    corrects = clip is not None or threshold is not None or corrector is not None or getattr(solver, "thresholding", False)
    if corrects and _algorithm(solver) != "dpmsolver++":
        raise ValueError("solver: only algorithm_type='dpmsolver++' corrects x_0 at every step, got 'dpmsolver'")
    if getattr(solver, "thresholding", False):  # older versions
        mine = _threshold(0.995, solver.max_val)
    elif corrector is None:
        mine = None
    elif getattr(corrector, "__func__", None) is getattr(type(solver), "dynamic_thresholding_fn", corrector):
        mine = _threshold(solver.dynamic_thresholding_ratio, solver.thresholding_max_val)
    else:
        if clip is None and threshold is None:
            raise ValueError("solver: correcting_x0_fn must be None, as the schedule was not tuned with clip_sample or a threshold")
        return  # a function: the same one is the caller's to choose
    if threshold != mine or clip is not None:
        tuned = f"clip_sample={clip}, threshold={threshold}"
        raise ValueError(f"solver must correct x_0 as the schedule's denoiser did ({tuned}), by its correcting_x0_fn, got {mine}")


def _threshold(ratio: float, largest: float) -> str:
    return repr(DynamicThreshold(float(ratio))) if largest == 1 else f"dynamic thresholding from {largest:g} on"


def _check_wrapper(solver: Any, schedule: Schedule) -> None:
    """ValueError where a ``model_wrapper`` reads or guides the network otherwise than the schedule's denoiser did."""
    wrapped = _variables(solver.model)  # newer versions wrap it once more
    wrapped = _variables(wrapped.get("model_fn", solver.model))
    kind = _variables(wrapped.get("noise_pred_fn")).get("model_type")
    if kind is None:
        return  # not made by model_wrapper: nothing is known of it
    guidance, scale = wrapped.get("guidance_type"), wrapped.get("guidance_scale")
    guided = guidance == "classifier" or (guidance == "classifier-free" and wrapped.get("unconditional_condition") is not None)
    scale = float(scale) if guided and scale is not None else None
    remembered, has = (1.0 if one is None else one for one in (schedule.model.get("guidance_scale"), scale))  # 0 is a scale
    settings = {"prediction_type": _PREDICTIONS[kind], "guidance_interval": None, "guidance_rescale": None}
    settings["guidance"] = "classifier" if guidance == "classifier" else None
    if remembered != has or guidance == "classifier":
        settings["guidance_scale"] = scale
    refuse_settings(schedule, "this solver", **settings)


def _variables(function: Any) -> dict[str, Any]:
    """The variables that ``function`` closes over, by name."""
    names, cells = getattr(getattr(function, "__code__", None), "co_freevars", ()), getattr(function, "__closure__", None) or ()
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}


def _stepped(schedule: Schedule) -> Float64:
    """The times that the solver itself steps on: all but a clean end, which its ``denoise_to_zero`` reaches."""
    return schedule.times[:-1] if schedule.times[-1] == schedule.noise.t_clean else schedule.times


def _continuous(noise: NoiseSchedule, t: ArrayLike) -> Float64:
    """Times of ``noise`` as DPM-Solver's own: (n + 1) / N for index n of N."""
    t = np.asarray(t, np.float64)
    return t if noise.discrete_steps is None else (t + 1) / noise.discrete_steps


def _scale(noise_schedule: Any) -> float:
    return 1000.0 / int(noise_schedule.total_N) if noise_schedule.schedule == "discrete" else 1.0


def _table(noise_schedule: Any) -> Float64:
    return noise_schedule.log_alpha_array.detach().double().cpu().numpy().reshape(-1)


def _check_noise(schedule: Schedule, noise_schedule: Any) -> None:
    refuse_other_noise(schedule, noise(noise_schedule), "ttune.dpm_solver.noise(noise_schedule)")
