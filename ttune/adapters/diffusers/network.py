"""diffusers' networks as ``network(x, tau, **conditions)``: one way to call each class."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_map

from ttune.adapters.diffusers.patches import Grid, check_grid, patch_ids

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

    ``x``: the name of their first argument. ``arguments(config, conditions, x, grid)``: the others, but for the time. ``names``: the
    conditions, as ttune calls them. ``normalised``: it is given the scheduler's time divided by the number of training steps.
    ``patches``: a sample is a row of 2 x 2 patches, (patches, channels); ``shared``: conditions that are one table for all samples.
    """

    x: str
    arguments: Callable[[Any, Conditions, Tensor, Grid | None], Conditions]
    names: Callable[[Any], tuple[str, ...]]
    normalised: bool = False
    patches: bool = False
    shared: tuple[str, ...] = ()


def _labels(config: Any) -> tuple[str, ...]:
    return ("class_labels",) if config.get("num_class_embeds") or config.get("class_embed_type") else ()


# What a UNet2DConditionModel finds in its argument added_cond_kwargs.
_ADDED = ("text_embeds", "time_ids", "image_embeds", "hint")
_ADDITIONS = {
    "text_time": ("text_embeds", "time_ids"),
    "text_image": ("text_embeds", "image_embeds"),
    "image": ("image_embeds",),
    "image_hint": ("image_embeds", "hint"),
}


def _has_ip_adapter(config: Any) -> bool:
    # Loading one sets the attribute of the configuration, and not its entry.
    return getattr(config, "encoder_hid_dim_type", config.get("encoder_hid_dim_type")) == "ip_image_proj"


def _text_names(config: Any) -> tuple[str, ...]:
    # Kandinsky's networks see an image's embedding in the place of a text's.
    text = () if config.get("encoder_hid_dim_type") == "image_proj" else ("encoder_hidden_states",)
    more = _ADDITIONS.get(config.get("addition_embed_type"), ())
    images = ("image_embeds",) if _has_ip_adapter(config) or "image_proj" in str(config.get("encoder_hid_dim_type")) else ()
    return tuple(dict.fromkeys((*text, *more, *images, *_labels(config))))


def _text_arguments(config: Any, conditions: Conditions, x: Tensor, grid: Grid | None) -> Conditions:
    added = {**conditions.pop("added_cond_kwargs", {}), **{name: conditions.pop(name) for name in _ADDED if name in conditions}}
    if _has_ip_adapter(config) and isinstance(added.get("image_embeds"), Tensor):
        added["image_embeds"] = [added["image_embeds"]]  # one adapter's of several
    conditions.setdefault("encoder_hidden_states", None)
    return {**conditions, **({"added_cond_kwargs": added} if added else {})}


def _flux_arguments(config: Any, conditions: Conditions, x: Tensor, grid: Grid | None) -> Conditions:
    """Rows and columns of the patches unless they are given; both halves of a batch have the same."""
    made = dict(conditions)
    text = made["encoder_hidden_states"]
    if "img_ids" not in made:
        made["img_ids"] = patch_ids(*check_grid(x.shape[1], grid)).to(x)
    made.setdefault("txt_ids", torch.zeros(text.shape[1], 3, dtype=x.dtype, device=x.device))
    # One row per sample is how a denoiser carries conditions; the network wants one table for all.
    made |= {name: made[name][0] for name in ("img_ids", "txt_ids") if made[name].ndim == 3}
    return made


def _plain(config: Any, conditions: Conditions, x: Tensor, grid: Grid | None) -> Conditions:
    return conditions


def _pooled(config: Any) -> tuple[str, ...]:
    return ("encoder_hidden_states", "pooled_projections")


