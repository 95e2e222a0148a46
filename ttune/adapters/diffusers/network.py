"""diffusers' networks as ``network(x, tau, **conditions)``: one way to call each class."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Conditions = dict[str, Any]
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)

_asked = threading.local()


@contextmanager
def _by_ttune() -> Iterator[None]:
    before = getattr(_asked, "depth", 0)
    _asked.depth = before + 1
    try:
        yield
    finally:
        _asked.depth = before


def asked_by_ttune() -> bool:
    """Whether the network is being called by a denoiser of :func:`load`, which says the right time itself, and not by a pipeline."""
    return getattr(_asked, "depth", 0) > 0


@dataclass(frozen=True)
class Family:
    """How the networks of one class are called.

    ``x``: the name of their first argument. ``arguments(config, conditions, x)``: the others, but for the time. ``names``: the
    conditions, as ttune calls them. ``normalised``: it is told the scheduler's time divided by the number of training steps.
    """

    x: str
    arguments: Callable[[Any, Conditions, Tensor], Conditions]
    names: Callable[[Any], tuple[str, ...]]
    normalised: bool = False


def _labels(config: Any) -> tuple[str, ...]:
    return ("class_labels",) if config.get("num_class_embeds") or config.get("class_embed_type") else ()


def _text_names(config: Any) -> tuple[str, ...]:
    more = ("text_embeds", "time_ids") if config.get("addition_embed_type") == "text_time" else ()
    return ("encoder_hidden_states", *more, *_labels(config))


def _text_arguments(config: Any, conditions: Conditions, x: Tensor) -> Conditions:
    added = {name: conditions.pop(name) for name in ("text_embeds", "time_ids") if name in conditions}
    return {**conditions, **({"added_cond_kwargs": added} if added else {})}


def _flux_arguments(config: Any, conditions: Conditions, x: Tensor) -> Conditions:
    """Positions of a square image's patches unless they are given; both halves of a batch have the same."""
    made = dict(conditions)
    text = made["encoder_hidden_states"]
    if "img_ids" not in made:
        side = int(x.shape[1] ** 0.5)
        if side * side != x.shape[1]:
            raise ValueError(f"conditions must give img_ids (patches, 3) where the image is not square, got {x.shape[1]} patches without")
        made["img_ids"] = patch_ids(side, side).to(x)
    made.setdefault("txt_ids", torch.zeros(text.shape[1], 3, dtype=x.dtype, device=x.device))
    # One row per sample is how a denoiser carries conditions; the network wants one table for all.
    made |= {name: made[name][0] for name in ("img_ids", "txt_ids") if made[name].ndim == 3}
    return made


def patch_ids(height: int, width: int) -> Tensor:
    """(height * width, 3): where the patches of an image stand, as Flux numbers them."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).float()


def _plain(config: Any, conditions: Conditions, x: Tensor) -> Conditions:
    return conditions


def _flux_names(config: Any) -> tuple[str, ...]:
    return ("encoder_hidden_states", "pooled_projections", *(("guidance",) if config.get("guidance_embeds") else ()))


_DIT = Family("hidden_states", _plain, lambda config: ("class_labels",))
FAMILIES = {
    "UNet2DModel": Family("sample", _plain, _labels),
    "UNet2DConditionModel": Family("sample", _text_arguments, _text_names),
    "DiTTransformer2DModel": _DIT,
    "Transformer2DModel": _DIT,
    "SD3Transformer2DModel": Family("hidden_states", _plain, lambda config: ("encoder_hidden_states", "pooled_projections")),
    "FluxTransformer2DModel": Family("hidden_states", _flux_arguments, _flux_names, normalised=True),
}


def original(model: nn.Module) -> nn.Module:
    """The module itself, where torch.compile, DataParallel or an average of weights wrapped it."""
    while True:
        inner = model._modules.get("_orig_mod") or (model.module if isinstance(model, _WRAPPERS) else None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def family_of(model: nn.Module) -> Family:
    """ValueError for a class of networks that ttune does not know how to call."""
    for kind in type(original(model)).__mro__:
        if kind.__name__ in FAMILIES:
            return FAMILIES[kind.__name__]
    raise ValueError(
        f"network must be one of {', '.join(FAMILIES)}, got {type(original(model)).__name__}; "
        f"wrap it in a function network(x, tau, **conditions) and make its ttune.Denoiser yourself"
    )


class HostNetwork(nn.Module):
    """A network of diffusers, called as ttune calls networks: ``network(x, tau, **conditions)`` -> its prediction, x's shape
    (with a learned variance twice the channels).

    x and floating-point conditions go to the network in its own dtype; tau, times ``unit`` (what the network is told for ttune's
    time 1: :func:`ttune.adapters.diffusers.scheduler_config.time_unit`), stays in its own.
    """

    def __init__(self, model: nn.Module, unit: float = 1.0) -> None:
        super().__init__()
        self.training = False  # its own flag means nothing, the model has one
        self.model = model
        self.family = family_of(model)
        self.unit = 1.0 if self.family.normalised else unit
        self.whole = bool(getattr(original(model), "config", {}).get("time_embedding_type") == "learned")
        self.training = model.training  # a wrapper has no mode of its own

    def forward(self, x: Tensor, tau: Tensor, **conditions: Any) -> Tensor:
        model: Any = original(self.model)
        missing = [name for name in self.family.names(model.config) if name not in conditions]
        if missing:
            raise ValueError(
                f"conditions must give {missing} to {type(model).__name__}, got {sorted(conditions)}: load it with prompts (--prompts) "
                f"or conditions, or give them where you sample"
            )
        given = {name: _cast(value, model.dtype) for name, value in conditions.items()}
        arguments = self.family.arguments(model.config, given, x)
        # Flux and SD3 name the time last, so all arguments go by name.
        named = {self.family.x: x.to(model.dtype), "timestep": tau.long() if self.whole else tau * self.unit}
        with _by_ttune():
            return self.model(**named, **arguments, return_dict=False)[0]

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own: a schedule knows the model by it, however it is wrapped."""
        return original(self.model).state_dict(*args, **kwargs)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def sample_shape_of(config: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Of one sample (without batch) at the size that the network was made for; None where its configuration does not say."""
    size, channels = config.get("sample_size"), config.get("in_channels")
    if size is None or channels is None or channels != _made(config):
        return None
    return (channels, size, size) if isinstance(size, int) else (channels, *size)


def learns_variance(config: Mapping[str, Any]) -> bool:
    return config.get("in_channels") is not None and config.get("out_channels") == 2 * config["in_channels"]


def _made(config: Mapping[str, Any]) -> int | None:
    """The channels of a prediction; an inpainting network sees more than it makes."""
    made = config.get("out_channels") or config.get("in_channels")
    return made // 2 if made is not None and learns_variance(config) else made
