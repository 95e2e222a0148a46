"""Whole samplings, from x_T to x_0, as ttune and others run them: the contestants of ``python -m benchmarks throughput``.

Each is a function of x_T beside the schedule that says where its steps stand: some peers know only grids of their own.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ttune
from benchmarks.networks import import_diffusers
from benchmarks.samplings import workloads
from benchmarks.samplings.workloads import Workload
from ttune import ops

SCALE = 2.0
SAMPLERS = ("ddim", "dpmpp_2m")
FOLDED = "eager, folded"
PEERS = ("dpm_solver_pytorch.py", "dpm_solver.py", "time_tuner.py")
Predict = Callable[[Tensor, Tensor], list[Tensor]]


@dataclass(frozen=True)
class Sampling:
    """``call(x_T)`` returns x_0, on the steps of ``schedule``. ``ours``: the project's; its result is held to float64's.
    ``context`` is entered around many calls: what a program does once, and not in every sampling."""

    call: Callable[[Tensor], Tensor]
    schedule: ttune.Schedule
    ours: bool = False
    context: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Setting:
    """What is sampled: ``workload`` by ``sampler`` in ``steps`` steps, a batch of ``shape``."""

    workload: Workload
    sampler: str
    steps: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    guided: bool
    device: torch.device

    def denoiser(self) -> ttune.Denoiser:
        guidance = ttune.ClassifierFree(SCALE, self.workload.null) if self.guided else None
        return ttune.Denoiser(self.workload.network, self.workload.noise, guidance=guidance)

    @property
    def conditions(self) -> dict[str, Any]:
        return self.workload.conditions(self.shape[0])

    def predict(self) -> Predict:
        """The network's outputs at (x, t): one, or the conditional and the unconditional one from one call."""
        workload, conditions, batch = self.workload, self.conditions, self.shape[0]
        if not self.guided:
            return lambda x, t: [workload.network(x, t.expand(batch), **conditions)]
        both = {k: torch.cat([v, torch.full_like(v, workload.null[k])]) for k, v in conditions.items()}
        return lambda x, t: list(workload.network(torch.cat([x, x]), t.expand(2 * batch), **both).chunk(2))

    def probe(self) -> Setting:
        """The same on a small batch and a network that depends on the state, the time and the condition, to see that a contestant
        passes on all three."""
        shape = (2, 3, 8, 8)
        return replace(self, workload=workloads.probe(shape, self.dtype, self.device), steps=5, shape=shape)


def combined(outputs: list[Tensor]) -> Tensor:
    """Guidance, as one writes it."""
    return outputs[0] if len(outputs) == 1 else outputs[1] + SCALE * (outputs[0] - outputs[1])


def samplings(setting: Setting, *, compile: bool, peer: Path | None) -> tuple[dict[str, Sampling], dict[str, str]]:
    """By name; and which cannot take part here, with why."""
    found = _own(setting, compile) | _plain(setting, compile) | {FOLDED: _folded(setting)}
    missing: dict[str, str] = {}
    for name, make in (("diffusers", _diffusers), ("k-diffusion", _k_diffusion)):
        try:
            found[name] = make(setting)
        except ImportError as error:
            missing[name] = str(error)
    if peer is not None:
        found |= _peers(setting, peer)
    return found, missing


def schedule_of(setting: Setting) -> ttune.Schedule:
    """The grid that diffusers takes by default: leading for DDIM, even times for 2M; both end at a clean image."""
    noise, steps = setting.workload.noise, setting.steps
    if setting.sampler == "ddim":
        return ttune.Schedule.build(noise, "ddim", steps, "leading")
    times = np.round(np.linspace(0, 999, steps + 1))[::-1][:-1]
    return ttune.Schedule.build(noise, "dpmpp_2m", steps, [*times, -1.0])


def _own(setting: Setting, compile: bool) -> dict[str, Sampling]:
    denoiser, schedule, conditions = setting.denoiser(), schedule_of(setting), setting.conditions
    wanted = ("cuda", "triton") if setting.device.type == "cuda" else ("cpu",)
    states = ops.backends()

    plain = lambda x: ttune.sample(denoiser, schedule, x, conditions=conditions)  # noqa: E731

    def on(backend: str) -> Callable[[], AbstractContextManager[Any]]:
        return lambda: ops.use_backend(backend)

    names = [name for name in (*wanted, "reference") if states[name]["available"]]
    found = {f"ttune, {name}": Sampling(plain, schedule, ours=True, context=on(name)) for name in names}
    if compile:
        whole = ttune.CompiledSampler(denoiser, schedule)
        found["ttune, compiled"] = Sampling(lambda x: whole(x, conditions=conditions), schedule, ours=True)
    if setting.device.type == "cuda":
        captured = ttune.CompiledSampler(denoiser, schedule, compile=False, cuda_graph=True)
        found["ttune, CUDA graph"] = Sampling(lambda x: captured(x, conditions=conditions), schedule, ours=True)
    return found


