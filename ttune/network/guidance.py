"""Guidance: how conditions steer a prediction. Linear, so it becomes coefficients; what is not linear says so.

A guidance says how many outputs one evaluation has, what they are, and how they enter the prediction of x_0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ttune.network.conditions import is_shared, leaves, mapped_with_path, per_sample, repeated
from ttune.samplers.points import Point

Conditions = Mapping[str, Any]
Network = Callable[[Tensor, Tensor, Conditions], Tensor]
Scale = float | Sequence[float] | Callable[[Point], float]


class Guidance(Protocol):
    """What a denoiser asks of its guidance. ``scale``: a number, one per evaluation, or a function of the evaluation's point."""

    scale: Any

    def scale_at(self, index: int, point: Point) -> float:
        """The scale at evaluation ``index``, which is at ``point``."""
        scale: Any = self.scale
        if callable(scale):
            value: Any = scale(point)
            _finite("scale", float(value))
            return float(value)
        if isinstance(scale, (int, float)):
            return float(scale)
        self.check_length(max(index + 1, len(scale)))
        return float(scale[index])

    def idle(self, scale: float) -> bool:
        """Whether a plain evaluation does at this scale."""
        return False

    def weights(self, q: float, scale: float, point: Point) -> tuple[float, ...]:
        """Coefficients of the outputs in the prediction of x_0, where a plain output has ``q``."""
        ...

    def outputs(self, network: Network, x: Tensor, tau: Tensor, conditions: Conditions, scale: float) -> list[Tensor]:
        """The outputs of one guided evaluation."""
        ...

    def cost(self, scale: float) -> int:
        """How many evaluations of the network one sample costs."""
        return 1

    def settings(self) -> dict[str, Any]:
        """What a tuned schedule remembers of it, in plain values."""
        return {"guidance_scale": _described(self.scale)}

    def check_length(self, evaluations: int) -> None:
        """ValueError if there are scales per evaluation, and not as many as evaluations."""
        if isinstance(self.scale, tuple) and len(self.scale) != evaluations:
            raise ValueError(f"scale must have one number per evaluation, {evaluations}, got {len(self.scale)}")


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """Classifier-free guidance (Ho and Salimans 2022): scale * output(conditions) + (1 - scale) * output(null).

    The formula holds at every scale: 1 is output(conditions), and 0 is output(null), which is not what pipelines mean by 0 (no guidance).

    ``null`` holds, per condition, the value that means "no condition": a number, or a tensor that broadcasts
    to the condition's shape; of a condition that holds others, a mapping or a list of such values, or one value for all of them.

    ``scale``: a number, one per evaluation, or a function of the evaluation's :class:`Point` (t, alpha, sigma, rho).
    ``interval``: (low, high) in sigma / alpha outside which the scale is 1 and one evaluation does (Kynkäänniemi et al. 2024).
    ``rescale``: phi of Lin et al. 2024, section 3.4: the guided output gets, in this proportion, the standard deviation that
    the conditional one has in each sample. Not linear: it takes a pass of its own.
    ``batched``: both halves in one call of the network (in smaller ones from the first time on that memory runs out, as any call of a
    denoiser), or, if False, in two, which need half the memory.
    """

    scale: Scale
    null: Conditions
    interval: tuple[float, float] | None = None
    rescale: float = 0.0
    batched: bool = True
    _copied: dict[tuple[str, torch.device], Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _checked_scale(self.scale))
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1]:
            raise ValueError(f"interval must be (low, high) in sigma / alpha with 0 <= low < high, got {self.interval}")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale must lie in [0, 1], got {self.rescale}")

    def scale_at(self, index: int, point: Point) -> float:
        if self.interval is not None and not self.interval[0] <= point.rho <= self.interval[1]:
            return 1.0
        return super().scale_at(index, point)

    def idle(self, scale: float) -> bool:
        return scale == 1.0

    def weights(self, q: float, scale: float, point: Point) -> tuple[float, ...]:
        return (q,) if self.rescale else (q * scale, q * (1 - scale))

    def cost(self, scale: float) -> int:
        return 2

    def settings(self) -> dict[str, Any]:
        # The interval as words: JSON has no infinity.
        interval = None if self.interval is None else f"{self.interval[0]:g} to {self.interval[1]:g}"
        more = {"guidance_interval": interval, "guidance_rescale": self.rescale or None}
        return super().settings() | {name: value for name, value in more.items() if value is not None}

    def outputs(self, network: Network, x: Tensor, tau: Tensor, conditions: Conditions, scale: float) -> list[Tensor]:
        halves = conditions if isinstance(conditions, Halves) else self.prepared(conditions, x)
        if self.batched:
            outputs = list(network(torch.cat([x, x]), torch.cat([tau, tau]), halves.both).chunk(2))
        else:
            # A copy: the second call may be written into the memory of the first.
            outputs = [network(x, tau, halves).clone(), network(x, tau, halves.null)]
        conditional, without = outputs
        return [_rescaled(conditional, without, scale, self.rescale)] if self.rescale else outputs

    def prepared(self, conditions: Conditions, x: Tensor, shared: Sequence[str] = ()) -> Halves:
        """``conditions`` of a batch like ``x`` with what :meth:`outputs` makes of them: a loop makes it once.

        ``shared``: as :attr:`ttune.Denoiser.shared`. ValueError for a null that does not go with its condition.
        """
        missing = [k for k in self.null if k not in conditions]
        if missing:
            raise ValueError(f"conditions must give {missing} for classifier-free guidance, got {sorted(conditions)}")
        given: dict[str, Any] = {}
        made: dict[str, Any] = {}  # for both halves, or without the conditions
        for name, value in conditions.items():
            pairs = self._pairs(name, value, self.null[name], x, shared) if name in self.null else {}
            given[name] = pairs[name][0] if name in pairs else value  # a list of numbers is one tensor
            made[name] = self._made(name, given[name], pairs, x.shape[0], shared)
        return Halves(given, {}, made) if self.batched else Halves(given, made, {})

    def _made(self, name: str, value: Any, pairs: Mapping[str, tuple[Tensor, Tensor]], batch: int, shared: Sequence[str]) -> Any:
        """``value`` for both halves in one call, or its null for a call of its own."""

        def of(path: str, leaf: Any) -> Any:
            if path in pairs:
                return torch.cat(pairs[path]) if self.batched else pairs[path][1]
            return repeated(leaf, 2) if self.batched and per_sample(leaf, batch) and not is_shared(path, shared) else leaf

        return of(name, value) if isinstance(value, Tensor) else mapped_with_path(of, value, name)

    def _pairs(self, name: str, given: Any, null: Any, x: Tensor, shared: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """(what is given, its null), both with a row per sample, at the path of every tensor that a null replaces."""
        if isinstance(given, Tensor):
            return {name: self._pair(name, given, name, null, x, keep_rows=not self.batched and is_shared(name, shared))}
        held = dict(leaves(given, name))
        if not any(isinstance(leaf, (Tensor, np.ndarray)) for leaf in held.values()):
            held = {name: given}  # a list of numbers is one tensor
        nulls = {name: null} if name in held else dict(leaves(null, name))
        pairs: dict[str, tuple[Tensor, Tensor]] = {}
        used: set[str] = set()
        for path, leaf in held.items():
            at = path if path in nulls else next((p for p in _with_parents(path) if p in nulls), None)
            # One value for all of a condition is the null of its tensors.
            if at is not None and (at == path or isinstance(leaf, (Tensor, np.ndarray))):
                used.add(at)
                pairs[path] = self._pair(path, leaf, at, nulls[at], x, keep_rows=not self.batched and is_shared(path, shared))
        if len(used) < len(nulls):
            raise ValueError(f"null[{min(set(nulls) - used)!r}] must be the null of a condition, of {sorted(held)}")
        return pairs

    def _pair(self, path: str, given: Any, at: str, null: Any, x: Tensor, *, keep_rows: bool) -> tuple[Tensor, Tensor]:
        given = torch.as_tensor(given, device=x.device)
        if not keep_rows:
            if given.ndim == 0 or given.shape[0] not in (1, x.shape[0]):
                raise ValueError(f"conditions[{path!r}] must have one row per sample, {x.shape[0]}, got shape {tuple(given.shape)}")
            if given.shape[0] != x.shape[0]:
                given = given.expand(x.shape[0], *given.shape[1:])
        if isinstance(null, (int, float)):  # filled there, and not copied: a host that copies waits for a GPU
            return given, torch.full_like(given, null)
        value = self._there(at, null, x.device)
        try:
            return given, value.to(given.dtype).expand_as(given)
        except RuntimeError:
            raise ValueError(
                f"null[{at!r}] must be a number, or broadcast to the shape of its condition, {tuple(given.shape)}, got {tuple(value.shape)}"
            ) from None

    def _there(self, name: str, value: Any, device: torch.device) -> Tensor:
        """A null on the device of the states: copied there once, since a copy within a captured graph is an error."""
        if isinstance(value, Tensor) and value.device == device:
            return value
        if (name, device) not in self._copied:
            self._copied[name, device] = torch.as_tensor(value, device=device)
        return self._copied[name, device]


class Halves(dict[str, Any]):
    """Conditions, and what guidance asks the network with: ``both`` for one call with both halves of the batch, or ``null``
    for the call without conditions."""

    def __init__(self, conditions: Conditions, null: Conditions, both: Conditions) -> None:
        super().__init__(conditions)
        self.null, self.both = null, both


@dataclass(frozen=True)
class Classifier(Guidance):
    """Classifier guidance (Dhariwal and Nichol 2021): epsilon - scale * sigma * grad of log p(y | x_t) with respect to x_t.

    ``log_prob(x, tau, **conditions)``: (B,) log-probabilities, differentiable in x. ``scale``: as for
    :class:`ClassifierFree`. It gets all conditions; the network gets those not named in ``only``, which are the
    classifier's own: at scale 0 too, where it is not idle. Linear in the gradient, which is one more output of the evaluation.
    """

    log_prob: Callable[..., Tensor]
    scale: Scale = 1.0
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.log_prob):
            raise TypeError(f"log_prob must be callable as log_prob(x, tau, **conditions), got {type(self.log_prob).__name__}")
        object.__setattr__(self, "scale", _checked_scale(self.scale))

    def weights(self, q: float, scale: float, point: Point) -> tuple[float, ...]:
        if point.alpha == 0 and scale:
            raise ValueError(f"guidance by a Classifier says nothing about x_0 where alpha = 0 (t = {point.t:g}); start below that")
        # epsilon' = epsilon - s sigma g, and x_0 = (x - sigma epsilon') / alpha
        return q, scale * point.sigma**2 / point.alpha if scale else 0.0

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"guidance": "classifier"}

    def outputs(self, network: Network, x: Tensor, tau: Tensor, conditions: Conditions, scale: float) -> list[Tensor]:
        own = {k: v for k, v in conditions.items() if k not in self.only}
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            log_prob = self.log_prob(leaf, tau.clone(), **conditions)
            if log_prob.shape != x.shape[:1]:
                raise ValueError(f"log_prob must return one number per sample, shape ({x.shape[0]},), got {tuple(log_prob.shape)}")
            (gradient,) = torch.autograd.grad(log_prob.sum(), leaf)
        return [network(x, tau, own), gradient.to(x.dtype)]


