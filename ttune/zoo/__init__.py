"""The models and data of this project: small, real, trained here."""

from __future__ import annotations

from importlib.resources import as_file, files
from os import PathLike

import torch
from torch import Tensor

from ttune.messages.names import must_be_one_of
from ttune.network.denoiser import ClassifierFree, Denoiser
from ttune.noise.schedules import NoiseSchedule
from ttune.schedule.schedule import Schedule
from ttune.storage.tensor_file import load_tensors
from ttune.zoo import emoji
from ttune.zoo.unet import CLASSES, IMAGE_SHAPE, NULL_CLASS, UNet

MODELS = ("fashion", emoji.NAME)


def fashion(weights: str | PathLike[str] | None = None, *, guidance_scale: float | None = None) -> Denoiser:
    """The class-conditional Fashion-MNIST model: epsilon prediction, 1,000-step linear schedule, x_0 clipped to [-1, 1].

    Its one condition is ``class_label`` (B,) int64, 0 … 9 (``ttune.zoo.fashion_mnist.CLASS_NAMES``) or 10 for none;
    by default the label is the seed modulo 10. ``weights`` replaces the bundled file (examples/train_fashion.py makes one);
    ValueError says what in it does not fit.
    """
    network = UNet()
    shapes: dict[str, tuple[int | None, ...]] = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if weights is None:
        with as_file(files("ttune.zoo") / "data" / "fashion.safetensors") as path:
            state = load_tensors(path, shapes)
    else:
        state = load_tensors(weights, shapes)
    network.load_state_dict({k: v.float() for k, v in state.items()})
    network = network.to(memory_format=torch.channels_last).eval().requires_grad_(False)  # pyright: ignore[reportCallIssue]
    return Denoiser(
        network,
        NoiseSchedule.linear(),
        prediction_type="epsilon",
        guidance=None if guidance_scale is None else ClassifierFree(guidance_scale, {"class_label": NULL_CLASS}),
        clip_sample=1.0,
        name="fashion",
        sample_shape=IMAGE_SHAPE,
        draw_conditions=_labels,
    )


def _labels(seeds: Tensor) -> dict[str, Tensor]:
    return {"class_label": seeds.remainder(CLASSES)}


def load(name: str, *, guidance_scale: float | None = None) -> Denoiser:
    """A model by name (:data:`MODELS`): ``fashion``, or ``emoji`` with its own prompts (needs diffusers; :mod:`ttune.zoo.emoji`).

    Of other prompts: ``ttune.diffusers.load(ttune.zoo.emoji.folder(), prompts=[...])``.
    """
    must_be_one_of("name", name, list(MODELS))
    if name == emoji.NAME:
        import ttune  # adapters are a layer above the zoo: reached by the public name

        return ttune.diffusers.load(emoji.folder(), prompts=emoji.prompts(), guidance_scale=guidance_scale)
    return fashion(guidance_scale=guidance_scale)


def schedule(name: str) -> Schedule:
    """A bundled schedule by the name of its file without ".json": ``ddim_5``, ``dpmpp_2m_5`` or ``timetuner_ddim_5``."""
    with as_file(files("ttune.zoo") / "data" / f"{name}.json") as path:
        return Schedule.load(path)


__all__ = ["MODELS", "emoji", "fashion", "load", "schedule"]
