"""The parts of ComfyUI that the nodes touch, as small as they can be, written from its public interface: a model patcher, a guider that
evaluates conditionings in one call or in several, and model_sampling objects. It stands for ComfyUI, which is not on PyPI."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn


class Discrete(nn.Module):
    """Whole times: the index of the nearest sigma."""

    def __init__(self, sigmas: Tensor) -> None:
        super().__init__()
        self.register_buffer("sigmas", sigmas)

    @property
    def sigma_max(self) -> Tensor:
        return self.sigmas[-1]

    def timestep(self, sigma: Tensor) -> Tensor:
        return (sigma.reshape(-1).log() - self.sigmas.log()[:, None]).abs().argmin(0).view(sigma.shape)

    def input(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x / (sigma**2 + 1).sqrt()

    def denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        return x - sigma * output


class Flow(nn.Module):
    """A thousandfold sigma; the state as it is."""

    sigma_max = 1.0

    def timestep(self, sigma: Tensor) -> Tensor:
        return 1000 * sigma

    def input(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x

    def denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        return x - sigma * output


class Model(nn.Module):
    """ComfyUI's BaseModel: sigma to the network's time, scalings by sigma."""

    def __init__(self, network: nn.Module, model_sampling: nn.Module) -> None:
        super().__init__()
        self.network, self.model_sampling = network, model_sampling

    def apply_model(self, x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        s = sigma.view(-1, 1, 1, 1)
        output = self.network(self.model_sampling.input(s, x), self.model_sampling.timestep(sigma).to(x.dtype), y)
        return self.model_sampling.denoised(s, output, x)


class Patcher:
    """ModelPatcher: patches belong to a clone and are in the model only while it samples."""

    def __init__(self, model: Model, patches: dict[str, Any] | None = None, wrappers: dict[str, list[Any]] | None = None) -> None:
        self.model, self.patches, self.wrappers = model, dict(patches or {}), {k: list(v) for k, v in (wrappers or {}).items()}

    def clone(self) -> Patcher:
        return Patcher(self.model, self.patches, self.wrappers)

    def get_model_object(self, name: str) -> Any:
        return self.patches.get(name, getattr(self.model, name))

    def add_object_patch(self, name: str, value: Any) -> None:
        self.patches[name] = value

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Any) -> None:
        self.wrappers.setdefault(kind, []).append(wrapper)

    @contextmanager
    def patched(self) -> Iterator[Model]:
        before = {name: getattr(self.model, name) for name in self.patches}
        for name, value in self.patches.items():
            setattr(self.model, name, value)  # nn.Module takes modules only here, as ComfyUI's models do
        try:
            yield self.model
        finally:
            for name, value in before.items():
                setattr(self.model, name, value)


class Guider:
    """CFGGuider: one ``predict_noise`` per evaluation, in wrappers; the conditionings in one call of the model, or in one each."""

    def __init__(self, patcher: Patcher, y: Tensor, cfg: float, together: Callable[[int], bool]) -> None:
        self.patcher, self.y, self.cfg, self.together, self.count = patcher, y, cfg, together, 0

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        model, null = self.patcher.model, torch.zeros_like(self.y)
        self.count += 1
        if self.together(self.count):
            cond, uncond = model.apply_model(torch.cat([x, x]), torch.cat([timestep] * 2), torch.cat([self.y, null])).chunk(2)
        else:
            cond, uncond = model.apply_model(x, timestep, self.y), model.apply_model(x, timestep, null)
        return uncond + self.cfg * (cond - uncond)

    def __call__(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        run: Callable[..., Tensor] = self.predict_noise
        for wrapper in self.patcher.wrappers.get("predict_noise", []):
            run = functools.partial(wrapper, run)
        return run(x, sigma, {}, None)

    def sample(self, function: Callable[..., Tensor], x: Tensor, sigmas: Tensor) -> Tensor:
        with self.patcher.patched():
            return function(self, x, sigmas)


@contextmanager
def comfy() -> Iterator[None]:
    """The modules ``comfy.samplers`` and ``comfy.patcher_extension``, for as long as the block lasts."""
    package, samplers, extension = (types.ModuleType(name) for name in ("comfy", "comfy.samplers", "comfy.patcher_extension"))
    package.samplers, package.patcher_extension = samplers, extension  # type: ignore[attr-defined]
    samplers.sampler_object = lambda name: ("sampler", name)  # type: ignore[attr-defined]
    extension.WrappersMP = types.SimpleNamespace(PREDICT_NOISE="predict_noise")  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, {module.__name__: module for module in (package, samplers, extension)}):
        yield
