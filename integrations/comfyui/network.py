"""ComfyUI's model as a network of ttune's: the guider, with masks and conditionings, predicts x_0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ttune.noise.continuous import Flow
from ttune.noise.schedules import NoiseSchedule

from .host import alphas, levels, prediction_type


class HostNetwork:
    """``network(x, tau, position=)`` for a :class:`ttune.Denoiser`: ``model(x, sigma, **extra_args)``, in ComfyUI's units.

    Meanwhile ``host``, its ``model_sampling``, has :meth:`time` as its ``timestep`` (:class:`comfyui.timed.TimedGuider`), and
    :meth:`denoised` as its ``calculate_denoised``.
    """

    def __init__(self, model: Callable[..., Tensor], host: Any, noise: NoiseSchedule, extra_args: dict[str, Any]) -> None:
        self.model, self.noise, self.extra_args = model, noise, extra_args
        self.model_timestep, self.model_denoised, self.prediction = host.timestep, host.calculate_denoised, prediction_type(host)
        self.tau, self.without_signal = None, False

    def __call__(self, x: Tensor, tau: Tensor, *, position: float) -> Tensor:
        self.tau, self.without_signal = tau, float(self.noise.alpha(position)) == 0 and not isinstance(self.noise, Flow)
        x_host = x / float(alphas(self.noise, position))
        return self.model(x_host, x.new_full(x.shape[:1], float(levels(self.noise, position))), **self.extra_args)

    def time(self, _sigma: Tensor) -> Tensor:
        """What this evaluation passes to the network: the index of discrete models, else what the model makes of a sigma."""
        assert self.tau is not None
        return self.tau if self.noise.discrete_steps is not None else self.model_timestep(self.tau)

    def denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        """The model's prediction of x_0. Where alpha = 0, ComfyUI's formulas have a large number for an infinite sigma."""
        if not self.without_signal:
            return self.model_denoised(sigma, output, x)
        return -output if self.prediction == "v_prediction" else output
