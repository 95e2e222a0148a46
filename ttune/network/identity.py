"""Which network a schedule was tuned for: the shapes and a few sums of its base weights, wrappers and adapters taken away.

Names of parameters say how a network is wrapped (``module.``, ``_orig_mod.``, ``base_layer.``, …) and not which one it is. What counts
here is the collection of shapes, as the layers declare them: it is the same in DataParallel, under torch.compile, with a LoRA beside
its layers, with fused projections, with weight normalisation or quantised weights.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]
from torch.nn.utils import parametrize

Shape = tuple[int, ...]

# Settings that an identity has only where they are on; where one lacks them, they are off.
_SWITCHED = ("guidance", "guidance_interval", "guidance_rescale", "threshold", "learned_variance", "switch_at", "variants")
# A module that has one of these is replaced by it: peft's layers, what peft saves beside the original, wrappers with two copies.
_INSTEAD = ("base_layer", "original_module", "ema_model")
# Attention's projections of one input, and the fused ones that take their place or lie beside them.
_SEPARATE = {"to_qkv": "to_q", "to_kv": "to_k", "to_added_qkv": "add_k_proj", "to_added_kv": "add_k_proj"}
_PROJECTIONS = {name: "to" for name in ("to_q", "to_k", "to_v", "to_qkv", "to_kv")} | {
    name: "added" for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_added_qkv", "to_added_kv")
}
_SUMS = 16
# Of the norm of all weights, by the precision of the values: about three times what rounding to it changes. Measured on networks of 6 to
# 4e6 weights: float16 at most 4e-4, bfloat16 1.5e-3, float8 4.5e-2; weights that all moved by 1 % are 5e-3 to 1e-2 away.
_TOLERANCE = {24: 1e-5, 11: 1e-3, 8: 4e-3, 4: 0.1}
_COARSE = {4: torch.float8_e4m3fn, 8: torch.bfloat16, 11: torch.float16}  # the same precisions, coarsest first


@dataclass(frozen=True)
class Piece:
    """A parameter or buffer of the base network: its name there, and the shape that its layer declares.

    ``projections``: the group of attention projections that it belongs to; only the group's total size counts. ``holder``: the
    module that has the values; None where they are not at hand.
    """

    name: str
    shape: Shape
    is_parameter: bool = True
    projections: str = ""
    holder: nn.Module | None = None

    def values(self) -> Tensor | None:
        """The values, with what a parametrisation makes of them; None where they are not plain numbers of the declared shape."""
        found = getattr(self.holder, self.name.rpartition(".")[2], None)
        plain = isinstance(found, Tensor) and found.is_floating_point() and not found.is_meta and tuple(found.shape) == self.shape
        return found.detach() if plain else None  # pyright: ignore[reportOptionalMemberAccess]


def pieces(module: nn.Module, prefix: str = "") -> list[Piece]:
    """The base network's parameters and persistent buffers."""
    frozen = module.__dict__.get("unfrozen_shapes")  # ttune.freeze_time's: it is still the network that it was
    if frozen is not None:
        return [replace(p, name=prefix + p.name, projections=p.projections and prefix + p.projections) for p in frozen]
    children = dict(module.named_children())
    for name in _INSTEAD:
        if name in children:
            return pieces(children[name], prefix)
    own = list(_own(module, prefix))
    if isinstance(module, (nn.Linear, _ConvNd, nn.Embedding)):
        return own  # a child of a plain layer is an adapter
    for name, child in children.items():
        if not _added(name, child, children):
            inside = pieces(child, f"{prefix}{name}.")
            if name in _PROJECTIONS:
                inside = [Piece(p.name, p.shape, p.is_parameter, prefix + _PROJECTIONS[name], p.holder) for p in inside]
            own += inside
    return own


def _added(name: str, child: nn.Module, siblings: Mapping[str, nn.Module]) -> bool:
    """Whether a child is no part of the base: an adapter, attention's exchangeable processor, a fused copy, or torch's own bookkeeping."""
    return (
        name.startswith("lora")
        or name in ("processor", "parametrizations")
        or "ipadapter" in type(child).__name__.lower()
        or _SEPARATE.get(name) in siblings
    )


