"""The parts of ComfyUI that the nodes touch, as small as they can be, written from its public interface and its formulas: a model patcher
with wrappers, a guider that evaluates conditionings in one call or in several, model_sampling, KSAMPLER with its start and its masks, and
four samplers. It stands for ComfyUI, which is not on PyPI; integrations/comfyui/check.py runs the nodes in the real one."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from tests.adapters import comfy_api_stand_in

# ---- comfy.model_sampling: a prediction and a scale of times, of which each model's class is made ----------


def _rows(sigma: Tensor, like: Tensor) -> Tensor:
    return sigma.reshape(-1, *(1 for _ in like.shape[1:])) if sigma.numel() > 1 else sigma.reshape(())


class EPS:
    """The state is x / alpha = x_0 + sigma epsilon; the network sees it with variance 1."""

    def calculate_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x / (_rows(sigma, x) ** 2 + self.sigma_data**2).sqrt()

    def calculate_denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        return x - _rows(sigma, x) * output

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool = False) -> Tensor:
        s = _rows(sigma, noise)
        return latent + noise * ((1 + s**2).sqrt() if max_denoise else s)

    def inverse_noise_scaling(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x


class V_PREDICTION(EPS):
    def calculate_denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        s, d = _rows(sigma, x), self.sigma_data
        return x * d**2 / (s**2 + d**2) - output * s * d / (s**2 + d**2).sqrt()


class X0(EPS):
    def calculate_denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        return output


class CONST:
    """Flow matching: the state is (1 - sigma) x_0 + sigma epsilon, the network's output epsilon - x_0."""

    def calculate_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x

    def calculate_denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        return x - _rows(sigma, x) * output

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool = False) -> Tensor:
        s = _rows(sigma, noise)
        return s * noise + (1 - s) * latent

    def inverse_noise_scaling(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x / (1 - _rows(sigma, x))


class Sampling(nn.Module):
    sigma_data = 1.0
    sigmas: Tensor

    @property
    def sigma_min(self) -> Tensor:
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        return self.sigmas[-1]


class ModelSamplingDiscrete(Sampling):
    """Whole times: the index of the nearest sigma."""

    def __init__(self, sigmas: Tensor) -> None:
        super().__init__()
        self.register_buffer("sigmas", sigmas)

    def timestep(self, sigma: Tensor) -> Tensor:
        return (sigma.reshape(-1).log() - self.sigmas.log()[:, None]).abs().argmin(0).view(sigma.shape)


class ModelSamplingDiscreteFlow(Sampling):
    """A thousandfold sigma."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sigmas", torch.arange(1, 1001) / 1000)

    def timestep(self, sigma: Tensor) -> Tensor:
        return 1000 * sigma


class ModelSamplingContinuousEDM(Sampling):
    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        self.register_buffer("sigmas", torch.linspace(math.log(sigma_min), math.log(sigma_max), 1000).double().exp())

    def timestep(self, sigma: Tensor) -> Tensor:
        return 0.25 * sigma.log()


def model_sampling(times: type[Sampling], prediction: type, *args: Any) -> Any:
    """An object of a class of its own, as ComfyUI makes one for each model."""
    return type("ModelSampling", (times, prediction), {})(*args)


class Model(nn.Module):
    """ComfyUI's BaseModel: sigma to the network's time, scalings by sigma."""

    def __init__(self, network: nn.Module, sampling: nn.Module) -> None:
        super().__init__()
        self.network, self.model_sampling = network, sampling

    def apply_model(self, x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        sampling = self.model_sampling
        output = self.network(sampling.calculate_input(sigma, x), sampling.timestep(sigma).to(x.dtype), y)
        return sampling.calculate_denoised(sigma, output, x)


# ---- comfy.patcher_extension, comfy.model_patcher ----------------------------------------------------------


class Executor:
    """A function within its wrappers, each of which gets the rest of them; ``class_obj`` is whose method the function is."""

    def __init__(self, function: Callable[..., Any], class_obj: Any, wrappers: list[Any]) -> None:
        self.function, self.class_obj, self.wrappers = function, class_obj, wrappers

    def __call__(self, *args: Any) -> Any:
        if not self.wrappers:
            return self.function(*args)
        first, *rest = self.wrappers
        return first(Executor(self.function, self.class_obj, rest), *args)


class Patcher:
    """ModelPatcher: patches belong to a clone and are in the model only while it samples."""

    def __init__(
        self, model: Model, patches: dict[str, Any] | None = None, wrappers: dict[str, dict[str, list[Any]]] | None = None
    ) -> None:
        self.model, self.patches = model, dict(patches or {})
        self.wrappers = {kind: {key: list(w) for key, w in by_key.items()} for kind, by_key in (wrappers or {}).items()}

    def clone(self) -> Patcher:
        return Patcher(self.model, self.patches, self.wrappers)

    def get_model_object(self, name: str) -> Any:
        return self.patches.get(name, getattr(self.model, name))

    def add_object_patch(self, name: str, value: Any) -> None:
        self.patches[name] = value

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Any) -> None:
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def get_wrappers(self, kind: str, key: str) -> list[Any]:
        return self.wrappers.get(kind, {}).get(key, [])

    def executor(self, kind: str, function: Callable[..., Any], class_obj: Any) -> Executor:
        return Executor(function, class_obj, [w for by_key in self.wrappers.get(kind, {}).values() for w in by_key])

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


# ---- comfy.samplers ----------------------------------------------------------------------------------------


class CFGGuider:
    """One ``predict_noise`` per evaluation, in wrappers; the conditionings in one call of the model, or in one each; one at cfg 1."""

    def __init__(self, patcher: Patcher, y: Tensor, cfg: float = 1.0, together: Callable[[int], bool] = lambda i: True) -> None:
        self.model_patcher, self.y, self.cfg, self.together, self.count = patcher, y, cfg, together, 0

    def predict_noise(self, x: Tensor, sigma: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        model, null = self.inner_model, torch.zeros_like(self.y)
        self.count += 1
        if self.cfg == 1:
            return model.apply_model(x, sigma, self.y)
        if self.together(self.count):
            cond, uncond = model.apply_model(torch.cat([x, x]), torch.cat([sigma] * 2), torch.cat([self.y, null])).chunk(2)
        else:
            cond, uncond = model.apply_model(x, sigma, self.y), model.apply_model(x, sigma, null)
        return uncond + self.cfg * (cond - uncond)

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        return self.model_patcher.executor("predict_noise", self.predict_noise, self)(x, sigma, model_options, seed)

    def sample(
        self, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, mask: Any = None, callback: Any = None, seed: int = 0
    ) -> Tensor:
        with self.model_patcher.patched() as self.inner_model:
            run = self.model_patcher.executor("sampler_sample", sampler.sample, sampler)
            extra_args = {"model_options": {"transformer_options": {}}, "seed": seed}
            return run(self, sigmas, extra_args, callback, noise, latent, mask, True)


class Masked:
    """KSamplerX0Inpaint: what the mask protects is the latent, with noise before an evaluation and as it is after it."""

    def __init__(self, model: Any, sigmas: Tensor, noise: Tensor, latent: Tensor) -> None:
        self.inner_model, self.sigmas, self.noise, self.latent_image = model, sigmas, noise, latent

    def __call__(self, x: Tensor, sigma: Tensor, denoise_mask: Tensor | None, model_options: Any = None, seed: Any = None) -> Tensor:
        if denoise_mask is None:
            return self.inner_model(x, sigma, model_options=model_options, seed=seed)
        sampling = self.inner_model.inner_model.model_sampling
        sampling.timestep(sigma)  # as DifferentialDiffusion's masks do
        noised = sampling.noise_scaling(sigma, self.noise, self.latent_image)
        out = self.inner_model(x * denoise_mask + noised * (1 - denoise_mask), sigma, model_options=model_options, seed=seed)
        return out * denoise_mask + self.latent_image * (1 - denoise_mask)


class KSAMPLER:
    def __init__(self, sampler_function: Callable[..., Tensor], extra_options: dict[str, Any] | None = None) -> None:
        self.sampler_function, self.extra_options = sampler_function, extra_options or {}

    def sample(
        self, guider: Any, sigmas: Tensor, extra_args: Any, callback: Any, noise: Tensor, latent: Tensor, mask: Any, disable_pbar: bool
    ) -> Tensor:
        extra_args["denoise_mask"] = mask
        sampling = guider.inner_model.model_sampling
        full = float(sigmas[0]) >= float(sampling.sigma_max) * (1 - 1e-5)
        model, total = Masked(guider, sigmas, noise, latent), len(sigmas) - 1
        x = sampling.noise_scaling(sigmas[0], noise, latent, full)
        shown = None if callback is None else lambda d: callback(d["i"], d["denoised"], d["x"], total)
        x = self.sampler_function(model, x, sigmas, extra_args=extra_args, callback=shown, disable=disable_pbar, **self.extra_options)
        return sampling.inverse_noise_scaling(sigmas[-1], x)


# ---- comfy.k_diffusion.sampling: on D(x, sigma), dx / dsigma = (x - D) / sigma -----------------------------

Sampler = Callable[..., Tensor]


def _sampler(step: Callable[[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor, int, dict[str, Any]], Tensor], name: str) -> Sampler:
    def sample(
        model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None, **_: Any
    ) -> Tensor:
        def D(x: Tensor, sigma: Tensor) -> Tensor:
            return model(x, sigma.expand(len(x)), **(extra_args or {}))

        memory: dict[str, Any] = {}
        for i in range(len(sigmas) - 1):
            x = step(D, x, sigmas, i, memory)
        return x

    sample.__name__ = name
    return sample


def _euler(D: Any, x: Tensor, s: Tensor, i: int, memory: Any) -> Tensor:
    return x + (x - D(x, s[i])) / s[i] * (s[i + 1] - s[i])


def _heun(D: Any, x: Tensor, s: Tensor, i: int, memory: Any) -> Tensor:
    d = (x - D(x, s[i])) / s[i]
    predicted = x + d * (s[i + 1] - s[i])
    if s[i + 1] == 0:
        return predicted
    return x + (d + (predicted - D(predicted, s[i + 1])) / s[i + 1]) / 2 * (s[i + 1] - s[i])


def _dpm_2(D: Any, x: Tensor, s: Tensor, i: int, memory: Any) -> Tensor:
    d = (x - D(x, s[i])) / s[i]
    if s[i + 1] == 0:
        return x + d * (s[i + 1] - s[i])
    middle = (s[i] * s[i + 1]).sqrt()
    halfway = x + d * (middle - s[i])
    return x + (halfway - D(halfway, middle)) / middle * (s[i + 1] - s[i])


def _dpmpp_2m(D: Any, x: Tensor, s: Tensor, i: int, memory: dict[str, Any]) -> Tensor:
    now = combined = D(x, s[i])
    if "D" in memory and s[i + 1] > 0:
        ratio = (s[i - 1] / s[i]).log() / (s[i] / s[i + 1]).log()
        combined = now + (now - memory["D"]) / (2 * ratio)
    memory["D"] = now
    return s[i + 1] / s[i] * x + (1 - s[i + 1] / s[i]) * combined


STEPS = {"euler": _euler, "heun": _heun, "dpm_2": _dpm_2, "dpmpp_2m": _dpmpp_2m, "lcm": lambda D, x, s, i, memory: D(x, s[i])}


@contextmanager
def comfy(without: tuple[str, ...] = (), models_dir: str = "") -> Iterator[None]:
    """The modules of ComfyUI for as long as the block lasts, of a version ``without`` some wrappers, with files in ``models_dir``."""
    names = (
        "comfy",
        "comfy.samplers",
        "comfy.patcher_extension",
        "comfy.model_sampling",
        "comfy.k_diffusion",
        "comfy.k_diffusion.sampling",
    )
    made: dict[str, Any] = {name: types.ModuleType(name) for name in names} | comfy_api_stand_in.modules(models_dir)
    for name, module in made.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(made[parent], child, module)
    kinds = {"PREDICT_NOISE": "predict_noise", "SAMPLER_SAMPLE": "sampler_sample"}
    made["comfy.patcher_extension"].WrappersMP = types.SimpleNamespace(**{k: v for k, v in kinds.items() if k not in without})
    for kind in (EPS, V_PREDICTION, X0, CONST, ModelSamplingDiscrete, ModelSamplingDiscreteFlow, ModelSamplingContinuousEDM):
        setattr(made["comfy.model_sampling"], kind.__name__, kind)
    functions = {name: _sampler(step, f"sample_{name}") for name, step in STEPS.items()}
    for name, function in functions.items():
        setattr(made["comfy.k_diffusion.sampling"], f"sample_{name}", function)
    samplers = made["comfy.samplers"]
    samplers.KSAMPLER, samplers.CFGGuider = KSAMPLER, CFGGuider
    samplers.SCHEDULER_HANDLERS, samplers.SCHEDULER_NAMES, samplers.SchedulerHandler = {}, [], lambda handler: handler
    samplers.sampler_object = lambda name: KSAMPLER(functions["euler" if name == "ddim" else name])
    with mock.patch.dict(sys.modules, made):
        yield
