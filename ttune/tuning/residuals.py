"""What tuning makes equal: maps from samples to the vectors whose mean square difference from the teacher's becomes small.

Each is a frozen value with a ``name``, called as ``residual(x_0, conditions) -> (B, m)``. Some need to see the teacher's samples
before they can be used (:func:`fitted`): which layer is the middle one, how large the parts of a sum are. Any function of
one argument (images) or two (images, conditions) will do too (:func:`as_residual`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ttune.evaluation.features.extractor import FeatureExtractor, lenet64
from ttune.messages.names import meant
from ttune.network.denoiser import Conditions, Denoiser, Evaluation, select
from ttune.tuning.middle_layer import middle_layer

Batches = Sequence[tuple[Tensor, Conditions]]  # the teacher's samples, a few at a time

# log(alpha / sigma) at t = 10 of the linear schedule of 1,000 steps: there the frozen network's activations on the final image
# brought the Fréchet distance at five steps from 10.9 to 9.0 for .5 % of RMSE, on a real pixel model.
NEARLY_CLEAN = 3.06


class Named(Protocol):
    """A residual map of this file."""

    @property
    def name(self) -> str: ...

    def __call__(self, x: Tensor, conditions: Conditions) -> Tensor: ...


@dataclass(frozen=True)
class SampleResidual:
    """The samples themselves: what no residual map at all means; a part for :class:`Sum`."""

    name: str = "samples"

    def __call__(self, x: Tensor, conditions: Conditions) -> Tensor:
        return x.flatten(1)


@dataclass(frozen=True)
class Features:
    """``network(images) -> (B, ...)``, a frozen feature network, or any function of the samples alone.

    The samples go to the dtype and device of its weights. A :class:`ttune.evaluation.FeatureExtractor` is used without the copy to
    the CPU that would end the gradient; like there, its images are clamped to [-1, 1]. Solvers that backpropagate need
    differentiable features; "levenberg-marquardt" needs nothing.
    """

    network: Callable[[Tensor], Tensor]
    label: str = ""

    @property
    def name(self) -> str:
        return self.label or f"features {getattr(self.network, 'name', '') or _called(self.network)}"

    def __call__(self, x: Tensor, conditions: Conditions) -> Tensor:
        if isinstance(self.network, FeatureExtractor):
            images = x.to(self.network.device, torch.float32).clamp(-1.0, 1.0)
            return _rows(self.network.function(images), x, self.name)
        weight = next((w for w in _weights(self.network) if w.is_floating_point()), x)
        return _rows(self.network(x.to(weight.device, weight.dtype)), x, self.name)


@dataclass(frozen=True)
class OwnActivations:
    """What the frozen network itself makes of a finished image in its middle: features without any outside weights.

    The image (times alpha, no noise added) is shown to the network at ``time`` (by default where sigma / alpha is that of t = 10
    in the linear schedule) with its conditions, without guidance, and the output of the module ``layer`` is taken; None finds the
    middle one (:func:`ttune.tuning.middle_layer.middle_layer`). Each call of the network counts in ``denoiser.evaluations``.
    ``module``: where the denoiser's network is a function around an nn.Module, that module.
    """

    denoiser: Denoiser
    layer: str | None = None
    time: float | None = None
    module: nn.Module | None = None

    def __post_init__(self) -> None:
        module = self._module()
        if self.layer is not None and self.layer not in dict(module.named_modules()):
            near = [name for name, _ in module.named_children()]
            raise ValueError(f"layer must be a module's name in the network, such as {near}, got {self.layer!r}")
        if self.time is not None and not self.denoiser.noise.t_min <= self.time <= self.denoiser.noise.t_max:
            noise = self.denoiser.noise
            raise ValueError(f"time must lie in the trained range [{noise.t_min:g}, {noise.t_max:g}], got {self.time}")

    @property
    def name(self) -> str:
        return f"own activations of {'the middle layer' if self.layer is None else repr(self.layer)} at t = {self._time():.4g}"

    def fitted(self, batches: Batches) -> OwnActivations:
        if self.layer is not None:
            return self
        x, conditions = batches[0]
        one = select(conditions, slice(0, 1), len(x), self.denoiser.shared)
        return dataclasses.replace(self, layer=middle_layer(self._module(), lambda x: self._network(x, one), x[:1]))

    def __call__(self, x: Tensor, conditions: Conditions) -> Tensor:
        if self.layer is None:
            raise ValueError("layer must be known: give its name, or let tune() fit this residual first")
        seen: list[Any] = []
        handle = self._module().get_submodule(self.layer).register_forward_hook(lambda _m, _i, output: seen.append(output))
        try:
            self._network(x, conditions)
        finally:
            handle.remove()
        if not seen:
            raise ValueError(f"layer: the network does not run its module {self.layer!r}")
        return _rows(seen[-1], x, self.name)

    def _network(self, x: Tensor, conditions: Conditions) -> None:
        t = self._time()
        network = self.denoiser.network_at(t)
        # A compiled network would not run hooks that it was not compiled with; what it wraps does.
        network = getattr(network, "_orig_mod", network)
        only = getattr(self.denoiser.guidance, "only", ())  # a classifier's own conditions
        own = {k: v for k, v in conditions.items() if k not in only}
        state = x * float(self.denoiser.noise.alpha(t))
        self.denoiser.outputs(state, t, own, Evaluation(network, None, ()))

    def _time(self) -> float:
        noise = self.denoiser.noise
        if self.time is not None:
            return self.time
        t = min(max(float(noise.time(NEARLY_CLEAN)), noise.t_min), noise.t_max)
        return float(round(t)) if self.denoiser.integer_time else t

    def _module(self) -> nn.Module:
        network = self.denoiser.network_at(self._time())
        module = self.module if self.module is not None else getattr(network, "_orig_mod", network)
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be given: the denoiser's network is a {type(network).__name__}, whose layers are not known")
        return module


@dataclass(frozen=True)
class Decoded:
    """``then`` of what a latent decoder makes of the samples; by default the decoded images themselves.

    ``decoder(latents) -> images``: a tensor, scaled as the decoder wants it (a diffusers VAE: ``lambda z: vae.decode(z /
    vae.config.scaling_factor).sample``).
    """

    decoder: Callable[[Tensor], Tensor]
    then: Callable[[Tensor, Conditions], Tensor] = SampleResidual()

    @property
    def name(self) -> str:
        return f"{name_of(self.then)} decoded by {_called(self.decoder)}"

    def fitted(self, batches: Batches) -> Decoded:
        return dataclasses.replace(self, then=fitted(self.then, [(self._images(x), conditions) for x, conditions in batches]))

    def __call__(self, x: Tensor, conditions: Conditions) -> Tensor:
        return self.then(self._images(x), conditions)

    def _images(self, x: Tensor) -> Tensor:
        weight = next((w for w in _weights(self.decoder) if w.is_floating_point()), x)
        images = self.decoder(x.to(weight.device, weight.dtype))
        _rows(images, x, "decoder")
        return images


@dataclass(frozen=True)
class Sum:
    """Several residual maps at once: mean square = sum of weight x (mean square of a part / spread of that part).

    The spread of a part is the variance of the teacher's samples in it, so that weight 1 for each takes one per cent of the variation
    in features as seriously as one per cent of that in pixels; the whole is in the unit of the first part.
    ``weights``: one number per part; 1 each by default.
    """

    parts: tuple[Callable[[Tensor, Conditions], Tensor], ...]
    weights: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()  # found by :meth:`fitted`

    def __init__(
        self, parts: Sequence[Callable[..., Tensor]], weights: Sequence[float] | None = None, scales: Sequence[float] = ()
    ) -> None:
        if not parts:
            raise ValueError("parts must name at least one residual map, got none")
        weights = [1.0] * len(parts) if weights is None else [float(w) for w in weights]
        if len(weights) != len(parts) or not all(0 < w < float("inf") for w in weights):
            raise ValueError(f"weights must be one positive number per part, {len(parts)}, got {weights}")
        object.__setattr__(self, "parts", tuple(as_residual(part) for part in parts))
        object.__setattr__(self, "weights", tuple(weights))
        object.__setattr__(self, "scales", tuple(scales))

    @property
    def name(self) -> str:
        return " + ".join(
            name_of(part) if weight == 1 else f"{weight:g} x {name_of(part)}" for part, weight in zip(self.parts, self.weights, strict=True)
        )

    @torch.no_grad()
    def fitted(self, batches: Batches) -> Sum:
        parts = [fitted(part, batches) for part in self.parts]
        spreads, sizes = [], []
        for part in parts:
            values = torch.cat([part(x, conditions).flatten(1).to(torch.float64, copy=True) for x, conditions in batches])
            spreads.append(_spread(values, name_of(part)))
            sizes.append(values.shape[1])
        unit, total = spreads[0] / self.weights[0], sum(sizes)
        squares = [w * unit / spread * total / size for w, spread, size in zip(self.weights, spreads, sizes, strict=True)]
        return Sum(parts, self.weights, [square**0.5 for square in squares])

    def __call__(self, x: Tensor, conditions: Conditions) -> Tensor:
        if not self.scales:
            raise ValueError("scales must be known: let tune() fit this residual first, or give them")
        # In one dtype: features in float32 beside samples in float64.
        parts = [part(x, conditions).flatten(1) for part in self.parts]
        dtype = max((p.dtype for p in parts), key=lambda d: torch.finfo(d).bits)
        return torch.cat([scale * p.to(x.device, dtype) for scale, p in zip(self.scales, parts, strict=True)], 1)


@dataclass(frozen=True)
class Function:
    """A function of samples and conditions that the caller wrote."""

    function: Callable[[Tensor, Conditions], Tensor]

    @property
    def name(self) -> str:
        return f"function {_called(self.function)}"

    def __call__(self, x: Tensor, conditions: Conditions) -> Tensor:
        return _rows(self.function(x, conditions), x, self.name)


def as_residual(value: Callable[..., Tensor]) -> Callable[[Tensor, Conditions], Tensor]:
    """A residual map from one of this file, or from any function of (samples) or of (samples, conditions)."""
    if isinstance(value, (SampleResidual, Features, OwnActivations, Decoded, Sum, Function)) or hasattr(value, "fitted"):
        return value
    if not callable(value):
        raise TypeError(f"residual must be callable as residual(samples) or residual(samples, conditions), got {type(value).__name__}")
    return Function(value) if _takes_conditions(value) else Features(value)


def named_residual(word: str, denoiser: Denoiser) -> Named | None:
    """By its word: "samples" (None), "own" (samples and :class:`OwnActivations`), or "lenet64" (samples and the bundled LeNet-64's
    features, for Fashion-MNIST: do not judge by a distance in the same features what was tuned to be near in them)."""
    made: dict[str, Callable[[], Named | None]] = {
        "samples": lambda: None,
        "own": lambda: Sum([SampleResidual(), OwnActivations(denoiser)]),
        "lenet64": lambda: Sum([SampleResidual(), Features(lenet64())]),
    }
    if word not in made:
        raise ValueError(f"residual must be one of {list(made)}, or a callable, got {word!r}{meant(word, made)}")
    return made[word]()


def fitted(residual: Callable[[Tensor, Conditions], Tensor], batches: Batches) -> Callable[[Tensor, Conditions], Tensor]:
    """``residual``, having seen the teacher's samples where it needs to."""
    fit = getattr(residual, "fitted", None)
    return residual if fit is None else fit(batches)