def _own(module: nn.Module, prefix: str) -> Iterator[Piece]:
    declared = _declared(module)
    if declared is not None:
        yield Piece(f"{prefix}weight", declared, holder=module)
        bias = getattr(module, "bias", None)
        if (bias() if callable(bias) else bias) is not None:
            yield Piece(f"{prefix}bias", (_outputs(module, declared),), holder=module)
        return
    if parametrize.is_parametrized(module):
        for name in module.parametrizations:  # pyright: ignore[reportGeneralTypeIssues]
            yield Piece(prefix + name, tuple(getattr(module, name).shape), holder=module)
    for name, value in module.named_parameters(recurse=False):
        if not name.startswith("lora"):
            shape = () if isinstance(value, nn.parameter.UninitializedParameter) else tuple(value.shape)
            yield Piece(prefix + name, shape, holder=module)
    hidden = getattr(module, "_non_persistent_buffers_set", ())
    for name, value in module.named_buffers(recurse=False):
        if name not in hidden:
            yield Piece(prefix + name, tuple(value.shape), is_parameter=False, holder=module)


def _declared(module: nn.Module) -> Shape | None:
    """The shape of a layer's weight by its settings, which quantisation, pruning and weight normalisation leave as they are."""
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    if isinstance(module, _ConvNd):
        inputs, outputs = module.in_channels, module.out_channels
        first, second = (inputs, outputs) if module.transposed else (outputs, inputs)
        return first, second // module.groups, *module.kernel_size
    features = getattr(module, "out_features", None), getattr(module, "in_features", None)
    quantised = not any(p.is_floating_point() for p in module.parameters()) and not list(module.children())
    packed = hasattr(module, "_packed_params")
    if isinstance(module, nn.Linear) or (all(isinstance(n, int) for n in features) and (quantised or packed)):
        return features  # pyright: ignore[reportReturnType]
    return None


def _outputs(module: nn.Module, weight: Shape) -> int:
    return module.out_channels if isinstance(module, _ConvNd) else weight[0]


def shapes_of(network: nn.Module) -> list[Piece]:
    """What :func:`ttune.freeze_time` remembers of a network before it takes modules out of it: its pieces without the values."""
    return [replace(piece, holder=None) for piece in pieces(network)]


def architecture(networks: Sequence[nn.Module]) -> str:
    """A digest of the collection of shapes of the base networks' parameters."""
    shapes: list[Shape] = []
    for network in networks:
        fused: Counter[tuple[str, Shape]] = Counter()
        for piece in pieces(network):
            if not piece.is_parameter:
                continue
            if piece.projections and piece.shape:
                fused[piece.projections, piece.shape[1:]] += piece.shape[0]
            else:
                shapes.append(piece.shape)
        shapes += [(rows, *rest) for (_, rest), rows in fused.items()]
    return hashlib.sha256(f"shapes {sorted(shapes)}".encode()).hexdigest()


def earlier_architectures(networks: Sequence[nn.Module]) -> set[str]:
    """What earlier versions wrote of these networks, which knew them by name and shape: as they are, and as those that they wrap."""
    layers = [_unwrapped(network) for network in networks]
    found = {_named([[(k, tuple(v.shape)) for k, v in network.state_dict().items() if isinstance(v, Tensor)] for network in networks])}
    for depth in range(max(map(len, layers), default=0)):
        found.add(_named([[(p.name, p.shape) for p in pieces(layer[min(depth, len(layer) - 1)])] for layer in layers]))
    return found


def _named(lists: Sequence[Sequence[tuple[str, Shape]]]) -> str:
    return hashlib.sha256(repr(sorted(entry for entries in lists for entry in entries)).encode()).hexdigest()


def _unwrapped(network: nn.Module) -> list[nn.Module]:
    """``network``, and what it wraps, as long as a module has one child and no weights of its own."""
    found = [network]
    while not any(value.ndim for value in (*found[-1].parameters(recurse=False), *found[-1].buffers(recurse=False))):
        children = list(found[-1].children())
        if len(children) != 1:
            break
        found.append(children[0])
    return found


def signature(networks: Sequence[nn.Module]) -> dict[str, Any] | None:
    """A few numbers that distinguish base weights from others of the same shapes, in any dtype; None where they are not at hand
    (on the meta device, quantised, frozen by :func:`ttune.freeze_time`) or not finite.

    ``sums``: of the columns j, j + 16, … of all weights (rows add up, so that fused projections have the same); ``norm``: of all of
    them; ``bits``: the precision that the values have, which may be lower than their dtype's.
    """
    sums = torch.zeros(_SUMS, dtype=torch.float64)
    square, bits = 0.0, 24
    with torch.no_grad():
        for piece in (piece for network in networks for piece in pieces(network) if piece.is_parameter):
            values = piece.values()
            if values is None:
                return None
            if not values.numel():
                continue
            rows = values.flatten(1) if values.ndim > 1 else values.reshape(-1, 1)
            rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
            columns = rows.sum(0).double().cpu()
            sums += nn.functional.pad(columns, (0, -len(columns) % _SUMS)).view(-1, _SUMS).sum(0)
            square += float(torch.linalg.vector_norm(rows)) ** 2
            bits = min(bits, _precision(rows.flatten()[:256].float()))
    if not torch.isfinite(sums).all() or not square > 0:
        return None
    return {"bits": bits, "norm": float(f"{square**0.5:.9g}"), "sums": [float(f"{s:.9g}") for s in sums.tolist()]}


