"""Conditions of a diffusers network: classes, or prompts through the pipeline's own encoders, and whatever else is given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten_with_path, tree_map_only

from ttune.messages.warn import warn

Conditions = dict[str, Any]
Draw = Callable[[Tensor], Conditions]
PROMPTED = ("encoder_hidden_states", "text_embeds", "pooled_projections")  # what text encoders make of a prompt


def drawn_conditions(names: Sequence[str], given: Mapping[str, Any] | None, config: Any, shared: Sequence[str] = ()) -> Draw | None:
    """A function of seeds (B,): entry seed modulo n of what is ``given``, and the classes that ``config`` says there are.

    What is ``shared`` is one table for all samples. None where the network needs conditions that were not given: then every caller must
    give them.
    """
    classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm")
    _check_classes(names, given or {}, classes)
    drawn = "class_labels" in names and bool(classes) and "class_labels" not in (given or {})
    if given is None and not (drawn and tuple(names) == ("class_labels",)):
        return None
    table = dict(given or {})
    common = {name: _one_table(table.pop(name)) for name in shared if name in table}
    if given is not None:
        _check_entries(table)
        inside = table.get("added_cond_kwargs", {})
        missing = [name for name in names if name not in table and name not in inside and not (drawn and name == "class_labels")]
        if missing:
            raise ValueError(f"conditions must give {missing} too: the network needs {list(names)}, got {sorted(table)}")

    def draw(seeds: Tensor) -> Conditions:
        made = tree_map_only(Tensor, lambda value: value[seeds.remainder(len(value)).to(value.device)] if value.ndim else value, table)
        return made | common | ({"class_labels": seeds.remainder(classes)} if drawn else {})

    return draw


def _check_classes(names: Sequence[str], given: Mapping[str, Any], classes: int | None) -> None:
    labels = given.get("class_labels")
    if labels is None:
        return
    if "class_labels" not in names:
        raise ValueError(f"class_labels: this network has no classes, its conditions are {list(names)}")
    labels = torch.as_tensor(labels)
    if classes and not labels.is_floating_point() and not bool(((labels >= 0) & (labels <= classes)).all()):
        raise ValueError(f"class_labels must lie in [0, {classes - 1}], got {labels.tolist()[:8]}")


def _one_table(value: Tensor) -> Tensor:
    """What all samples share, where it was given with a row for each."""
    return value[0] if value.ndim == 3 else value


def _check_entries(table: Mapping[str, Any]) -> None:
    found, _ = tree_flatten_with_path(dict(table))
    named = {".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path): value for path, value in found}
    counts = {name: len(value) if value.ndim else 0 for name, value in named.items() if isinstance(value, Tensor)}
    if not counts or 0 in counts.values() or len(set(counts.values()) - {1}) > 1:
        raise ValueError(
            f"conditions must have the same number of entries, at least one, under every name (or one for all), got {counts or named}"
        )


def check_said_once(given: Mapping[str, Any] | None) -> None:
    """ValueError for conditions beside prompts that the prompts say already."""
    twice = [name for name in PROMPTED if name in (given or {})]
    if twice:
        raise ValueError(f"prompts and conditions cannot both be given for {twice}: leave the prompts out, or these of the conditions")


def encoded(
    pipeline: Any,
    prompts: Sequence[str],
    negative_prompt: str | None,
    guided: bool,
    size: tuple[int, int] | None,
) -> tuple[Conditions, Conditions | None]:
    """(conditions of all prompts, conditions of the null prompt or None where it is not ``guided``), by the pipeline's own
    ``encode_prompt``. ``size``: height and width in pixels."""
    texts = list(prompts)
    if isinstance(prompts, str) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"prompts must be a list of at least one text, got {prompts if isinstance(prompts, str) else texts[:3]!r}")
    if not hasattr(pipeline, "encode_prompt"):
        raise ValueError(f"prompts: {type(pipeline).__name__} has no encode_prompt; encode them yourself and give conditions")
    kind = _kind(pipeline)
    if negative_prompt is not None and not guided:
        warn("negative_prompt is not used without a guidance_scale above 1, as in the pipeline")
    wanted: dict[str, Any] = {"prompt": texts, "device": pipeline._execution_device, "num_images_per_prompt": 1}
    wanted |= {"prompt_2": None, "prompt_3": None, "do_classifier_free_guidance": guided}
    wanted |= {"negative_prompt": None if negative_prompt is None else [negative_prompt] * len(texts)}
    known = inspect.signature(pipeline.encode_prompt).parameters
    with torch.no_grad():
        found = pipeline.encode_prompt(**{name: value for name, value in wanted.items() if name in known})
    if kind == "flux":
        return {"encoder_hidden_states": found[0], "pooled_projections": found[1]}, None
    pooled = {"sdxl": "text_embeds", "sd3": "pooled_projections"}.get(kind)
    conditions = {"encoder_hidden_states": found[0]} | ({pooled: found[2]} if pooled else {})
    null = {"encoder_hidden_states": found[1][:1]} | ({pooled: found[3][:1]} if pooled else {}) if guided else None
    if kind == "sdxl":
        ids, null_ids = _time_ids(pipeline, size, found[2])
        conditions["time_ids"] = ids.expand(len(texts), -1)
        null = null | {"time_ids": null_ids} if null is not None and not torch.equal(ids, null_ids) else null
    return conditions, null


def null_of_images(conditions: Mapping[str, Any], null: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """``null`` with the zeros that an IP-Adapter takes for no image, unless it says what is."""
    if null is None or "image_embeds" not in conditions or "image_embeds" in null:
        return None if null is None else dict(null)
    zeros = tree_map_only(Tensor, lambda value: torch.zeros_like(value[:1]), conditions["image_embeds"])
    return {**null, "image_embeds": zeros}


def _kind(pipeline: Any) -> str:
    """Which of the four ways of encoding prompts a pipeline has."""
    network = getattr(pipeline, "transformer", None)
    if network is not None:
        kind = {"SD3Transformer2DModel": "sd3", "FluxTransformer2DModel": "flux"}.get(type(network).__name__)
        if kind is None:
            raise ValueError(f"prompts are encoded for SD, SDXL, SD3 and Flux, got {type(pipeline).__name__}; give conditions instead")
        return kind
    return "sdxl" if pipeline.unet.config.get("addition_embed_type") == "text_time" else "sd"


def _time_ids(pipeline: Any, size: tuple[int, int] | None, pooled: Tensor) -> tuple[Tensor, Tensor]:
    """SDXL's sizes, and those of the null condition: an uncropped image of the size that is made, and where the pipeline has aesthetic
    scores (image to image) its own defaults of them."""
    if size is None:
        raise ValueError("height and width (or sample_shape) must be given: the network's configuration does not say the size of an image")
    call = inspect.signature(type(pipeline).__call__).parameters
    values: dict[str, Any] = {name: size for name in ("original_size", "target_size", "negative_original_size", "negative_target_size")}
    values |= {"crops_coords_top_left": (0, 0), "negative_crops_coords_top_left": (0, 0), "dtype": pooled.dtype}
    values |= {name: call[name].default for name in ("aesthetic_score", "negative_aesthetic_score") if name in call}
    values |= {"text_encoder_projection_dim": pooled.shape[-1]}
    known = inspect.signature(pipeline._get_add_time_ids).parameters
    found = pipeline._get_add_time_ids(**{name: value for name, value in values.items() if name in known})
    ids, null = found if isinstance(found, tuple) else (found, found)
    return ids.to(pooled.device), null.to(pooled.device)