Scalars = list[float] | Tensor


def ddim_step(x: Tensor, outputs: list[Tensor], c: Scalars) -> Tensor:
    """c: alpha, sigma here, alpha, sigma at the next position."""
    epsilon = combined(outputs)
    return c[2] * ((x - c[1] * epsilon) / c[0]) + c[3] * epsilon


def multistep_step(x: Tensor, outputs: list[Tensor], c: Scalars, before: Tensor) -> tuple[Tensor, Tensor]:
    """c: alpha, sigma here, weight of x, weight of the extrapolated prediction, share of this prediction in it."""
    prediction = (x - c[1] * combined(outputs)) / c[0]
    return c[2] * x + c[3] * (c[4] * prediction + (1 - c[4]) * before), prediction


def folded_ddim_step(x: Tensor, outputs: list[Tensor], c: Scalars) -> Tensor:
    """c: weights of x and of epsilon."""
    return c[0] * x + c[1] * combined(outputs)


def folded_multistep_step(x: Tensor, outputs: list[Tensor], c: Scalars, before: Tensor) -> tuple[Tensor, Tensor]:
    """c: weights of x and epsilon in this prediction; of x, this prediction and the last in the next state."""
    prediction = c[0] * x + c[1] * combined(outputs)
    return c[2] * x + c[3] * prediction + c[4] * before, prediction


def _plain(setting: Setting, compile: bool) -> dict[str, Sampling]:
    """Clean eager code, its scalars Python's; and prediction and folded step in one compiled graph, its scalars in tensors, since a
    graph is specialised to floats."""
    schedule, predict, device = schedule_of(setting), setting.predict(), setting.device
    ddim = setting.sampler == "ddim"
    rows = _ddim_rows(schedule) if ddim else _multistep_rows(schedule)
    dtype = torch.float64 if setting.dtype == torch.float64 else torch.float32
    # One tensor each and not views of one: torch.compile copies inputs on a GPU that are not aligned to 16 bytes.
    apart = lambda table, dtype: [row.clone() for row in torch.tensor(table, device=device).to(dtype)]  # noqa: E731
    times = apart(schedule.times[:-1], torch.float32)
    step = ddim_step if ddim else multistep_step
    folded_step = folded_ddim_step if ddim else folded_multistep_step

    def advance(x: Tensor, t: Tensor, c: Scalars, *before: Tensor) -> Any:
        return step(x, predict(x, t), c, *before)

    def folded_advance(x: Tensor, t: Tensor, c: Scalars, *before: Tensor) -> Any:
        return folded_step(x, predict(x, t), c, *before)

    # A code object of its own: torch.compile counts graphs per code object, and there is one per budget.
    folded_advance.__code__ = folded_advance.__code__.replace()

    def loop(advance: Callable[..., Any], scalars: Sequence[Scalars]) -> Callable[[Tensor], Tensor]:
        @torch.no_grad()
        def first_order(x: Tensor) -> Tensor:
            for t, c in zip(times, scalars, strict=True):
                x = advance(x, t, c).to(x.dtype)
            return x

        @torch.no_grad()
        def multistep(x: Tensor) -> Tensor:
            before = torch.zeros_like(x)
            for t, c in zip(times, scalars, strict=True):
                x_next, before = advance(x, t, c, before)
                x, before = x_next.to(x.dtype), before.to(x.dtype)
            return x

        return first_order if setting.sampler == "ddim" else multistep

    found = {"eager": Sampling(loop(advance, rows), schedule)}
    if compile:
        table = apart(_folded_ddim(rows) if ddim else _folded_multistep(rows), dtype)
        found["torch.compile"] = Sampling(loop(torch.compile(folded_advance, fullgraph=True, dynamic=False), table), schedule)
    return found