_DIT = Family("hidden_states", _plain, lambda config: ("class_labels",))
FAMILIES = {
    "UNet2DModel": Family("sample", _plain, _labels),
    "UNet2DConditionModel": Family("sample", _text_arguments, _text_names),
    "DiTTransformer2DModel": _DIT,
    "Transformer2DModel": _DIT,
    "SD3Transformer2DModel": Family("hidden_states", _plain, _pooled),
    "FluxTransformer2DModel": Family(
        "hidden_states", _flux_arguments, _pooled, normalised=True, patches=True, shared=("img_ids", "txt_ids")
    ),
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

    x and floating-point conditions go to the network in its own dtype; tau, times ``unit`` (what the network is given for ttune's
    time 1: :func:`ttune.adapters.diffusers.scheduler_config.time_unit`), stays in its own.

    What a pipeline always gives its network besides is made here unless it is among the conditions: of ``guidance`` the input of a
    network that was distilled with it, of ``grid`` where the patches of an image are. ``extra_channels`` (B, C', ...) among the
    conditions follow x's own channels: the mask and masked image of inpainting, a depth map, an image to be edited.
    """

    def __init__(self, model: nn.Module, unit: float = 1.0, guidance: float | None = None, grid: Grid | None = None) -> None:
        super().__init__()
        self.training = False  # its own flag means nothing, the model has one
        self.model = model
        self.family = family_of(model)
        self.unit = 1.0 if self.family.normalised else unit
        self.guidance, self.grid = guidance, grid
        self.whole = bool(getattr(original(model), "config", {}).get("time_embedding_type") == "learned")

    @property
    def channels(self) -> int:
        """Of a sample."""
        config: Any = original(self.model).config
        return sample_channels(config)

    def names(self) -> tuple[str, ...]:
        """The conditions that the network cannot do without."""
        config: Any = original(self.model).config
        extra = ("extra_channels",) if config.get("in_channels", 0) > self.channels else ()
        return (*self.family.names(config), *extra)

    def forward(self, x: Tensor, tau: Tensor, **conditions: Any) -> Tensor:
        model: Any = original(self.model)
        inside = conditions.get("added_cond_kwargs", {})
        missing = [name for name in self.names() if name not in conditions and name not in inside]
        if missing:
            beside = (
                f" (the {model.config.in_channels - self.channels} channels beside the sample's)" if "extra_channels" in missing else ""
            )
            raise ValueError(
                f"conditions must give {missing}{beside} to {type(model).__name__}, got {sorted(conditions)}: load it with prompts "
                f"(--prompts) or conditions, or give them where you sample"
            )
        given = tree_map(lambda value: _cast(value, model.dtype), conditions)
        x = x.to(model.dtype)
        if "extra_channels" in given:
            x = torch.cat([x, given.pop("extra_channels").to(x)], -1 if self.family.patches else 1)
        given = self._distilled(model.config, x) | given
        arguments = self.family.arguments(model.config, given, x, self.grid)
        # Flux and SD3 name the time last, so all arguments go by name.
        named = {self.family.x: x, "timestep": tau.long() if self.whole else tau * self.unit}
        with _by_ttune():
            return self.model(**named, **arguments, return_dict=False)[0]

    def _distilled(self, config: Any, x: Tensor) -> Conditions:
        """The guidance that a network has among its inputs, as its pipeline gives it."""
        if self.guidance is None:
            return {}
        if config.get("guidance_embeds"):
            return {"guidance": torch.full(x.shape[:1], self.guidance, dtype=x.dtype, device=x.device)}
        size = config["time_cond_proj_dim"]
        scale = torch.full(x.shape[:1], 1000 * (self.guidance - 1), device=x.device)
        return {"timestep_cond": get_timestep_embedding(scale, size, downscale_freq_shift=1).to(x.dtype)}

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own: a schedule knows the model by it, however it is wrapped."""
        return original(self.model).state_dict(*args, **kwargs)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def sample_shape_of(config: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Of one sample (without batch) at the size that the network was made for; None where its configuration does not say."""
    size = config.get("sample_size")
    if size is None or config.get("in_channels") is None:
        return None
    channels = sample_channels(config)
    return (channels, size, size) if isinstance(size, int) else (channels, *size)


def learns_variance(config: Mapping[str, Any]) -> bool:
    return config.get("in_channels") is not None and config.get("out_channels") == 2 * config["in_channels"]


def sample_channels(config: Mapping[str, Any]) -> int:
    """Of a sample, which are those of a prediction; an inpainting network sees more than it makes."""
    made = int(config.get("out_channels") or config.get("in_channels") or 0)
    return made // 2 if learns_variance(config) else made
