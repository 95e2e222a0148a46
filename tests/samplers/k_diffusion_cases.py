"""k-diffusion's samplers as cases, on an EDM model: in float32 and float64 alike it computes in the dtype it is given."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from tests.samplers.originals import Case, Network, ours, unit_noise
from ttune import NoiseSchedule
from ttune.samplers.folding import START_DRAW

NOISE = NoiseSchedule.edm(0.02, 80.0)
STEPS = 7
TO_CLEAN = np.append(np.linspace(80.0 ** (1 / 7), 0.02 ** (1 / 7), STEPS) ** 7, 0.0)
TO_MIN = TO_CLEAN[:-1]
CHURN = {"s_churn": 2.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}


@functools.cache
def module() -> types.ModuleType | None:
    """``k_diffusion.sampling`` alone, without what the package around it imports; None where it is not installed."""
    found = importlib.util.find_spec("k_diffusion")
    if found is None or not found.submodule_search_locations:
        return None
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(found.submodule_search_locations)
    utils = types.ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]  # type: ignore[attr-defined]
    package.utils = utils  # type: ignore[attr-defined]
    stubs = {"k_diffusion": package, "k_diffusion.utils": utils}
    for name, attributes in (("torchdiffeq", ["odeint"]), ("torchsde", []), ("tqdm.auto", ["trange", "tqdm"])):
        stubs[name] = types.ModuleType(name)
        for attribute in attributes:
            setattr(stubs[name], attribute, None)
    path = Path(package.__path__[0]) / "sampling.py"
    spec = importlib.util.spec_from_file_location("k_diffusion.sampling", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    importlib.import_module("scipy.integrate")  # before the patch, whose end would forget it
    with mock.patch.dict(sys.modules, stubs):
        spec.loader.exec_module(made)
    made.trange = lambda n, disable=None: range(n)  # type: ignore[attr-defined]
    made.tqdm = lambda total, disable=None: contextlib.nullcontext(types.SimpleNamespace(update=None))  # type: ignore[attr-defined]
    return made


@contextlib.contextmanager
def drawing(made: types.ModuleType, draw: Callable[[], Tensor]) -> Iterator[None]:
    """Its own unit noise, for churn, comes from ``draw``."""
    wrapped = types.ModuleType("torch")
    wrapped.__getattr__ = lambda name: getattr(torch, name)  # type: ignore[method-assign]
    wrapped.randn_like = lambda x: draw()  # type: ignore[attr-defined]
    with mock.patch.object(made, "torch", wrapped):
        yield


# sampler, k-diffusion's function, times, options of ours, options of theirs
ROWS: tuple[tuple[str, str, np.ndarray, dict[str, Any], dict[str, Any]], ...] = (
    ("euler", "sample_euler", TO_CLEAN, {}, {}),
    ("euler_ancestral", "sample_euler_ancestral", TO_CLEAN, {"eta": 1.0}, {"eta": 1.0}),
    ("euler_ancestral", "sample_euler_ancestral", TO_CLEAN, {"eta": 0.6, "s_noise": 1.1}, {"eta": 0.6, "s_noise": 1.1}),
    ("heun", "sample_heun", TO_CLEAN, {}, {}),
    ("edm_heun", "sample_heun", TO_CLEAN, CHURN, CHURN),
    ("kdpm_2", "sample_dpm_2", TO_CLEAN, {}, {}),
    ("kdpm_2", "sample_dpm_2_ancestral", TO_CLEAN, {"eta": 1.0}, {"eta": 1.0}),
    ("kdpm_2", "sample_dpm_2_ancestral", TO_CLEAN, {"eta": 0.5, "s_noise": 0.9}, {"eta": 0.5, "s_noise": 0.9}),
    *(("lms", "sample_lms", TO_CLEAN, {"order": p, "full_order_to_clean": True}, {"order": p}) for p in (1, 2, 3, 4)),
    ("dpmpp_2s", "sample_dpmpp_2s_ancestral", TO_CLEAN, {"eta": 1.0}, {"eta": 1.0}),
    ("dpmpp_2s", "sample_dpmpp_2s_ancestral", TO_CLEAN, {"eta": 0.0}, {"eta": 0.0}),
    ("dpmpp_sde", "sample_dpmpp_sde", TO_CLEAN, {"eta": 1.0}, {"eta": 1.0}),
    ("dpmpp_sde", "sample_dpmpp_sde", TO_CLEAN, {"eta": 0.5, "r": 0.4, "s_noise": 1.1}, {"eta": 0.5, "r": 0.4, "s_noise": 1.1}),
    ("dpmpp_2m", "sample_dpmpp_2m", TO_CLEAN, {}, {}),
    ("dpmpp_2m", "sample_dpmpp_2m", TO_MIN, {}, {}),
    *(
        ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", TO_CLEAN, {"eta": eta, "solver_type": kind}, {"eta": eta, "solver_type": kind})
        for eta, kind in ((1.0, "midpoint"), (1.0, "heun"), (0.5, "midpoint"))
    ),
    ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", TO_CLEAN, {"eta": 1.0}, {"eta": 1.0}),
    ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", TO_MIN, {"eta": 0.5, "s_noise": 1.1}, {"eta": 0.5, "s_noise": 1.1}),
    ("dpmpp_3m", "sample_dpmpp_3m_sde", TO_MIN, {"solver_type": "heun"}, {"eta": 0.0}),
    ("dpm_solver_fast", "sample_dpm_fast", TO_MIN, {"tail": "2,1"}, {"n": 9}),
    ("dpm_solver_fast", "sample_dpm_fast", TO_MIN, {"tail": "1"}, {"n": 10}),
    ("dpm_solver_fast", "sample_dpm_fast", TO_MIN, {"tail": "2"}, {"n": 11}),
)


def case(sampler: str, function: str, times: np.ndarray, mine: dict[str, Any], options: dict[str, Any]) -> Case:
    # Which of our draws comes first, and how far apart: evaluations of a two-stage step have a number each.
    churns = function == "sample_heun"
    first, stride = (-2, 1) if churns else (1, 2) if function in ("sample_dpmpp_2s_ancestral", "sample_dpm_2_ancestral") else (0, 1)
    draws = [START_DRAW, *range(1, 2 * STEPS, 2)] if churns else list(range(first, 2 * STEPS + first, stride))

    def run(dtype: torch.dtype, exact: bool = False) -> tuple[Tensor, Tensor]:
        made = module()
        assert made is not None
        x = unit_noise(-1, dtype) * 80
        network, left = Network(NOISE), iter(draws)

        def model(x: Tensor, sigma: Tensor) -> Tensor:
            return network.denoised(x, sigma[0])

        def draw(*_: Any) -> Tensor:
            return unit_noise(next(left), dtype)

        extra: dict[str, Any] = {"noise_sampler": draw} if "noise_sampler" in inspect.signature(getattr(made, function)).parameters else {}
        if function == "sample_dpm_fast":
            # It makes its own grid of four steps, in torch's default dtype.
            default = torch.get_default_dtype()
            torch.set_default_dtype(dtype)
            try:
                theirs = made.sample_dpm_fast(model, x, 0.02, 80.0, **options, noise_sampler=lambda *_: torch.zeros_like(x))
                grid = torch.linspace(-torch.tensor(80.0).log(), -torch.tensor(0.02).log(), 5).double().neg().exp().numpy()
            finally:
                torch.set_default_dtype(default)
            return ours(NOISE, sampler, np.minimum(grid, 80.0), x, options=mine, exact=exact), theirs
        with drawing(made, draw):
            theirs = getattr(made, function)(model, x, torch.tensor(times, dtype=dtype), **options, **extra)
        return ours(NOISE, sampler, times, x, options=mine, exact=exact), theirs

    described = ", ".join([*(f"{k}={v}" for k, v in options.items()), "to sigma_min" if times[-1] else "to 0"])
    return Case(sampler, f"k-diffusion {function}", described, run, rounds=options.get("n") == 10)


def cases() -> list[Case]:
    return [case(*row) for row in ROWS]
