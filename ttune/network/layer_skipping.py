"""``skip_layers``: a network without some of its residual blocks, which costs as much less."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class SkippedLayers(nn.Module):
    """What :func:`skip_layers` returns: call it like the network. ``skipped`` are the names of those blocks."""

    def __init__(self, network: nn.Module, skipped: tuple[str, ...]) -> None:
        super().__init__()
        self.training = False  # its own flag means nothing, the network has one
        self.network = network
        self.skipped = skipped

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network returns without the skipped blocks."""
        return self.network(*args, **kwargs)


class Passed(nn.Module):
    """In place of a block: returns its first argument, after seeing once that the block would have returned the same shape."""

    def __init__(self, name: str, block: nn.Module) -> None:
        super().__init__()
        self.training = False
        self.name = name
        self._wraps = False  # whether the block returns its tensor as the only member of a tuple
        self._unseen: tuple[nn.Module, ...] = (block,)  # in a tuple, so that its weights are not counted

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._unseen:
            self._look(*args, **kwargs)
        x = args[0] if args else next(iter(kwargs.values()))
        return (x,) if self._wraps else x

    def _look(self, *args: Any, **kwargs: Any) -> None:
        """Run the block, once."""
        (block,) = self._unseen
        x = args[0] if args else next(iter(kwargs.values()), None)
        with torch.no_grad():
            output = block(*args, **kwargs)
        wraps = isinstance(output, tuple) and len(output) == 1
        y = output[0] if wraps else output
        if not isinstance(x, Tensor) or not isinstance(y, Tensor):
            raise TypeError(
                f"names: block {self.name!r} cannot be skipped: it must make one tensor of another, "
                f"got {type(output).__name__} of {type(x).__name__}"
            )
        if x.shape != y.shape:
            raise ValueError(
                f"names: block {self.name!r} cannot be skipped: its output must have the shape of its input, "
                f"{tuple(x.shape)}, got {tuple(y.shape)}"
            )
        self._wraps, self._unseen = wraps, ()


def skip_layers(network: nn.Module, names: Sequence[str], example: Sequence[Any] | None = None) -> SkippedLayers:
    """``network`` without the blocks ``names``: each is replaced by its first argument.

    For blocks that add something to their input (residual, attention, transformer blocks), named as ``network.named_modules()`` does.
    ``network`` is not changed and shares its weights with the result. Whether a block returns the shape of its input is
    seen at the first call, which runs it once more; with ``example``, arguments of the network, here. Skip first, then compile
    (and call once before) or freeze.

    Raises ValueError naming the blocks that there are not, that lie inside one another, or that change the shape; TypeError for
    a block that returns something else than a tensor (or a tuple of one).
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch.nn.Module, got {type(network).__name__}")
    if isinstance(names, str) or not names:
        raise ValueError(f"names must be a sequence of at least one name of a block, got {names!r}")
    copies: dict[str, nn.Module] = {"": _shallow(network, "")}
    known = dict(network.named_modules(remove_duplicate=False))
    unknown = [name for name in names if not name or name not in known]
    if unknown:
        raise ValueError(f"names must be blocks of the network, which has none called {unknown}; see network.named_modules()")
    nested = [(a, b) for a in names for b in names if b.startswith(f"{a}.")]
    if nested:
        raise ValueError(f"names must not lie inside one another, got {nested[0][1]!r} inside {nested[0][0]!r}")
    for name in dict.fromkeys(names):
        parent = _copied(copies, name.rpartition(".")[0])
        parent._modules[name.rpartition(".")[2]] = Passed(name, known[name])
    skipped = SkippedLayers(copies[""], tuple(dict.fromkeys(names)))
    skipped.training = network.training  # not train(): that would reach blocks that both share
    if example is not None:
        with torch.no_grad():
            skipped(*example)
    return skipped


def _copied(copies: dict[str, nn.Module], path: str) -> nn.Module:
    """The copy of the module at ``path``, made with those above it where they are not there yet."""
    if path not in copies:
        above, _, last = path.rpartition(".")
        parent = _copied(copies, above)
        child = parent._modules[last]
        assert child is not None
        copies[path] = parent._modules[last] = _shallow(child, path)
    return copies[path]


def _shallow(module: nn.Module, path: str) -> nn.Module:
    """A module of the same class, parameters, buffers and children, with a list of children of its own."""
    if "forward" in module.__dict__ or hasattr(module, "_orig_mod"):
        raise ValueError(
            f"network: module {path!r} was compiled or given another forward (torch.compile, ttune.freeze_time, a hook of another "
            f"library), which belongs to the original; skip layers first"
        )
    twin = copy.copy(module)
    twin.__dict__["_modules"] = dict(module._modules)
    return twin
