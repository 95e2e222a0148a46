"""The networks that a step budget is spent on: none, the bundled one, and U-Nets of 4 and 35 million parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.networks import import_diffusers
from ttune import NoiseSchedule, zoo

Network = Callable[..., Tensor]


@dataclass(frozen=True)
class Workload:
    """``network(x, tau, **conditions)`` predicts epsilon. ``conditions(n)`` are those of n samples, ``null`` the values that mean
    "no condition"; ``parameters`` of the network."""

    name: str
    network: Network
    shape: tuple[int, ...]
    noise: NoiseSchedule
    conditions: Callable[[int], dict[str, Any]]
    null: Mapping[str, Any]
    parameters: int


class Nothing:
    """A network that costs nothing: what it returns was there before. The two halves of a guided batch differ."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(5)
        self.output = torch.randn((2 * shape[0], *shape[1:]), generator=generator).to(device, dtype)

    def __call__(self, x: Tensor, tau: Tensor, **conditions: Any) -> Tensor:
        return self.output[: x.shape[0]]


def nothing(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Workload:
    """``shape``: of the whole batch, whose number of samples is fixed."""
    labels = lambda n: {"class_label": torch.zeros(n, dtype=torch.int64, device=device)}  # noqa: E731
    return Workload("none", Nothing(shape, dtype, device), shape[1:], NoiseSchedule.linear(), labels, {"class_label": 1}, 0)


def probe(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Workload:
    """Not to be timed: its output depends on the state, the time and the condition, smoothly, so that a contestant that passes on
    a wrong one of them arrives elsewhere."""

    def network(x: Tensor, tau: Tensor, class_label: Tensor) -> Tensor:
        shift = (tau.float() / 300 + 0.5 * class_label.float()).view(-1, *[1] * (x.ndim - 1))
        return (torch.tanh(x.float()) * (0.6 + 0.3 * torch.cos(shift)) + 0.2 * torch.sin(shift)).to(x.dtype)

    labels = lambda n: {"class_label": torch.arange(n, device=device) % 2}  # noqa: E731
    return Workload("probe", network, shape[1:], NoiseSchedule.linear(), labels, {"class_label": 3}, 0)


def bundled(dtype: torch.dtype, device: torch.device) -> Workload:
    """The model that ttune ships, with its labels."""
    denoiser = zoo.load("fashion", guidance_scale=2.0)
    (module,) = denoiser.modules()
    module.to(device, dtype)
    assert denoiser.sample_shape is not None
    assert denoiser.guidance is not None
    labels = lambda n: {"class_label": torch.arange(n, device=device) % 10}  # noqa: E731
    count = sum(p.numel() for p in module.parameters())
    return Workload("bundled", module, denoiser.sample_shape, denoiser.noise, labels, denoiser.guidance.null, count)  # pyright: ignore[reportAttributeAccessIssue]


def large(dtype: torch.dtype, device: torch.device) -> Workload:
    """The U-Net of DDPM on CIFAR-10 (Ho et al. 2020, appendix B) with random weights, 35.7 million parameters."""
    blocks = ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D")
    return _unet("unet-35m", (128, 256, 256, 256), blocks, dtype, device)


def small(dtype: torch.dtype, device: torch.device) -> Workload:
    """A U-Net of 4.4 million parameters: for what takes too long with the large one on a CPU."""
    return _unet("unet-4m", (64, 128, 128), ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"), dtype, device, layers_per_block=1)


def _unet(
    name: str, channels: tuple[int, ...], blocks: tuple[str, ...], dtype: torch.dtype, device: torch.device, **options: Any
) -> Workload:
    """Eleven classes, one of them none."""
    module = import_diffusers().UNet2DModel(
        sample_size=32,
        block_out_channels=channels,
        down_block_types=blocks,
        up_block_types=tuple(block.replace("Down", "Up") for block in reversed(blocks)),
        num_class_embeds=11,
        **options,
    )
    module = module.eval().requires_grad_(False).to(device, dtype)
    network = lambda x, tau, class_label: module(x, tau, class_labels=class_label).sample  # noqa: E731
    labels = lambda n: {"class_label": torch.arange(n, device=device) % 10}  # noqa: E731
    count = sum(p.numel() for p in module.parameters())
    return Workload(name, network, (3, 32, 32), NoiseSchedule.linear(), labels, {"class_label": 10}, count)
