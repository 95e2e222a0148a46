"""diffusers' schedulers as cases: which sampler and options give the same numbers.

In float32 a scheduler runs as it is. In float64 its module sees a ``torch`` and a ``numpy`` whose float32 is float64, so that
its own code makes its tables and casts its states in float64.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from tests.samplers.originals import Case, Network, ours, unit_noise
from ttune import NoiseSchedule

MODULES = {
    "DDIM": "ddim",
    "DDPM": "ddpm",
    "PNDM": "pndm",
    "IPNDM": "ipndm",
    "EulerDiscrete": "euler_discrete",
    "EulerAncestralDiscrete": "euler_ancestral_discrete",
    "HeunDiscrete": "heun_discrete",
    "KDPM2Discrete": "k_dpm_2_discrete",
    "KDPM2AncestralDiscrete": "k_dpm_2_ancestral_discrete",
    "LMSDiscrete": "lms_discrete",
    "DPMSolverSinglestep": "dpmsolver_singlestep",
    "DPMSolverMultistep": "dpmsolver_multistep",
    "DPMSolverSDE": "dpmsolver_sde",
    "DEISMultistep": "deis_multistep",
    "UniPCMultistep": "unipc_multistep",
    "EDMEuler": "edm_euler",
    "EDMDPMSolverMultistep": "edm_dpmsolver_multistep",
    "FlowMatchEulerDiscrete": "flow_match_euler_discrete",
    "FlowMatchHeunDiscrete": "flow_match_heun_discrete",
}
LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
# Their state is x / alpha.
LEVELS = {"EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete", "DPMSolverSDE"} | {
    name for name in MODULES if name.startswith("KDPM2")
}


class Wide(types.ModuleType):
    """A module whose float32 is float64."""

    def __init__(self, module: types.ModuleType) -> None:
        super().__init__(module.__name__)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, "float64" if name == "float32" else name)


@functools.cache
def _module(name: str) -> types.ModuleType:
    """diffusers imports torchsde for its Brownian tree, which these comparisons replace: an empty module stands in for it."""
    absent = importlib.util.find_spec("torchsde") is None
    if absent:
        sys.modules["torchsde"] = types.ModuleType("torchsde")
    try:
        return importlib.import_module(f"diffusers.schedulers.scheduling_{MODULES[name]}")
    finally:
        if absent:
            del sys.modules["torchsde"]


@contextlib.contextmanager
def scheduler(name: str, dtype: torch.dtype, config: dict[str, Any]) -> Iterator[tuple[Any, Callable[[int], None]]]:
    """A scheduler whose noise is ours, and a function that says which draw is next."""
    module = _module(name)
    current = [0]
    with contextlib.ExitStack() as stack:
        if dtype == torch.float64:
            for library in ("torch", "np"):
                if hasattr(module, library):
                    stack.enter_context(mock.patch.object(module, library, Wide(getattr(module, library))))
        if hasattr(module, "randn_tensor"):

            def drawn(shape: Any, **_: Any) -> Tensor:
                return unit_noise(current[0], dtype)

            stack.enter_context(mock.patch.object(module, "randn_tensor", drawn))
        made = getattr(module, f"{name}Scheduler")(**config)

        def choose(draw: int) -> None:
            current[0] = draw
            if name == "DPMSolverSDE":
                made.noise_sampler = lambda sigma, sigma_next: unit_noise(draw, dtype)

        yield made, choose


def steps_of(made: Any, choose: Callable[[int], None], network: Callable[[Tensor, Tensor], Tensor], x: Tensor, **step: Any) -> Tensor:
    for i, t in enumerate(made.timesteps):
        choose(i)
        output = network(made.scale_model_input(x, t) if hasattr(made, "scale_model_input") else x, t)
        x = made.step(output, t, x, **step).prev_sample
    return x


def discrete(
    name: str, sampler: str, config: dict[str, Any], steps: int, dtype: torch.dtype, step: dict[str, Any], build: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """A scheduler of a discrete model, its grid and what it tells the network taken over."""
    with scheduler(name, dtype, LINEAR | config) as (made, choose):
        made.set_timesteps(steps)
        noise = NoiseSchedule.from_alphas_cumprod(made.alphas_cumprod.tolist())
        if name in ("DDIM", "DDPM", "PNDM"):
            final = 0.0 if config.get("set_alpha_to_one") is False else -1.0
            times = np.append(list(dict.fromkeys(made.timesteps.tolist())), final)
        else:
            sigmas = np.array(list(dict.fromkeys(made.sigmas.tolist())))
            with np.errstate(divide="ignore"):
                times = noise.time(-np.log(sigmas))
            times[sigmas == 0] = -1.0
        passed = np.array(made.timesteps.tolist(), np.float64)
        # Whole times are meant exactly; the scheduler's float32 table of sigma has moved them a little.
        times = np.where(np.abs(times - times.round()) < 1e-3, times.round(), times)
        x = unit_noise(-1, dtype)
        network = Network(noise)
        alpha = float(noise.alpha(times[0]))
        theirs = steps_of(made, choose, lambda x, t: network(x, t.expand(len(x))), x / alpha if name in LEVELS else x, **step)
    return ours(noise, sampler, times, x, network_times=passed, **build), theirs


def inverted(
    name: str, sampler: str, config: dict[str, Any], steps: int, dtype: torch.dtype, build: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """EDM's schedulers, which precondition the network themselves."""
    with scheduler(name, dtype, {"sigma_data": 0.5} | config) as (made, choose):
        made.set_timesteps(steps)
        sigmas = np.array(made.sigmas.tolist())
        noise = NoiseSchedule.edm(0.002, float(sigmas[0]))
        network, at = Network(noise), iter(sigmas)

        def raw(scaled: Tensor, t: Tensor) -> Tensor:
            s, d = next(at), 0.5
            x = scaled * np.sqrt(s**2 + d**2)
            return (network.denoised(x, s) - d**2 / (s**2 + d**2) * x) / (s * d / np.sqrt(s**2 + d**2))

        x = unit_noise(-1, dtype) * sigmas[0]
        theirs = steps_of(made, choose, raw, x)
    return ours(noise, sampler, sigmas, x, **build), theirs


