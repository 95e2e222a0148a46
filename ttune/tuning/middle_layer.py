"""Which module of a network is its middle: where a U-Net is deepest, or half-way through a stack of blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NAMES = ("mid_block", "middle_block", "middle")  # diffusers; guided-diffusion, latent-diffusion and ADM; the bundled U-Net


@dataclass(frozen=True)
class LayerOutput:
    """A module's output on a probe."""

    name: str
    output: Tensor

    @property
    def places(self) -> int:
        """How many places the feature map has: pixels of (B, C, ...), tokens of (B, N, C)."""
        shape = self.output.shape
        return shape[1] if len(shape) == 3 else int(torch.tensor(shape[2:]).prod()) if len(shape) > 3 else 1


@torch.no_grad()
def middle_layer(module: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> str:
    """The name of the middle module of ``module``, which ``run(x)`` calls with a state x (1, ...).

    Only modules that the state reaches are looked at (not what the network makes of time and conditions alone): of two runs on
    different states their outputs differ. A module under one of the usual names is taken; else, of the outermost modules with
    the fewest places (the bottom of a U-Net, every block of a transformer), the one in the middle of the order in which they ran.
    ValueError if there is none.
    """
    seen, other = _outputs(module, run, x), _outputs(module, run, x.flip(-1) * 0.5 + 0.1)
    moving = [LayerOutput(name, a) for name, a in seen.items() if name in other and not torch.equal(a, other[name])]
    usual = [entry.name for entry in moving if entry.name.split(".")[-1] in NAMES]
    if usual:
        return min(usual, key=len)
    maps = [entry for entry in moving if entry.output.ndim > 2] or moving
    if not maps:
        raise ValueError("layer must be given: no module inside this network has an output that depends on its input")
    fewest = min(entry.places for entry in maps)
    bottom = [entry for entry in maps if entry.places == fewest]
    names = {entry.name for entry in bottom}
    outermost = [entry.name for entry in bottom if not any(_inside(entry.name, other) for other in names)]
    return outermost[len(outermost) // 2]


def _inside(name: str, other: str) -> bool:
    return name.startswith(f"{other}.")


def _outputs(module: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> dict[str, Tensor]:
    """The output of every module but the whole, by name, in the order in which they finished; of one that ran twice, the last."""
    outputs: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and len(output) == len(x):
                outputs.pop(name, None)
                outputs[name] = output.detach().clone()  # the next run may be written into the same memory

        return hook

    handles = [inner.register_forward_hook(watch(name)) for name, inner in module.named_modules() if name]
    try:
        run(x)
    finally:
        for handle in handles:
            handle.remove()
    return outputs
