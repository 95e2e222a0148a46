"""Networks that ``torch.compile`` made, called with batches of several sizes, and compiled once all the same."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ttune.network.conditions import of_rows, repeated
from ttune.network.denoiser import Denoiser
from ttune.network.in_place import copies
from ttune.network.stitched import Stitched
from ttune.network.variants import Variants


@dataclass(frozen=True)
class AnyBatch:
    """``network`` with the first dimension of all that it is given marked as dynamic.

    A tuning calls it with whole chunks, the rest of the samples, and the few that probes look at. torch.compile would make one graph
    for the first of these and a second one, for any size, at the next. Marked, the first is for any size: one graph for calls without
    a gradient and one for calls with. For a batch of one torch.compile always makes a graph of its own, so one sample
    is shown twice. A mark on a tensor of a network that is not compiled is never looked at. The time comes as it would be
    stored, not as one number seen B times, whose strides would be a reason for another graph.
    """

    network: Callable[..., Tensor]
    shared: tuple[str, ...] = ()

    def __call__(self, x: Tensor, tau: Tensor, **conditions: Any) -> Tensor:
        from torch._dynamo import maybe_mark_dynamic  # loaded already: see any_batch

        batch = x.shape[0]

        def shown(value: Tensor) -> Tensor:
            value = repeated(value, 2) if batch == 1 else value
            if isinstance(value, Tensor):
                maybe_mark_dynamic(value, 0)
            return value

        # Copies, for what a network writes into a sample shown twice would not be seen at its first call.
        given = {"x": x.clone(), "tau": tau.clone(memory_format=torch.contiguous_format), **copies(conditions)}
        for name, value in given.items():
            given[name] = of_rows(shown, value, batch, self.shared, name)
        x, tau = given.pop("x"), given.pop("tau")
        return self.network(x, tau, **given)[:batch]


def any_batch(denoiser: Denoiser) -> Denoiser:
    """A denoiser of its own counter with such a network; ``denoiser`` itself where nothing can have been compiled: a compiled
    function cannot exist before torch._dynamo is loaded, which takes seconds."""
    if "torch._dynamo" not in sys.modules:
        return denoiser
    network = denoiser.network
    if isinstance(network, (Stitched, Variants)):
        marked: Any = dataclasses.replace(network, networks=tuple(AnyBatch(inner, denoiser.shared) for inner in network.networks))
        return dataclasses.replace(denoiser, network=marked)
    return dataclasses.replace(denoiser, network=AnyBatch(network, denoiser.shared))
