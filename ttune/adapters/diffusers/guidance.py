"""What a pipeline of diffusers means by a guidance scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ttune.network.denoiser import ClassifierFree
from ttune.network.guidance import Conditions, Guidance, Network
from ttune.samplers.points import Point

# Of pipelines that do not say it in their own signature (StableDiffusionPipeline's and FluxPipeline's).
_DEFAULTS = {"time_cond_proj_dim": 7.5, "guidance_embeds": 3.5}
_BELOW_ONE = ("LDMTextToImagePipeline",)  # guides at every scale but 1; all others above 1 only
_BY_IMAGE = ("InstructPix2PixPipeline",)
_ADDED_TO_ONE = ("ZImage", "Krea2")  # conditional + scale * (conditional - null)


@dataclass(frozen=True)
class GuidanceInput(Guidance):
    """Guidance that a network was distilled with: ``scale`` is a number among its inputs, one call does, and nothing is left to compute.

    The network gets it as Flux's ``guidance`` or as ``timestep_cond`` (:class:`ttune.adapters.diffusers.network.HostNetwork`); here it is
    remembered, so that a schedule knows what it was tuned for.
    """

    scale: float

    def idle(self, scale: float) -> bool:
        return True

    def weights(self, q: float, scale: float, point: Point) -> tuple[float, ...]:
        return (q,)

    def outputs(self, network: Network, x: Tensor, tau: Tensor, conditions: Conditions, scale: float) -> list[Tensor]:
        return [network(x, tau, conditions)]

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"guidance": "input"}


def is_input(config: Any) -> bool:
    """Whether a network was distilled with its guidance as an input; no pipeline calls such a one twice."""
    return any(config.get(name) for name in _DEFAULTS)


def doubles(scale: float | None, config: Any, pipeline: str = "") -> bool:
    """Whether a pipeline guides at ``scale`` by calling the network for a null condition too; ValueError for one that does it otherwise."""
    if scale is None or is_input(config) or (scale == 1 if pipeline in _BELOW_ONE else scale <= 1):
        return False
    if pipeline.endswith(_BY_IMAGE):
        raise ValueError(f"guidance_scale: {pipeline} guides by its image too, which takes a third output; tune it at 1, got {scale:g}")
    if "guidance_embeds" in config:
        raise ValueError(f"guidance_scale: this network has no guidance (guidance_embeds is False); leave it out, got {scale:g}")
    return True


def guidance_of(
    scale: float | None,
    conditions: Mapping[str, Any],
    null: Mapping[str, Any] | None,
    names: tuple[str, ...],
    config: Any,
    pipeline: str,
    default: float | None,
) -> Guidance | None:
    """The guidance of a denoiser: what the class ``pipeline`` makes of ``scale``. ``default``: its own scale, where it has one."""
    if is_input(config):
        return _input(scale, conditions, config, default)
    if not doubles(scale, config, pipeline):
        return None
    assert scale is not None
    if null is None and config.get("num_embeds_ada_norm") is not None and config.get("caption_channels") is None:
        null = {"class_labels": config["num_embeds_ada_norm"]}  # DiT's class for none
    if null is not None:
        return ClassifierFree(scale, null)
    if "encoder_hidden_states" in names:
        raise ValueError(
            f"guidance_scale={scale:g} needs prompts: pass prompts=[...] (--prompts FILE), or conditions with their null; for a model "
            f"without prompts leave guidance_scale (--guidance-scale) out"
        )
    if names:
        raise ValueError(f"null must say what the condition of the unguided half is, for guidance_scale={scale:g}")
    raise ValueError(f"guidance_scale={scale:g} is for models with conditions, and this network has none; leave it out (--guidance-scale)")


def _input(scale: float | None, conditions: Mapping[str, Any], config: Any, default: float | None) -> GuidanceInput | None:
    """None where the conditions have it, and not the same for all samples."""
    given = [name for name in ("guidance", "timestep_cond") if name in conditions]
    if given and scale is not None:
        raise ValueError(f"guidance_scale and conditions[{given[0]!r}] say the same; give one of them, got {scale:g} and a tensor")
    if given:
        values = torch.as_tensor(conditions[given[0]]).unique()
        return GuidanceInput(float(values)) if given == ["guidance"] and len(values) == 1 else None
    usual = next(value for name, value in _DEFAULTS.items() if config.get(name))
    return GuidanceInput(float(scale if scale is not None else default if default is not None else usual))


def check_pipeline_guides_alike(pipeline: Any, model: Mapping[str, Any]) -> None:
    """ValueError where a pipeline, in a run, guides otherwise than a schedule's ``model`` was tuned for, as far as that can be seen."""
    if "guidance_scale" not in model:
        return
    tuned, rescale = model["guidance_scale"], float(model.get("guidance_rescale") or 0.0)
    if model.get("guidance") == "input":
        has = getattr(pipeline, "guidance_scale", None)
        if has is not None and float(has) != tuned:
            raise _otherwise(tuned, rescale, float(has), 0.0)
        return
    if not hasattr(pipeline, "do_classifier_free_guidance"):
        return
    wanted, scale = 1.0 if tuned is None else float(tuned), float(pipeline.guidance_scale)
    added = type(pipeline).__name__.startswith(_ADDED_TO_ONE)
    has = 1.0 if not pipeline.do_classifier_free_guidance else 1.0 + scale if added else scale
    has_rescale = float(getattr(pipeline, "guidance_rescale", 0.0) or 0.0)
    if has != wanted or has_rescale != rescale:
        raise _otherwise(wanted, rescale, has, has_rescale)
    second = getattr(pipeline, "_guidance_scale_2", None)  # of Wan 2.2's second network
    if second is not None and pipeline.do_classifier_free_guidance and float(second) != wanted:
        raise ValueError(f"guidance_scale_2 must be {wanted:g}, which the schedule was tuned for, got {float(second):g}")
    if getattr(pipeline, "do_perturbed_attention_guidance", False):
        raise ValueError(f"pag_scale must be 0: the schedule was tuned without perturbed attention, got {float(pipeline.pag_scale):g}")


def _otherwise(wanted: float, rescale: float, has: float, has_rescale: float) -> ValueError:
    null = "; 0 is ttune.ClassifierFree(0.0), the unguided half alone, which no pipeline samples" if wanted == 0 else ""
    return ValueError(
        f"guidance_scale must be {wanted:g} (guidance_rescale {rescale:g}), which the schedule was tuned for, got {has:g} "
        f"({has_rescale:g}); tune one for that, or apply(..., check_guidance=False){null}"
    )