def _checked_scale(scale: Any) -> Scale:
    if callable(scale):
        return scale  # pyright: ignore[reportReturnType]
    if isinstance(scale, Real):
        _finite("scale", float(scale))
        return float(scale)
    numbers = tuple(float(s) for s in scale)
    for s in numbers:
        _finite("scale", s)
    return numbers


def _described(scale: Scale) -> Any:
    if callable(scale):
        return f"a function: {getattr(scale, '__qualname__', type(scale).__name__)}"
    return list(scale) if isinstance(scale, tuple) else scale


def _finite(name: str, value: float) -> None:
    if not abs(value) < float("inf"):
        raise ValueError(f"{name} must be a finite number, got {value}")


def _rescaled(conditional: Tensor, null: Tensor, scale: float, phi: float) -> Tensor:
    guided = null + scale * (conditional - null)
    dims = tuple(range(1, guided.ndim))
    wanted, has = conditional.std(dims, keepdim=True), guided.std(dims, keepdim=True)
    factor = torch.where(has > 0, wanted / has, torch.ones_like(has))  # a constant has nothing to rescale
    return guided * (phi * factor + (1 - phi))


def _with_parents(path: str) -> list[str]:
    """Of "a.b.c" itself, "a.b" and "a"."""
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(len(parts), 0, -1)]
