"""One denoiser of several networks: a small one where noise hides the difference, a large one after it (T-Stitch)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Stitched:
    """``networks[j]`` serves the evaluations above the solver time ``switch_at[j]``, the last network the rest.

    Pan et al. 2024, arXiv 2402.14167. All networks take the same arguments and predict the same thing. The solver time of
    an evaluation counts, not its network time.
    """

    networks: tuple[Callable[..., Tensor], ...]
    switch_at: tuple[float, ...]

    def __init__(self, networks: Sequence[Callable[..., Tensor]], switch_at: Sequence[float]) -> None:
        object.__setattr__(self, "networks", tuple(networks))
        object.__setattr__(self, "switch_at", tuple(float(t) for t in switch_at))
        if not all(map(callable, self.networks)):
            raise TypeError(f"networks must be callables, got {[type(n).__name__ for n in self.networks]}")
        if len(self.networks) != len(self.switch_at) + 1 or list(self.switch_at) != sorted(set(self.switch_at), reverse=True):
            raise ValueError(
                f"switch_at must be strictly decreasing times, one fewer than networks, got {list(self.switch_at)} "
                f"for {len(self.networks)} networks"
            )

    def at(self, t: float) -> Callable[..., Tensor]:
        """The network for an evaluation at the solver time ``t``."""
        return self.networks[sum(t <= switch for switch in self.switch_at)]
