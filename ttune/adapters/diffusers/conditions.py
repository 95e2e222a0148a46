"""Conditions of a diffusers network: classes, or prompts through the pipeline's own encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Draw = Callable[[Tensor], dict[str, Tensor]]


def drawn_conditions(names: Sequence[str], given: Mapping[str, Tensor] | None, config: Any) -> Draw | None:
    """A function of seeds (B,): entry seed modulo n of what is ``given``; else the classes that ``config`` says there are.

    None where the network needs conditions that nobody gave: then every caller must give them.
    """
    if given is not None:
        counts = {name: len(value) if value.ndim else 0 for name, value in given.items()}
        if not counts or len(set(counts.values())) != 1 or 0 in counts.values():
            raise ValueError(f"conditions must have the same number of entries, at least one, under every name, got {counts}")
        missing = [name for name in names if name not in given]
        if missing:
            raise ValueError(f"conditions must give {missing} too: the network needs {list(names)}, got {sorted(given)}")
        table, count = dict(given), next(iter(counts.values()))
        return lambda seeds: {name: value[seeds.remainder(count).to(value.device)] for name, value in table.items()}
    classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm")
    if tuple(names) == ("class_labels",) and classes:
        return lambda seeds: {"class_labels": seeds.remainder(classes)}
    return None


def encoded(
    pipeline: Any, prompts: Sequence[str], negative_prompt: str | None, guidance_scale: float | None, shape: tuple[int, ...] | None
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """(conditions of all prompts, conditions of the null prompt or None without guidance), by the pipeline's own ``encode_prompt``."""
    texts = list(prompts)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"prompts must be at least one text, got {texts[:3]!r}")
    if not hasattr(pipeline, "encode_prompt"):
        raise ValueError(f"prompts: {type(pipeline).__name__} has no encode_prompt; encode them yourself and give conditions")
    kind = _kind(pipeline)
    guided = guidance_scale is not None and kind != "flux"
    arguments: dict[str, Any] = {"prompt": texts, "device": pipeline._execution_device, "num_images_per_prompt": 1}
    arguments |= {"sd3": {"prompt_2": None, "prompt_3": None}, "flux": {"prompt_2": None}}.get(kind, {})
    if kind != "flux":
        negative = None if negative_prompt is None else [negative_prompt] * len(texts)
        arguments |= {"do_classifier_free_guidance": guided, "negative_prompt": negative}
    with torch.no_grad():
        found = pipeline.encode_prompt(**arguments)
    if kind == "flux":
        if guidance_scale is not None:
            raise ValueError("guidance_scale: a Flux model has its guidance as a condition, give conditions={'guidance': ...}")
        return {"encoder_hidden_states": found[0], "pooled_projections": found[1]}, None
    pooled = {"sdxl": "text_embeds", "sd3": "pooled_projections"}.get(kind)
    conditions = {"encoder_hidden_states": found[0]} | ({pooled: found[2]} if pooled else {})
    null = {"encoder_hidden_states": found[1][:1]} | ({pooled: found[3][:1]} if pooled else {}) if guided else None
    if kind == "sdxl":
        conditions["time_ids"] = _time_ids(pipeline, shape, found[2]).expand(len(texts), -1)
    return conditions, null


def _kind(pipeline: Any) -> str:
    """Which of the four ways of encoding prompts a pipeline has."""
    network = getattr(pipeline, "transformer", None)
    if network is not None:
        kind = {"SD3Transformer2DModel": "sd3", "FluxTransformer2DModel": "flux"}.get(type(network).__name__)
        if kind is None:
            raise ValueError(f"prompts are encoded for SD, SDXL, SD3 and Flux, got {type(pipeline).__name__}; give conditions instead")
        return kind
    return "sdxl" if pipeline.unet.config.get("addition_embed_type") == "text_time" else "sd"


def _time_ids(pipeline: Any, shape: tuple[int, ...] | None, pooled: Tensor) -> Tensor:
    """SDXL's sizes: an uncropped image of the size that is made."""
    if shape is None:
        raise ValueError("sample_shape must be given: the network's configuration does not say the size of an image")
    size = tuple(side * pipeline.vae_scale_factor for side in shape[-2:])
    width = pooled.shape[-1]
    return pipeline._get_add_time_ids(size, (0, 0), size, dtype=pooled.dtype, text_encoder_projection_dim=width).to(pooled.device)
