"""NVlabs' EDM (Karras et al. 2022, arXiv 2206.00364): its preconditioned networks as denoisers, a tuned schedule in its own sampler.

    denoiser = ttune.edm.denoiser(net)                          # tune this
    latents = ttune.edm.start(schedule, x_T)
    with ttune.edm.apply(net, schedule):
        images = edm_sampler(net, latents, class_labels, num_steps=schedule.steps)

``net(x, sigma, class_labels)`` is D = c_skip x + c_out F(c_in x, c_noise). All but c_noise stay at the solver's sigma: that one is replaced
where ``net`` hands it to ``net.model``. Its preconditionings EDM, VP and VE will do, and any net of that convention whose c_noise is
continuous in sigma: not iDDPM's, a whole number of a table, which would take the nearest one for a network time.
"""

from __future__ import annotations

from os import PathLike
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from ttune.adapters.patch import Patch, opened, overriding, refuse_settings, refuse_twice, remove
from ttune.adapters.preconditioned import Preconditioned
from ttune.adapters.timestep_override import TimestepOverride
from ttune.messages.warn import warn
from ttune.network.denoiser import Denoiser
from ttune.noise.schedules import NoiseSchedule
from ttune.samplers.tableau import Row, Stage
from ttune.schedule.schedule import Schedule

__all__ = ["apply", "denoiser", "remove", "start"]

# Relative to the largest element: a step rounds by 1e-7 in float32 and 1e-2 in half types. Another schedule is 1e-4 off at 50 steps.
_SAME_STATE = {torch.float64: 1e-6, torch.float32: 5e-5, torch.float16: 3e-2, torch.bfloat16: 3e-2}


def denoiser(net: nn.Module, *, sigma_min: float = 0.002, sigma_max: float = 80.0, **settings: Any) -> Denoiser:
    """A :class:`ttune.Denoiser` of ``net``, on ``NoiseSchedule.edm`` between the sigmas given and those that ``net`` knows.

    ``class_labels`` are a condition; ``settings`` (guidance, name, …) go to the denoiser. The sample shape is ``net``'s own, where it
    says ``img_channels`` and ``img_resolution``.
    """
    _check_net(net)
    low, high = max(sigma_min, float(getattr(net, "sigma_min", 0.0))), min(sigma_max, float(getattr(net, "sigma_max", float("inf"))))
    if "sample_shape" not in settings and hasattr(net, "img_channels") and hasattr(net, "img_resolution"):
        settings["sample_shape"] = (int(net.img_channels), int(net.img_resolution), int(net.img_resolution))  # pyright: ignore[reportArgumentType]
    return Denoiser(Preconditioned([_EdmPreconditioned(net)]), NoiseSchedule.edm(low, high), "sample", **settings)


def start(schedule: Schedule, x_T: Tensor) -> Tensor:
    """The ``latents`` (B, ...) of EDM's samplers, which multiply them by their first sigma, for a state ``x_T`` (B, ...) at the largest
    time as in :func:`ttune.sample` (:func:`ttune.initial_noise` makes one)."""
    return x_T * (schedule.noise.start_scale(schedule.times[0]) / float(schedule.sigmas[0]))


def apply(
    net: nn.Module,
    schedule: Schedule | str | PathLike[str],
    *,
    calls_per_evaluation: int | None = 1,
    unmatched: str = "raise",
    check_steps: bool = True,
    check_model: bool = True,
) -> Patch:
    """Make samplers that call ``net(x, sigma, ...)`` at the sigmas of ``schedule`` pass its network the schedule's network times.

    EDM's own ``edm_sampler`` makes a grid of its own, which it then passes through ``net.round_sigma``: that gives it the times of
    the schedule (``num_steps`` must be ``schedule.steps``, a schedule that ends clean, with ``edm_heun`` or ``heun``, or ``euler`` for
    ``ablation_sampler(solver="euler")``). Give it :func:`start` for its latents. Undone by :func:`remove`, or at the end of a ``with``
    block.
    A deep copy of ``net`` has the schedule too, and an evaluation number of its own. ValueError for a schedule whose times are not sigma,
    or where one is applied already; when sampling, for a net that knows a table of sigmas only, and for a sampler that steps otherwise
    than the schedule's (another solver, ``ablation_sampler`` with another ``schedule`` or ``scaling`` than "linear" and "none").
    ``check_steps``: False where what you put around ``net`` (guidance, masks) changes the states on purpose. Fresh noise (churn) cannot
    be checked: there ``S_noise`` is yours to give. A schedule of another network is refused.
    ``check_model=False`` compares nothing that the schedule remembers of its model.
    """
    _check_net(net)
    refuse_twice(net)
    schedule = opened(schedule, net, check_model)
    refuse_settings(schedule, "EDM's sampler", prediction_type="sample", clip_sample=None, threshold=None)
    if (schedule.alphas != 1).any() or not np.array_equal(schedule.sigmas, schedule.times):
        raise ValueError(f"schedule must have sigma for its time (NoiseSchedule.edm), got {type(schedule.noise).__name__}")
    hint = f"a schedule for {schedule.sampler!r} is applied to this {type(net).__name__}: ttune.edm.remove(net) takes it out"
    override = TimestepOverride.of(schedule, unit="sigma", calls_per_evaluation=calls_per_evaluation, unmatched=unmatched, hint=hint)
    hook = _EdmOverride(net, override, _States(schedule) if check_steps and calls_per_evaluation == 1 else None)
    undo = [
        net.register_forward_pre_hook(hook, with_kwargs=True).remove,
        net.register_forward_hook(hook.after, always_call=True).remove,
        hook.replaced.hook(),
    ]
    if hasattr(net, "round_sigma"):
        undo.append(overriding(net, "round_sigma", _Times(net.round_sigma, schedule)))
    return Patch(net, override, undo)


