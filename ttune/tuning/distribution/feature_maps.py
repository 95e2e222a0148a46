"""What distributions are compared in: features of samples, several kinds side by side, each with a weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ttune.evaluation.features.extractor import FeatureExtractor, lenet64
from ttune.evaluation.features.local_contrast import local_contrast
from ttune.evaluation.features.pooled_pixels import pooled_pixels
from ttune.network.denoiser import Conditions, Denoiser
from ttune.tuning.residuals import as_residual, identity_of, name_of

# Beside the features of a network. With these alone the pixels' variance came out 5 % too high (bundled model, 5 steps); at .5 they held
# the features back (LeNet-64 1.26 on 500 seeds, at .1 1.18, from 1.96).
POOLED_WEIGHT = 0.2
LENET_SHAPE = (1, 28, 28)


@dataclass(frozen=True)
class Part:
    """One kind of features: ``function(pictures, conditions) -> (b, F)``; ``weight``: of its distance in the sum."""

    name: str
    function: Callable[[Tensor, Conditions], Tensor]
    weight: float = 1.0

    def __call__(self, pictures: Tensor, conditions: Conditions) -> Tensor:
        """(b, F) float64 on the CPU."""
        return self.function(pictures, conditions).flatten(1).double().cpu()

    def identity(self) -> dict[str, Any]:
        """For a checkpoint's fingerprint."""
        return {"name": self.name, "weight": self.weight, "function": identity_of(self.function)}


@dataclass
class FittedAtFirst:
    """A map with a method ``fitted`` (:class:`ttune.tuning.residuals.OwnActivations`), fitted to the first pictures that it is given."""

    unfitted: Any
    _fitted: Callable[[Tensor, Conditions], Tensor] | None = field(default=None, init=False, repr=False)

    @property
    def name(self) -> str:
        return name_of(self.unfitted)

    def __call__(self, pictures: Tensor, conditions: Conditions) -> Tensor:
        fitted = self._fitted or self.unfitted.fitted([(pictures, conditions)])
        self._fitted = fitted
        return fitted(pictures, conditions)


@dataclass(frozen=True)
class SideBySide:
    """Features of several parts in one row, of what the denoiser's decoder makes of samples: (b, F_1 + F_2 + ...).

    Samples are looked at without their conditions: those of the reference may have none.
    """

    parts: tuple[Part, ...]
    denoiser: Denoiser

    def __call__(self, x: Tensor, conditions: Conditions) -> Tensor:
        pictures = x if self.denoiser.decode is None else self.denoiser.decode(x.clone())
        return torch.cat([part(pictures, {}) for part in self.parts], 1)


def parts_to_tune(features: Any, shape: Sequence[int]) -> tuple[Part, ...]:
    """What a tuning compares: ``features`` and, at a lower weight, pooled pixels.

    ``features``: an extractor, a module, or a function of pictures (b, ...) to (b, F); None: LeNet-64 for pictures of its ``shape``,
    else pooled pixels alone.
    """
    pixels = pooled_pixels()
    chosen = features if features is not None else lenet64() if tuple(shape) == LENET_SHAPE else pixels
    if getattr(chosen, "name", "") == pixels.name:
        return (part_of(pixels),)
    return part_of(chosen), part_of(pixels, POOLED_WEIGHT)


def parts_to_judge(tuned: Sequence[Part], shape: Sequence[int], judges: Sequence[Any] = ()) -> tuple[Part, ...]:
    """Features that were not tuned on: ``judges``, local contrast, and LeNet-64 where the pictures fit."""
    fitting = [lenet64()] if tuple(shape) == LENET_SHAPE else []
    parts = {part.name: part for part in map(part_of, [*judges, local_contrast(), *fitting])}
    return tuple(part for name, part in parts.items() if name not in {part.name for part in tuned})


def part_of(features: object, weight: float = 1.0) -> Part:
    """TypeError for what cannot be called."""
    if not callable(features):
        raise TypeError(f"features must be an extractor or a function of pictures (b, ...) to (b, F), got {type(features).__name__}")
    if hasattr(features, "fitted"):
        function: Any = FittedAtFirst(features)
        return Part(function.name, function, weight)
    function = features if isinstance(features, (FeatureExtractor, nn.Module)) else _returning_tensors(features)
    return Part(getattr(features, "name", "") or name_of(function), as_residual(function), weight)


def _returning_tensors(function: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """A function that may return arrays, whose values have no gradient."""

    def features(pictures: Tensor) -> Tensor:
        made = function(pictures)
        return made if isinstance(made, Tensor) else torch.from_numpy(np.array(made, np.float64))

    features.__qualname__ = getattr(function, "__qualname__", type(function).__name__)
    return features