def flow(name: str, sampler: str, config: dict[str, Any], steps: int, dtype: torch.dtype, build: dict[str, Any]) -> tuple[Tensor, Tensor]:
    with scheduler(name, dtype, config) as (made, choose):
        made.set_timesteps(steps)
        noise = NoiseSchedule.flow()
        times = np.array(list(dict.fromkeys(made.sigmas.tolist())))
        passed = np.array(made.timesteps.tolist(), np.float64) / 1000
        network = Network(noise, "flow_prediction")
        x = unit_noise(-1, dtype)
        theirs = steps_of(made, choose, lambda x, t: network(x, (t.double() / 1000).expand(len(x))), x)
    return ours(noise, sampler, times, x, network_times=passed, prediction_type="flow_prediction", **build), theirs


def ipndm_on_a_vp_table(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """IPNDM with a table of ours: its own starts at alpha = 0, where it divides by 1e-8 and loses the prediction."""
    noise, times = NoiseSchedule.linear(), np.append(np.arange(999, 0, -111.0), -1.0)
    with scheduler("IPNDM", dtype, {}) as (made, choose):
        made.set_timesteps(9)
        made.alphas = torch.tensor(noise.alpha(times), dtype=dtype)
        made.betas = torch.tensor(noise.sigma(times), dtype=dtype)
        made.timesteps = torch.tensor(times[:-1], dtype=dtype)
        x, network = unit_noise(-1, dtype), Network(noise, "v_prediction")
        theirs = steps_of(made, choose, lambda x, t: network(x, t.expand(len(x))), x)
    return ours(noise, "ipndm", times, x, prediction_type="v_prediction", options={"full_order_to_clean": True}), theirs


def described(config: dict[str, Any], step: dict[str, Any], steps: int) -> str:
    return ", ".join([*(f"{k}={v}" for k, v in (config | step).items()), f"{steps} steps"])


def case(
    name: str,
    sampler: str,
    config: dict[str, Any] | None = None,
    steps: int = 9,
    *,
    step: dict[str, Any] | None = None,
    note: str = "",
    rounds: bool = False,
    **given: Any,
) -> Case:
    config, step = config or {}, step or {}

    def run(dtype: torch.dtype, exact: bool = False) -> tuple[Tensor, Tensor]:
        build = given | {"exact": exact}
        if name.startswith("EDM"):
            return inverted(name, sampler, config, steps, dtype, build)
        if "FlowMatch" in name or config.get("use_flow_sigmas"):
            return flow(name, sampler, config, steps, dtype, build)
        return discrete(name, sampler, config, steps, dtype, step, build)

    return Case(sampler, f"diffusers {name}Scheduler", described(config, step, steps), run, note, rounds)


def cases() -> list[Case]:
    made: list[Case] = []
    add = lambda *args, **kwargs: made.append(case(*args, **kwargs))  # noqa: E731
    for eta in (0.0, 0.5, 1.0):
        for spacing in ("leading", "trailing"):
            add("DDIM", "ddim", {"timestep_spacing": spacing, "clip_sample": False}, 10, step={"eta": eta}, eta=eta)
    add("DDIM", "ddim", {"set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False}, 10, note=OFFSET)
    for variance in ("fixed_small", "fixed_large"):
        add("DDPM", "ddpm", {"variance_type": variance, "clip_sample": False}, 7, options={"variance": variance})
    add("PNDM", "pndm", {"skip_prk_steps": True, "set_alpha_to_one": True}, 10, options={"full_order_to_clean": True})
    made.append(Case("ipndm", "diffusers IPNDMScheduler", "tables of a discrete model, 9 steps", ipndm_on_a_vp_table, IPNDM))
    for grid in ({"timestep_spacing": "linspace"}, {"timestep_spacing": "trailing"}, {"use_karras_sigmas": True}):
        add("EulerDiscrete", "euler", grid)
        add("HeunDiscrete", "heun", grid)
        add("LMSDiscrete", "lms", grid, options={"full_order_to_clean": True}, note=QUADRATURE)
        add("KDPM2Discrete", "kdpm_2", grid)
        add("KDPM2AncestralDiscrete", "kdpm_2", grid, options={"eta": 1.0})
        add("DPMSolverSDE", "dpmpp_sde", grid)
    for spacing in ("linspace", "trailing"):
        add("EulerAncestralDiscrete", "euler_ancestral", {"timestep_spacing": spacing})
    for algorithm, final in (("dpmsolver++", "zero"), ("dpmsolver++", "sigma_min"), ("dpmsolver", "sigma_min")):
        shared = {"algorithm_type": algorithm, "final_sigmas_type": final}
        data = algorithm == "dpmsolver++"
        for kind in ("midpoint", "heun"):
            for order in (1, 2, 3):
                if order == 1 and kind == "heun":
                    continue
                config = shared | {"solver_order": order, "solver_type": kind}
                options = {"solver_type": kind} if order > 1 else {}
                single = {1: "ddim", 2: "dpmpp_2s", 3: "dpmpp_3s"}[order] if data else f"dpm_solver_{order}"
                on_grid = {"inner": "grid"} | options if order > 1 else {}
                for steps in (8, 9):
                    config = config | {"lower_order_final": True}
                    # Its middle evaluation is far from the middle of the step, and coefficients grow to thousands.
                    rounds = (algorithm, kind, order, steps) == ("dpmsolver", "midpoint", 3, 8)
                    add("DPMSolverSinglestep", single, config, steps, options=on_grid, lower_order_final=True, rounds=rounds)
                multi = {1: "ddim", 2: "dpmpp_2m", 3: "dpmpp_3m"}[order] if data else "dpm_solver_multistep"
                for lowered in (True, False):
                    multi_options = options if data else options | {"order": order}
                    config = config | {"lower_order_final": lowered}
                    add("DPMSolverMultistep", multi, config, options=multi_options, lower_order_final=lowered)
    for kind in ("midpoint", "heun"):
        config = {"algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "zero", "solver_type": kind}
        add("DPMSolverMultistep", "dpmpp_2m_sde", config | {"solver_order": 2}, options={"solver_type": kind})
    add("DPMSolverMultistep", "ddim", {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}, eta=1.0)
    add("DPMSolverMultistep", "dpmpp_2m", {"use_karras_sigmas": True}, options={})
    add(
        "DPMSolverMultistep", "dpmpp_2m", {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}, note=TRUNCATED
    )
    for order in (1, 2, 3):
        for steps in (9, 16):
            add(
                "DEISMultistep",
                "deis",
                {"solver_order": order},
                steps,
                options={"order": order},
                lower_order_final=steps < 15,
                rounds=(order, steps) == (3, 16),
            )
    for order in (1, 2, 3):
        for variant in ("bh1", "bh2"):
            # To a clean image its bh1 multiplies infinity by zero (see test_diffusers.py).
            config = {"solver_order": order, "solver_type": variant, "final_sigmas_type": "sigma_min" if variant == "bh1" else "zero"}
            for corrector in (True, False):
                options = {"order": order, "variant": variant, "corrector": corrector}
                off = {} if corrector else {"disable_corrector": list(range(9))}
                add("UniPCMultistep", "unipc", config | off, options=options, lower_order_final=True)
    add("UniPCMultistep", "unipc", {"solver_order": 3, "lower_order_final": False, "final_sigmas_type": "sigma_min"}, options={"order": 3})
    add("EDMEuler", "euler")
    for order in (1, 2, 3):
        add("EDMDPMSolverMultistep", ("ddim", "dpmpp_2m", "dpmpp_3m")[order - 1], {"solver_order": order}, lower_order_final=True)
    add("EDMDPMSolverMultistep", "dpmpp_2m_sde", {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}, options={})
    for shift in (1.0, 3.0):
        add("FlowMatchEulerDiscrete", "euler", {"shift": shift})
        add("FlowMatchHeunDiscrete", "heun", {"shift": shift})
    return made


OFFSET = "with set_alpha_to_one=False the last step ends at index 0, which steps_offset=1 leaves below the last evaluation"
IPNDM = "its own table starts at alpha = 0, where it divides by 1e-8 and loses the prediction; driven with a table that does not"
QUADRATURE = "its coefficients come from scipy's quad, exact for these polynomials"
TRUNCATED = "it truncates flow times to whole numbers; the network is passed the same here"