class _EdmOverride:
    """Passes ``net`` its network time at each call. An object, since a closure would still mean the original in a deep copy of the net."""

    def __init__(self, net: nn.Module, override: TimestepOverride, states: _States | None) -> None:
        self.net, self.override, self.states, self.replaced, self.noise_of = net, override, states, _Replaced(net), _NoiseInput(net)

    def __call__(self, net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if net is not self.net:
            raise ValueError(
                f"net must be the {type(net).__name__} that the schedule was applied to, got a replica that shares its hooks, whose "
                f"network would not get the network times; apply it to that one"
            )
        sigma = torch.as_tensor(kwargs["sigma"] if "sigma" in kwargs else args[1])
        tau = self.override(sigma)
        self.replaced.noise = None
        if tau is not sigma:
            arguments = {"x": args[0], **kwargs} if args else kwargs
            own = {k: v for k, v in arguments.items() if k not in ("x", "sigma")} | dict(
                zip(("class_labels", "force_fp32"), args[2:], strict=False)
            )
            if self.states is not None:
                self.states.arrive(self.override.index, arguments["x"])
            self.replaced.noise = self.noise_of(arguments["x"], tau, own)

    def after(self, _net: nn.Module, _args: Any, output: Any) -> None:
        if self.states is not None and self.replaced.noise is not None and isinstance(output, Tensor):
            self.states.leave(self.override.index, output)
        self.replaced.noise = None  # net.model may be called by others


class _States:
    """The states that a schedule's own sampler makes of what ``net`` returned: another sampler is found out at the second evaluation,
    though it calls at the same sigmas. Not where fresh noise comes in."""

    def __init__(self, schedule: Schedule) -> None:
        tableau = schedule.tableau()
        self.sampler = schedule.sampler
        self.stages: tuple[Stage, ...] = () if tableau.stochastic else tableau.stages
        self.registers: dict[str, Tensor] = {}  # what the sampler retained
        self.x: Tensor | None = None  # at the evaluation that is under way
        self.ahead: Tensor | None = None  # at the next

    def arrive(self, index: int, x: Tensor) -> None:
        """The host is at ``x`` (B, ...), evaluation ``index``. ValueError where the schedule's sampler is not."""
        ahead, self.x, self.ahead = self.ahead, x.detach(), None
        if index == 0:
            self.registers = {}
            self._check_start(x)
        elif ahead is not None and ahead.shape == x.shape:
            off = float((x.detach() - ahead).abs().max() / ahead.abs().max())
            if not off <= _SAME_STATE.get(x.dtype, 5e-5):
                raise ValueError(
                    f"sampler must step as the schedule's {self.sampler!r} does, got another state at evaluation {index} ({off:.1e} off); "
                    f"ablation_sampler needs schedule='linear', scaling='none' and the schedule's solver. Where guidance or a mask changes "
                    f"the states on purpose: ttune.edm.apply(net, schedule, check_steps=False)"
                )

    def _check_start(self, x: Tensor) -> None:
        """A UserWarning where the state is far larger than noise of its sigma, and an image, can be."""
        largest = 8 * (self.stages[0].sigma ** 2 + 1) ** 0.5 if self.stages else float("inf")
        deviation = float(x.detach().float().std()) if x.numel() > 1 else 0.0
        if deviation > largest:
            warn(
                f"latents must be unit noise, which EDM's samplers multiply by sigma ({self.stages[0].sigma:g}), got a state of standard "
                f"deviation {deviation:.3g}; of ttune's x_T they are ttune.edm.start(schedule, x_T)"
            )

    def leave(self, index: int, D: Tensor) -> None:
        """``D`` (B, ...) is what ``net`` returned at evaluation ``index``."""
        x, self.x = self.x, None
        if index >= len(self.stages) - 1:  # no evaluation follows that could be checked
            self.registers = {}
            return
        if x is None or D.shape != x.shape:
            return
        stage, D = self.stages[index], D.detach().to(x.dtype)
        known = {"x": x, "D": D, "eps": (x - D) / stage.sigma, **self.registers}
        self.ahead = _row(stage.update, known)
        self.registers = {name: _row(row, known) for name, row in stage.retain.items()}


def _row(row: Row, known: dict[str, Tensor]) -> Tensor:
    return torch.stack([weight * known[name] for name, weight in row.items()]).sum(0)


class _Times:
    """``net.round_sigma``: of a whole grid the schedule's times instead, of one sigma what it was."""

    def __init__(self, original: Any, schedule: Schedule) -> None:
        self.original, self.schedule = original, schedule

    def __call__(self, sigma: Any, *args: Any, **kwargs: Any) -> Any:
        given = torch.as_tensor(sigma)
        if given.ndim != 1 or args or kwargs:
            # One sigma, on its way into the network: it is the solver's, which a table of the network's must not move.
            return self.original(sigma, *args, **kwargs) if args or kwargs else given
        times = self.schedule.times[self.schedule.times > 0]
        if len(given) != len(times):
            raise ValueError(f"num_steps must be {len(times)}, the steps of the schedule that is applied to this net, got {len(given)}")
        return torch.tensor(times, dtype=given.dtype, device=given.device)


class _EdmPreconditioned(nn.Module):
    """D of ``net`` at sigma = ``position``, whose network is passed ``tau``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.training = False  # its own flag means nothing, the net has one
        self.net = net
        self.noise_of = _NoiseInput(net)

    def forward(self, x: Tensor, tau: Tensor, *, position: float, **conditions: Any) -> Tensor:
        replaced = _Replaced(self.net, self.noise_of(x, tau, conditions))
        undo = replaced.hook()
        try:
            return self.net.forward(x, torch.full_like(tau, position), **conditions)
        finally:
            undo()


class _Replaced:
    """``noise`` in the place of the second argument of ``net.model``; None leaves it alone."""

    def __init__(self, net: nn.Module, noise: Tensor | None = None) -> None:
        self.model, self.noise = _model(net), noise

    def hook(self) -> Any:
        """Begin; the function that ends it."""
        return self.model.register_forward_pre_hook(self, with_kwargs=True).remove

    def __call__(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self.noise is None:
            return None
        if len(args) > 1:
            return (args[0], self.noise.to(args[1].dtype), *args[2:]), kwargs
        return args, {**kwargs, "noise_labels": self.noise.to(kwargs["noise_labels"].dtype)}


class _Reached(Exception):
    """Carries what the network would have been passed, and spares its evaluation."""

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise


class _NoiseInput:
    """c_noise as ``net`` itself makes it of sigma = ``tau``: its formula is the net's own, and is run as far as it goes.

    ValueError for a net whose c_noise is the nearest of a table: the first one must have a fraction, or that of another sigma.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net, self.continuous = net, False

    def __call__(self, x: Tensor, tau: Tensor, conditions: dict[str, Any]) -> Tensor:
        noise = self._of(x, tau, conditions)
        if not self.continuous:
            # One whole number is none yet: log(sigma) / 4 is 0 at sigma = 1.
            if _whole(noise) and _whole(self._of(x, tau * 1.37, conditions)):
                raise ValueError(
                    f"net must have a c_noise that is continuous in sigma, got a {type(self.net).__name__} whose c_noise is a whole number "
                    f"({float(noise.reshape(-1)[0]):g}), as iDDPMPrecond's: network times would be rounded"
                )
            self.continuous = True
        return noise

    def _of(self, x: Tensor, tau: Tensor, conditions: dict[str, Any]) -> Tensor:
        def stop(_model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
            raise _Reached(args[1] if len(args) > 1 else kwargs["noise_labels"])

        # In front of another schedule's hook, which would replace it.
        handle = _model(self.net).register_forward_pre_hook(stop, prepend=True, with_kwargs=True)
        try:
            self.net.forward(x, tau, **conditions)
        except _Reached as reached:
            return reached.noise
        finally:
            handle.remove()
        raise TypeError(
            f"net must call net.model(x, noise_labels, ...), as EDM's preconditioned networks do, got {type(self.net).__name__}"
        )


def _whole(noise: Tensor) -> bool:
    return bool((noise.detach() % 1 == 0).all())


def _model(net: nn.Module) -> nn.Module:
    return net.get_submodule("model")


def _check_net(net: Any) -> None:
    if not isinstance(net, nn.Module) or not isinstance(getattr(net, "model", None), nn.Module):
        raise TypeError(
            f"net must be a preconditioned network of EDM's convention, a module with a module net.model, got {type(net).__name__}"
        )
