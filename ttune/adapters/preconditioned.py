"""A network that is called with two times: the solver's, for its scalings, and the one that is passed to what is inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ttune.network.stitched import Stitched


@dataclass(frozen=True)
class SolverTime:
    """``network`` at one solver time, ``position``."""

    network: Callable[..., Tensor]
    position: float

    def __call__(self, x: Tensor, tau: Tensor, **conditions: Any) -> Tensor:
        return self.network(x, tau, position=self.position, **conditions)


@dataclass(frozen=True)
class Preconditioned(Stitched):
    """``networks[0](x, tau, position=..., **conditions)``: preconditioned networks (Karras et al. 2022, table 1) scale input and output
    by sigma, which must be the solver's whatever time the network is passed. Like :class:`ttune.Stitched`, another function at
    every solver time; of one network. The output's derivative in ``position`` is not known to backpropagation: times are tuned by
    differences.
    """

    def __init__(self, networks: Sequence[Callable[..., Tensor]], switch_at: Sequence[float] = ()) -> None:
        if len(networks) != 1:
            raise ValueError(f"networks must be one, got {len(networks)}")
        super().__init__(networks, switch_at)

    def at(self, t: float) -> SolverTime:
        return SolverTime(self.networks[0], t)
