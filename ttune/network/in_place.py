"""Networks that write into what they are given: found out at their first call, and given copies from then on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ttune.network.conditions import leaves, mapped

Network = Callable[..., Tensor]


@dataclass
class Hands:
    """What a network is handed. Its first call is given copies, which show whether it writes into them; later calls copies where it
    does, else the tensors themselves: a copy at every call would be a tenth of a step of a small image.

    ``writes``: by the network's id, the network and whether it does. ``trusted``: the last one that does not.
    """

    writes: dict[int, tuple[Network, bool]] = field(default_factory=dict)
    trusted: Network | None = None

    def call(self, network: Network, x: Tensor, tau: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        """``network``'s output; x, tau and conditions are afterwards what they were. RuntimeError where a network writes into them that
        did not at its first call."""
        if network is not self.trusted:
            known = self.writes.get(id(network))
            if known is None or known[0] is not network:
                return self._first(network, x, tau, conditions)
            if known[1]:
                return network(x.clone(), tau.clone(), **copies(conditions))
            self.trusted = network
        try:
            before = x._version + writes(conditions)
        except RuntimeError:  # tensors of inference mode do not count what is written into them
            return network(x.clone(), tau.clone(), **copies(conditions))
        output = network(x, tau, **conditions)
        if before != x._version + writes(conditions):
            raise changed_in_place()
        return output

    def distrust(self, network: Network) -> None:
        """Give ``network`` copies from now on."""
        self.writes[id(network)] = (network, True)
        self.trusted = None

    def _first(self, network: Network, x: Tensor, tau: Tensor, conditions: Mapping[str, Any]) -> Tensor:
        originals = [x, tau, *_tensors(conditions)]
        x, tau, conditions = x.clone(), tau.clone(), copies(conditions)
        given, held = [x, tau, *_tensors(conditions)], _leaves(conditions)
        before = [_version(tensor) for tensor in given]
        output = network(x, tau, **conditions)
        after = _leaves(conditions)  # others, where it changed a dict or a list
        # NumPy's writing is not counted, and is only possible on the CPU, where looking does not wait for a device.
        self.writes[id(network)] = (
            network,
            len(after) != len(held)
            or any(new is not old for new, old in zip(after, held, strict=True))
            or any(
                version != _version(tensor) or (tensor.device.type == "cpu" and not _same(tensor, original))
                for version, tensor, original in zip(before, given, originals, strict=True)
            ),
        )
        return output


def copies(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """``conditions`` with every tensor in memory of its own."""
    return {name: mapped(torch.clone, value) for name, value in conditions.items()}


def changed_in_place() -> RuntimeError:
    """For a network that writes into its input, and did not at its first call."""
    return RuntimeError(
        "network changed its input in place, which it did not do at its first call: the state is lost. Give it a copy: "
        "ttune.Denoiser(lambda x, tau, **conditions: network(x.clone(), tau, **conditions), ...)"
    )


def writes(conditions: Mapping[str, Any]) -> int:
    """How often anything was written into the tensors in ``conditions``; it only grows. RuntimeError for tensors of inference mode."""
    total = 0
    for value in conditions.values():
        if isinstance(value, Tensor):
            total += value._version
        elif not isinstance(value, (int, float, str)):
            total += sum(leaf._version for _, leaf in leaves(value) if isinstance(leaf, Tensor))
    return total


def _leaves(conditions: Mapping[str, Any]) -> list[Any]:
    return [leaf for value in conditions.values() for _, leaf in leaves(value)]


def _tensors(conditions: Mapping[str, Any]) -> list[Tensor]:
    return [leaf for leaf in _leaves(conditions) if isinstance(leaf, Tensor)]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _same(tensor: Tensor, original: Tensor) -> bool:
    """Bit for bit: NaN is NaN."""
    a, b = (each.contiguous().reshape(-1).view(torch.uint8) for each in (tensor, original))
    return bool(torch.equal(a, b))
