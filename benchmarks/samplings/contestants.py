"""Who takes part in ``python -m benchmarks throughput``: ttune's backends, loops by hand, other libraries."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import ttune
from benchmarks.samplings.by_hand import by_hand
from benchmarks.samplings.other_libraries import diffusers, k_diffusion, peers
from benchmarks.samplings.setting import Sampling, Setting
from ttune import ops


def contestants(setting: Setting, *, compile: bool, peer: Path | None) -> tuple[dict[str, Sampling], dict[str, str]]:
    """By name; and which cannot take part here, with why."""
    found = _own(setting, compile) | by_hand(setting, compile=compile)
    missing: dict[str, str] = {}
    for name, make in (("diffusers", diffusers), ("k-diffusion", k_diffusion)):
        try:
            found[name] = make(setting)
        except ImportError as error:
            missing[name] = str(error)
    if peer is not None:
        found |= peers(setting, peer)
    return found, missing


def _own(setting: Setting, compile: bool) -> dict[str, Sampling]:
    denoiser, schedule, conditions = setting.denoiser(), setting.schedule(), setting.conditions
    on_gpu, states = setting.device.type == "cuda", ops.backends()

    def on(backend: str) -> Callable[[], AbstractContextManager[Any]]:
        return lambda: ops.use_backend(backend)

    names = [name for name in (*(("cuda", "triton") if on_gpu else ("cpu",)), "reference") if states[name]["available"]]
    plain = lambda x: ttune.sample(denoiser, schedule, x, conditions=conditions)  # noqa: E731
    found = {f"ttune, {name}": Sampling(plain, schedule, ours=True, context=on(name)) for name in names}
    if compile:
        # Unrolled where there is no network, which would be compiled once for every step.
        for unroll in (False, True) if not setting.workload.parameters else (False,):
            name = "ttune, compiled, unrolled" if unroll else "ttune, compiled"
            whole = ttune.CompiledSampler(denoiser, schedule, unroll=unroll)
            call = lambda x, whole=whole: whole(x, conditions=conditions)  # noqa: E731
            found[name] = Sampling(call, schedule, ours=True, compiles=True)
    if on_gpu:
        captured = ttune.CompiledSampler(denoiser, schedule, compile=False, cuda_graph=True)
        found["ttune, CUDA graph"] = Sampling(lambda x: captured(x, conditions=conditions), schedule, ours=True)
    return found
