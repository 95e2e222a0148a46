"""The same samplings by other libraries: diffusers, k-diffusion, and clones of DPM-Solver and TimeTuner, on grids that they know."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ttune
from benchmarks.networks import import_diffusers
from benchmarks.samplings.setting import Sampling, Setting, combined


def diffusers(setting: Setting) -> Sampling:
    """Its scheduler in the loop of its pipelines; they set the timesteps anew for every sampling."""
    module, schedule, predict = import_diffusers(), setting.schedule(), setting.predict()
    betas = {"trained_betas": np.asarray(_betas(setting.workload.noise))}
    scheduler: Any = (
        module.DDIMScheduler(clip_sample=False, timestep_spacing="leading", **betas)
        if setting.sampler == "ddim"
        else module.DPMSolverMultistepScheduler(timestep_spacing="linspace", **betas)
    )

    @torch.no_grad()
    def call(x: Tensor) -> Tensor:
        scheduler.set_timesteps(setting.steps, device=setting.device)
        for t in scheduler.timesteps:
            x = scheduler.step(combined(predict(x, t)), t, x, return_dict=False)[0]
        return x

    return Sampling(call, schedule)


def k_diffusion(setting: Setting) -> Sampling:
    """Its functions, on sigma / alpha; sample_euler is DDIM there, and draws noise at every step that it does not use."""
    sampling = _k_diffusion_sampling()
    schedule, predict = setting.schedule(), setting.predict()
    sigmas = torch.tensor(schedule.sigmas / schedule.alphas, dtype=torch.float32, device=setting.device)
    times = torch.tensor(schedule.times, dtype=torch.float32, device=setting.device)
    alphas = schedule.alphas.tolist()
    evaluation = itertools.count()

    def denoised(x: Tensor, sigma: Tensor) -> Tensor:
        i = next(evaluation)  # by number: in half precision sigma is no longer one of the grid's
        return x - sigma.view(-1, *[1] * (x.ndim - 1)).to(x.dtype) * combined(predict(alphas[i] * x, times[i]))

    function = sampling.sample_euler if setting.sampler == "ddim" else sampling.sample_dpmpp_2m

    @torch.no_grad()
    def call(x: Tensor) -> Tensor:
        nonlocal evaluation
        evaluation = itertools.count()
        return function(denoised, x / alphas[0], sigmas, disable=True)

    return Sampling(call, schedule)


def _k_diffusion_sampling() -> ModuleType:
    """``k_diffusion.sampling``; its package imports more than sampling needs, so where that is missing it is loaded alone."""
    try:
        from tests.samplers import k_diffusion_cases
    except ImportError as error:
        raise ImportError(f"the tests, which load k-diffusion's sampling alone, are not here ({error})") from error
    module = k_diffusion_cases.module()
    if module is None:
        raise ImportError("k-diffusion is not installed: pip install --no-deps k-diffusion")
    return module


def peer_files(peer: Path) -> list[str]:
    """The files of :data:`PEERS` in the folder ``peer``; ValueError if there is none."""
    here = [name for name in PEERS if (peer / name).is_file()]
    if not here:
        raise ValueError(f"peer must be a folder with one of {list(PEERS)}, got {str(peer)!r}")
    return here


def peers(setting: Setting, peer: Path) -> dict[str, Sampling]:
    """A clone of LuChengTHU/dpm-solver or THU-LYJ-Lab/time-tuner, or the folder of a package with a copy. Its code is imported and run."""
    made = {name.removesuffix(".py"): PEERS[name](setting, _loaded(peer / name)) for name in peer_files(peer)}
    return {name: sampling for name, sampling in made.items() if sampling is not None}


def _to_first_index(setting: Setting) -> ttune.Schedule:
    """Even times from the last to index 0: both peers' own continuous time has no clean image."""
    return ttune.Schedule.build(setting.workload.noise, setting.sampler, setting.steps, np.linspace(999.0, 0.0, setting.steps + 1))


def _continuous(setting: Setting, module: ModuleType) -> tuple[Any, Callable[..., Tensor]]:
    """A peer's noise schedule, and a model as it calls one: with (B,) times in [1/N, 1]."""
    predict = setting.predict()
    noise = module.NoiseScheduleVP("discrete", betas=torch.tensor(_betas(setting.workload.noise), device=setting.device))
    return noise, lambda x, t, *_: combined(predict(x, (t[0] - 1 / 1000) * 1000))


def _dpm_solver(setting: Setting, module: ModuleType) -> Sampling:
    noise, model = _continuous(setting, module)
    newer = "algorithm_type" in inspect.signature(module.DPM_Solver).parameters
    solver = module.DPM_Solver(model, noise, **({"algorithm_type": "dpmsolver++"} if newer else {"predict_x0": True}))
    order = 1 if setting.sampler == "ddim" else min(2, setting.steps)
    if "tqdm" in vars(module):
        vars(module)["tqdm"] = lambda steps, **_: steps  # a bar would be drawn in the time of every sampling

    @torch.no_grad()
    def call(x: Tensor) -> Tensor:
        options = {"order": order, "skip_type": "time_uniform", "method": "multistep", "lower_order_final": False}
        return solver.sample(x, steps=setting.steps, **options)

    return Sampling(call, _to_first_index(setting))


def _time_tuner(setting: Setting, module: ModuleType) -> Sampling | None:
    if setting.sampler != "ddim":  # it has no other
        return None
    noise, model = _continuous(setting, module)
    tuner, schedule = module.TimeTuner(model, noise, device=setting.device), _to_first_index(setting)
    times = torch.tensor((schedule.times + 1) / 1000, dtype=torch.float32, device=setting.device)

    @torch.no_grad()
    def call(x: Tensor) -> Tensor:
        for t, s in itertools.pairwise(times):
            x, _ = tuner.ddim_step_fn(x, t.view(1), s.view(1))
        return x

    return Sampling(call, schedule)


def _betas(noise: Any) -> list[float]:
    abar = np.concatenate([[1.0], np.asarray(noise.alphas_cumprod, np.float64)])
    return (1 - abar[1:] / abar[:-1]).tolist()


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# Files of a peer's folder, and what is made of them.
PEERS: dict[str, Callable[[Setting, ModuleType], Sampling | None]] = {
    "dpm_solver_pytorch.py": _dpm_solver,
    "dpm_solver.py": _dpm_solver,  # as latent diffusion has it
    "time_tuner.py": _time_tuner,
}