def _folded(setting: Setting) -> Sampling:
    """Eager code by somebody who folded the scalars by hand: as few passes as PyTorch's operators allow, two for DDIM and four for
    2M, one more with guidance."""
    schedule, predict = schedule_of(setting), setting.predict()
    times = torch.tensor(schedule.times[:-1], dtype=torch.float32, device=setting.device).unbind()
    guided = lambda outputs: outputs[0] if len(outputs) == 1 else torch.lerp(outputs[1], outputs[0], SCALE)  # noqa: E731
    ddim_rows, multistep_rows = _folded_ddim(_ddim_rows(schedule)), _folded_multistep(_multistep_rows(schedule))

    @torch.no_grad()
    def ddim(x: Tensor) -> Tensor:
        for t, (of_x, of_epsilon) in zip(times, ddim_rows, strict=True):
            x = torch.mul(x, of_x).add_(guided(predict(x, t)), alpha=of_epsilon)
        return x

    @torch.no_grad()
    def multistep(x: Tensor) -> Tensor:
        before = None
        for t, (p, q, of_x, of_now, of_before) in zip(times, multistep_rows, strict=True):
            now = torch.mul(x, p).add_(guided(predict(x, t)), alpha=q)
            x = torch.mul(x, of_x).add_(now, alpha=of_now)
            if of_before:
                assert before is not None
                x.add_(before, alpha=of_before)
            before = now
        return x

    return Sampling(ddim if setting.sampler == "ddim" else multistep, schedule)


def _ddim_rows(schedule: ttune.Schedule) -> list[list[float]]:
    a, s = schedule.alphas, schedule.sigmas
    return [[float(v) for v in (a[i], s[i], a[i + 1], s[i + 1])] for i in range(schedule.steps)]


def _folded_ddim(rows: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return [(a_next / a, s_next - s * a_next / a) for a, s, a_next, s_next in rows]


def _folded_multistep(rows: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return [(1 / a, -s / a, x, d * ahead, d * (1 - ahead)) for a, s, x, d, ahead in rows]


def _multistep_rows(schedule: ttune.Schedule) -> list[list[float]]:
    """Lu et al. 2022 (DPM-Solver++), algorithm 2; the first step and one to a clean image are first order."""
    a, s = schedule.alphas, schedule.sigmas
    with np.errstate(divide="ignore"):
        half_log_snr = np.log(a / s)
    rows = []
    for i in range(schedule.steps):
        h = half_log_snr[i + 1] - half_log_snr[i]
        first = i == 0 or s[i + 1] == 0
        ahead = 1.0 if first else 1 + h / (2 * (half_log_snr[i] - half_log_snr[i - 1]))
        rows.append([float(v) for v in (a[i], s[i], s[i + 1] / s[i], -a[i + 1] * np.expm1(-h), ahead)])
    return rows


def _diffusers(setting: Setting) -> Sampling:
    """Its scheduler in the loop of its pipelines; they set the timesteps anew for every sampling."""
    module, schedule, predict = import_diffusers(), schedule_of(setting), setting.predict()
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


def _k_diffusion(setting: Setting) -> Sampling:
    """Its functions, on sigma / alpha; sample_euler is DDIM there, and draws noise at every step that it does not use."""
    sampling = _k_diffusion_sampling()
    schedule, predict = schedule_of(setting), setting.predict()
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


def _peers(setting: Setting, peer: Path) -> dict[str, Sampling]:
    """A clone of LuChengTHU/dpm-solver or THU-LYJ-Lab/time-tuner, or the folder of a package with a copy. Its code is imported and run."""
    known: Mapping[str, Callable[[Setting, ModuleType], Sampling | None]] = {
        "dpm_solver_pytorch.py": _dpm_solver,
        "dpm_solver.py": _dpm_solver,  # as latent diffusion has it
        "time_tuner.py": _time_tuner,
    }
    found = {}
    for name in peer_files(peer):
        made = known[name](setting, _loaded(peer / name))
        if made is not None:
            found[name.removesuffix(".py")] = made
    return found


def _to_first_index(setting: Setting) -> ttune.Schedule:
    """Even times from the last to index 0: both peers' own continuous time has no clean image."""
    return ttune.Schedule.build(setting.workload.noise, setting.sampler, setting.steps, np.linspace(999.0, 0.0, setting.steps + 1))


def _dpm_solver(setting: Setting, module: ModuleType) -> Sampling:
    noise = module.NoiseScheduleVP("discrete", betas=torch.tensor(_betas(setting.workload.noise), device=setting.device))
    predict = setting.predict()
    # Its model sees (B,) times in [1/N, 1].
    wrapped = lambda x, t: combined(predict(x, (t[0] - 1 / 1000) * 1000))  # noqa: E731
    newer = "algorithm_type" in inspect.signature(module.DPM_Solver).parameters
    solver = module.DPM_Solver(wrapped, noise, **({"algorithm_type": "dpmsolver++"} if newer else {"predict_x0": True}))
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
    noise = module.NoiseScheduleVP("discrete", betas=torch.tensor(_betas(setting.workload.noise), device=setting.device))
    predict = setting.predict()
    tuner = module.TimeTuner(lambda x, t, *_: combined(predict(x, (t[0] - 1 / 1000) * 1000)), noise, device=setting.device)
    schedule = _to_first_index(setting)
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
