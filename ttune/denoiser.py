"""Any network, seen as one prediction of x_0: the one place where the conditioning time reaches a network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ttune.noise import NoiseSchedule
from ttune.prediction import PREDICTION_TYPES, data_row

Network = Callable[..., Tensor]
Conditions = Mapping[str, Any]


@dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance (Ho and Salimans 2022): scale * output(conditions) + (1 - scale) * output(null).

    ``null`` holds, per condition, the value that means "no condition": a number, or a tensor that broadcasts
    to the condition's shape. Both outputs come from one batched call.
    """

    scale: float
    null: Conditions

    def __post_init__(self) -> None:
        if not abs(self.scale) < float("inf"):
            raise ValueError(f"scale must be a finite number, got {self.scale}")


@dataclass
class Denoiser:
    """A frozen network together with all that is needed to read an x_0 prediction from it.

    ``network(x, tau, **conditions)``: x (B, ...), tau (B,) in the dtype of x (float32 for the half types), returns
    the shape of x. ``clip_sample`` clamps the x_0 prediction to [-clip_sample, clip_sample]; solvers in epsilon then recompute it
    from the clamped prediction (``clip_epsilon="recompute"``, guided-diffusion's way) or keep the network's
    ("keep", diffusers' default). ``integer_time`` says that the network only knows whole times.
    ``name``, ``sample_shape`` (without batch) and ``draw_conditions`` (seeds (B,) -> conditions) are optional
    knowledge that saves the caller from repeating it. ``evaluations`` counts the samples that the network saw.
    """

    network: Network
    noise: NoiseSchedule
    prediction_type: str = "epsilon"
    guidance: ClassifierFree | None = None
    clip_sample: float | None = None
    clip_epsilon: str = "recompute"
    integer_time: bool = False
    name: str = ""
    sample_shape: tuple[int, ...] | None = None
    draw_conditions: Callable[[Tensor], Conditions] | None = None
    evaluations: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not callable(self.network):
            raise TypeError(f"network must be callable as network(x, tau, **conditions), got {type(self.network).__name__}")
        if not isinstance(self.noise, NoiseSchedule):
            raise TypeError(f"noise must be a ttune.NoiseSchedule, got {type(self.noise).__name__}")
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"prediction_type must be one of {sorted(PREDICTION_TYPES)}, got {self.prediction_type!r}")
        if self.clip_sample is not None and not 0 < self.clip_sample < float("inf"):
            raise ValueError(f"clip_sample must be a positive number or None, got {self.clip_sample}")
        if self.clip_epsilon not in ("recompute", "keep"):
            raise ValueError(f"clip_epsilon must be 'recompute' or 'keep', got {self.clip_epsilon!r}")

    def __call__(self, x: Tensor, t: float, tau: float | Tensor | None = None, **conditions: Any) -> Tensor:
        """The x_0 prediction (B, ...) for a state x (B, ...) that stands at time ``t`` when the network is told ``tau``."""
        D = self.unclipped(x, t if tau is None else tau, conditions, float(self.noise.alpha(t)), float(self.noise.sigma(t)))
        return D if self.clip_sample is None else D.clamp(-self.clip_sample, self.clip_sample)

    def unclipped(self, x: Tensor, tau: float | Tensor, conditions: Conditions, alpha: float, sigma: float) -> Tensor:
        """The x_0 prediction before clipping, for a state with these alpha and sigma when the network is told ``tau``."""
        x_weight, *output_weights = self.data_row(alpha, sigma)
        outputs = self.outputs(x, tau, conditions)
        return x_weight * x + sum(weight * output for weight, output in zip(output_weights, outputs, strict=True))

    def outputs(self, x: Tensor, tau: float | Tensor, conditions: Conditions | None = None) -> list[Tensor]:
        """The network's own outputs: one, or with guidance two (with and without conditions). No arithmetic on them."""
        self.evaluations += x.shape[0] * self.evaluations_per_call
        return self.evaluate(x, tau, conditions)

    @property
    def evaluations_per_call(self) -> int:
        """How many evaluations of the network one sample costs: with guidance two."""
        return 1 if self.guidance is None or self.guidance.scale == 1.0 else 2

    def evaluate(self, x: Tensor, tau: float | Tensor, conditions: Conditions | None = None) -> list[Tensor]:
        """:meth:`outputs` without counting: a counter would be a new graph per call under torch.compile."""
        conditions = dict(conditions or {})
        batch = x.shape[0]
        time_dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32  # bfloat16 has 126 values in (500, 1000]
        tau = torch.as_tensor(tau, dtype=time_dtype, device=x.device)
        if tau.ndim == 0:
            tau = tau.expand(batch)
        if self.evaluations_per_call == 1:
            return [self._call(x, tau, conditions)]
        null = self._null_conditions(conditions, batch, x.device)
        both = {k: _twice(v, null.get(k), batch, x.device) for k, v in conditions.items()}
        return list(self._call(torch.cat([x, x]), torch.cat([tau, tau]), both).chunk(2))

    def data_row(self, alpha: float, sigma: float) -> tuple[float, ...]:
        """Coefficients of the (unclipped) x_0 prediction over (x, *outputs) for a state with these alpha and sigma."""
        return data_row(self.prediction_type, alpha, sigma, None if self.guidance is None else self.guidance.scale)

    def identity(self) -> dict[str, Any]:
        """What a tuned schedule remembers of the denoiser it belongs to (see :meth:`differences`)."""
        identity: dict[str, Any] = {
            "prediction_type": self.prediction_type,
            "guidance_scale": None if self.guidance is None else float(self.guidance.scale),
            "clip_sample": self.clip_sample,
            "clip_epsilon": self.clip_epsilon,
        }
        if self.name:
            identity["name"] = self.name
        module = self.network
        if isinstance(module, torch.nn.Module):
            module = getattr(module, "_orig_mod", module)  # torch.compile wraps; the parameters are the same
            shapes = sorted((k, tuple(v.shape)) for k, v in module.state_dict().items())
            identity["parameter_shapes"] = hashlib.sha256(repr(shapes).encode()).hexdigest()
        return identity

    def weights_digest(self) -> str | None:
        """A digest of the weights themselves, cheap even for large networks: of every parameter's sum; None for a plain function."""
        if not isinstance(self.network, torch.nn.Module):
            return None
        sums = [value.detach().double().sum().item() for value in self.network.state_dict().values()]
        return hashlib.sha256(repr(sums).encode()).hexdigest()

    def differences(self, remembered: Mapping[str, Any]) -> list[str]:
        """What this denoiser and a remembered :meth:`identity` both state, and state differently."""
        mine = self.identity()
        return [f"{k} is {mine[k]!r}, the schedule was tuned for {v!r}" for k, v in remembered.items() if k in mine and mine[k] != v]

    def _call(self, x: Tensor, tau: Tensor, conditions: Conditions) -> Tensor:
        output = self.network(x, tau, **conditions)
        if not isinstance(output, Tensor):
            raise TypeError(f"network must return a tensor, got {type(output).__name__}; wrap it in a function that picks the prediction")
        if output.shape != x.shape:
            raise ValueError(f"network must return the shape of x, {tuple(x.shape)}, got {tuple(output.shape)}")
        # Autocast, or a time in float32 beside a state in bfloat16, changes the dtype on the way; the state keeps its own.
        return output.to(x.dtype)

    def _null_conditions(self, conditions: Conditions, batch: int, device: torch.device) -> dict[str, Tensor]:
        assert self.guidance is not None
        missing = [k for k in self.guidance.null if k not in conditions]
        if missing:
            raise ValueError(f"conditions must give {missing} for classifier-free guidance, got {sorted(conditions)}")
        null = {}
        for k, value in self.guidance.null.items():
            given = torch.as_tensor(conditions[k], device=device)
            if given.ndim == 0 or given.shape[0] != batch:
                raise ValueError(f"conditions[{k!r}] must have one row per sample, {batch}, got shape {tuple(given.shape)}")
            null[k] = torch.as_tensor(value, device=device, dtype=given.dtype).expand_as(given)
        return null


def _twice(value: Any, null: Tensor | None, batch: int, device: torch.device) -> Any:
    """A condition for the batch of both halves; what guidance does not replace by its null is the same in both."""
    if null is not None:
        return torch.cat([torch.as_tensor(value, device=device), null])
    per_sample = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch
    return torch.cat([value, value]) if per_sample else value


def select(conditions: Conditions, rows: slice | Tensor, n: int) -> Conditions:
    """The ``rows`` of per-sample conditions; what has no batch of ``n`` rows is shared by all samples and stays as it is."""
    return {k: v[rows] if isinstance(v, Tensor) and v.ndim > 0 and v.shape[0] == n else v for k, v in conditions.items()}