def name_of(residual: Callable[..., Tensor] | None) -> str:
    return "samples" if residual is None else getattr(residual, "name", "") or _called(residual)


def identity_of(residual: Callable[..., Tensor] | None) -> dict[str, Any]:
    """What makes this residual another than others, for a fingerprint: its name, and sums of the weights inside."""
    modules = [value for value in _inside(residual) if isinstance(value, nn.Module)]
    sums = [float(v.detach().double().sum()) for module in modules for v in module.state_dict().values()]
    digest = {"weights": hashlib.sha256(repr(sums).encode()).hexdigest()} if sums else {}
    return {"name": name_of(residual)} | digest


def _inside(value: Any) -> list[Any]:
    """The callables that a residual is made of; not the denoiser, which has a fingerprint of its own."""
    if isinstance(value, Sum):
        return [inner for part in value.parts for inner in _inside(part)]
    fields = {Features: ("network",), Decoded: ("decoder", "then"), Function: ("function",), FeatureExtractor: ("function",)}
    names = fields.get(type(value), ())
    return [value, *(inner for name in names for inner in _inside(getattr(value, name)))]


def _takes_conditions(function: Callable[..., Any]) -> bool:
    """Whether a second positional argument is asked for: one without a default, or one of that name."""
    try:
        parameters = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters.values()
    except (TypeError, ValueError):  # a builtin
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return any(p.default is p.empty or p.name == "conditions" for p in positional[1:2])


def _spread(values: Tensor, name: str) -> float:
    """The mean variance of the columns over samples; of a single sample the mean square."""
    spread = float((values - values.mean(0)).square().mean()) if len(values) > 1 else float(values.square().mean())
    if not 0 < spread < float("inf"):
        raise ValueError(f"residual: {name} is the same for every sample of the teacher, or not finite; there is nothing to compare")
    return spread


def _rows(output: Any, x: Tensor, name: str) -> Tensor:
    """``output`` as (B, m), or an error that names where it came from."""
    if not isinstance(output, Tensor):
        raise TypeError(f"residual: {name} must give a tensor, got {type(output).__name__}; wrap it in a function that picks one")
    if output.ndim < 1 or len(output) != len(x) or not output.is_floating_point():
        raise ValueError(
            f"residual: {name} must give floating values for each of {len(x)} samples, got {output.dtype} {tuple(output.shape)}"
        )
    return output.flatten(1) if output.ndim > 1 else output[:, None]


def _weights(value: Any) -> list[Tensor]:
    return [*value.parameters(), *value.buffers()] if isinstance(value, nn.Module) else []


def _called(value: Any) -> str:
    return getattr(value, "__qualname__", type(value).__name__)
