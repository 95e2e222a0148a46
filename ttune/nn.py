"""``ttune.nn``: the time embeddings as modules, and a network's own replaced by them.

A tuned time is fractional. A network that looks it up in a table, or that makes sines and cosines of it in half precision,
gets another one: these modules take the time itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ttune import ops

__all__ = ["EmbeddingLookup", "Replacement", "TimestepEmbedding", "replace"]


class TimestepEmbedding(nn.Module):
    """:func:`ttune.ops.timestep_embedding` with its options, in place of diffusers' ``Timesteps``.

    ``forward(t)``: times of any shape -> (*t.shape, dim), in ``dtype``, or with None in the operator's (float64 for float64
    times, else float32). No parameters: moving the network to half precision does not touch it. The options are checked at
    the first call.
    """

    def __init__(
        self,
        dim: int,
        max_period: float = 10000.0,
        flip_sin_to_cos: bool = False,
        downscale_freq_shift: float = 1.0,
        scale: float = 1.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.max_period = max_period
        self.flip_sin_to_cos = flip_sin_to_cos
        self.downscale_freq_shift = downscale_freq_shift
        self.scale = scale
        self.dtype = dtype

    def forward(self, t: Tensor) -> Tensor:
        embedding = ops.timestep_embedding(t, self.dim, self.max_period, self.flip_sin_to_cos, self.downscale_freq_shift, self.scale)
        return embedding if self.dtype is None else embedding.to(self.dtype)

    def extra_repr(self) -> str:
        names = ("dim", "max_period", "flip_sin_to_cos", "downscale_freq_shift", "scale", "dtype")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


class EmbeddingLookup(nn.Module):
    """:func:`ttune.ops.embedding_lookup` of ``weight`` (n, *row), in place of a ``torch.nn.Embedding`` of times.

    ``forward(t)``: times of any shape, whole or fractional -> (*t.shape, *row) in the weight's dtype. Whole times give what
    the embedding gave, bit for bit; times outside [0, n - 1] give its first or last row, where the embedding raised. A
    Parameter is used as it is, under the embedding's name ``weight``; a plain tensor becomes a frozen one.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight.detach(), requires_grad=False)

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding) -> EmbeddingLookup:
        """One that shares the embedding's parameter. ValueError: an embedding with ``max_norm``, which writes into its
        weight when it is called, or with gradients of its own kind (``padding_idx``, ``scale_grad_by_freq``, ``sparse``)."""
        for option, plain in (("max_norm", None), ("padding_idx", None), ("scale_grad_by_freq", False), ("sparse", False)):
            value = getattr(embedding, option)
            if value != plain:
                raise ValueError(f"embedding must have {option}={plain}, got {value}")
        return cls(embedding.weight)

    def forward(self, t: Tensor) -> Tensor:
        return ops.embedding_lookup(self.weight, t)

    def extra_repr(self) -> str:
        return ", ".join(str(size) for size in self.weight.shape)


@dataclass(frozen=True)
class Replacement:
    """What :func:`replace` did. ``len()``: how many modules it replaced. As a context manager it undoes itself."""

    network: nn.Module
    originals: dict[str, nn.Module]  # by dotted name

    def __len__(self) -> int:
        return len({id(original) for original in self.originals.values()})

    def undo(self) -> None:
        """Put the network's own modules back. Weights that were moved, cast or trained meanwhile stay so."""
        for name, original in self.originals.items():
            current = self.network.get_submodule(name)
            if isinstance(original, nn.Embedding) and isinstance(current, EmbeddingLookup):
                original.weight = current.weight
            _set(self.network, name, original.train(current.training))

    def __enter__(self) -> Replacement:
        return self

    def __exit__(self, *exception: object) -> None:
        self.undo()


def replace(network: nn.Module, embeddings: Iterable[str] = ()) -> Replacement:
    """Replace a network's own time embeddings, in place, by those of this module.

    Args:
        network: any module. Every diffusers ``Timesteps`` in it becomes a :class:`TimestepEmbedding` with its options and
            float32 results, as before.
        embeddings: dotted names of the ``torch.nn.Embedding`` modules that take the time, such as "time_proj" of a
            UNet2DModel with ``time_embedding_type="learned"``: which of a network's embeddings those are, only the caller
            knows. They become :class:`EmbeddingLookup` with the same parameter.

    Returns a :class:`Replacement`: ``len()`` modules, ``undo()``. Hooks on a replaced module stay with it, unused meanwhile.
    ValueError: a name that is not a module's, or not an Embedding's.
    """
    modules = dict(network.named_modules(remove_duplicate=False))
    replacements: dict[int, nn.Module] = {}
    names = []
    for name in (embeddings,) if isinstance(embeddings, str) else embeddings:
        module = modules.get(name) if name else None
        if module is None:
            raise ValueError(f"embeddings must name modules within network, got {name!r}")
        if type(module) is not nn.Embedding:
            raise ValueError(f"embeddings must name torch.nn.Embedding modules, got {name!r}, a {type(module).__name__}")
        replacements[id(module)] = EmbeddingLookup.from_embedding(module)
        names.append(name)
    # Not imported: a network cannot hold what was never imported.
    timesteps = getattr(sys.modules.get("diffusers.models.embeddings"), "Timesteps", None)
    for name, module in modules.items():
        if name and type(module) is timesteps:
            replacements.setdefault(id(module), _from_timesteps(module))
            names.append(name)
    originals = {name: modules[name] for name in names}
    for name, original in originals.items():
        _set(network, name, replacements[id(original)].train(original.training))
    return Replacement(network, originals)


def _from_timesteps(module: nn.Module) -> TimestepEmbedding:
    dim, flip_sin_to_cos, shift = (getattr(module, name) for name in ("num_channels", "flip_sin_to_cos", "downscale_freq_shift"))
    scale = getattr(module, "scale", 1)
    return TimestepEmbedding(dim, flip_sin_to_cos=flip_sin_to_cos, downscale_freq_shift=shift, scale=scale, dtype=torch.float32)


def _set(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