def _precision(values: Tensor) -> int:
    """In bits of the mantissa: of values that went through a coarser dtype on their way, that one's."""
    plain = values[values.to(torch.float8_e5m2).float() != values]  # not 0, 1 and their like, which every dtype has
    if len(plain) < 3:
        return 24
    return next((bits for bits, dtype in _COARSE.items() if (plain.to(dtype).float() == plain).float().mean() > 0.9), 24)


def other_weights(mine: Mapping[str, Any] | None, theirs: object) -> bool:
    """Whether two :func:`signature`\\ s are those of different weights, beyond rounding; False where one is not known."""
    if mine is None or not isinstance(theirs, Mapping):
        return False
    try:
        a, b = (torch.tensor(s["sums"], dtype=torch.float64) for s in (mine, theirs))
        tolerance = _TOLERANCE[min(mine["bits"], theirs["bits"])] * max(mine["norm"], theirs["norm"])
    except (KeyError, TypeError, ValueError):
        return False  # of another version
    return a.shape == b.shape and not float((a - b).norm()) <= tolerance


def differences(mine: Mapping[str, Any], networks: Sequence[nn.Module], remembered: Mapping[str, Any]) -> list[str]:
    """In words, what a denoiser's settings, ``mine``, and an identity that a schedule remembers both state, and state differently. The
    shapes of ``networks`` count, their weights do not."""
    if not remembered:
        return []
    both = {k for k in remembered if k in mine} | {k for k in _SWITCHED if k in mine or k in remembered}
    found = [
        f"{k} is {mine.get(k)!r}, the schedule was tuned for {remembered.get(k)!r}" for k in sorted(both) if not _same(k, mine, remembered)
    ]
    shapes = remembered.get("parameter_shapes")
    if networks and shapes is not None and shapes != architecture(networks) and shapes not in earlier_architectures(networks):
        found.append("parameter_shapes is another: this network's parameters have other shapes, it is another architecture")
    return found


def _same(key: str, mine: Mapping[str, Any], remembered: Mapping[str, Any]) -> bool:
    """Whether two identities state the same by ``key``, as far as what an earlier version wrote can be compared."""
    a, b = mine.get(key), remembered.get(key)
    if key == "guidance_scale" and a in (None, 1.0) and b in (None, 1.0):
        return True  # both are one call, for the conditions
    known = remembered.get("guidance_scale") is not None or "guidance" in remembered
    if mine.get("guidance") == "input" and not known and key in ("guidance", "guidance_scale"):
        return True  # it was among the conditions, and nothing was written of it
    return a == b


def advice_for(mine: object, remembered: object) -> str:
    """What to type where a schedule belongs to another denoiser, given the guidance scales of both."""
    guidance = ""
    if isinstance(remembered, (int, float)) and mine != remembered:
        guidance = f" and --guidance-scale {remembered:g} (in Python: guidance=ttune.ClassifierFree({remembered:g}, null))"
    elif remembered is None and mine is not None:
        guidance = " without --guidance-scale (in Python: guidance=None)"
    return (
        f"Pass --model{guidance} as it was tuned, or tune a schedule for this model; "
        f"check_model=False (--no-check-model) goes on all the same"
    )


def digest_of_weights(modules: Sequence[nn.Module]) -> str | None:
    """Of the sum of everything in the networks' state, adapters included: the same digest, the same function. None without modules."""
    if not modules:
        return None
    sums = [_sum(value) for module in modules for value in module.state_dict().values()]
    return hashlib.sha256(repr(sums).encode()).hexdigest()


def _sum(value: object) -> object:
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.is_meta:
        return f"{value.dtype} {tuple(value.shape)}"
    value = value.detach().dequantize() if value.is_quantized else value.detach()
    value = value.cpu() if value.device.type == "mps" else value  # which has no float64
    return value.double().sum().item()
