"""Dynamic thresholding of the x_0 prediction."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DynamicThreshold:
    """D clamped to [-s, s] and divided by s, s the ``quantile`` of |D| in each sample, at least 1 and at most ``maximum``
    (Saharia et al. 2022, section 2.3; diffusers' ``thresholding`` with its ``sample_max_value``).

    It keeps strong guidance from washing pixels out. Not for latents, whose range means nothing.
    """

    quantile: float = 0.995
    maximum: float = float("inf")

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise ValueError(f"quantile must lie in (0, 1], got {self.quantile}")
        if not self.maximum >= 1:
            raise ValueError(f"maximum must be a number >= 1, got {self.maximum}")

    def __call__(self, D: Tensor) -> Tensor:
        values = D.double() if D.element_size() == 8 else D.float()  # torch.quantile knows these two
        s = values.flatten(1).abs().quantile(self.quantile, dim=1).clamp(1.0, self.maximum)
        s = s.reshape(-1, *(1 for _ in D.shape[1:]))
        return (values.clamp(-s, s) / s).to(D.dtype)
