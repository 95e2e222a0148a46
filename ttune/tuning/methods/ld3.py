"""LD3 (arXiv 2405.15506): the solver stays, times and network times are learned; every x_T may move a little (soft teacher forcing).

    gaps    t_i - t_{i+1} = (t_0 - t_K) softmax(logits)_i
    network times          t_i + xi_i (smallest gap), |xi_i| <= 1/2, xi_0 = 0; held at 0 for the first 2 of 7 parts of the run
    loss    min over x' of |sample(x') - teacher(x_T)|^2,  |x' - x_T| <= r = 0.001 d / K^2 for d elements and K steps

x' takes one gradient step an iteration, is drawn back into the ball, and stays where that lowers its sample's loss. The paper's loss is
LPIPS (``residual`` says what it is here), its optimisers RMSProp and SGD with rates that fall when validation says so, its batches of 2
from 50 x_T. The gaps are in the model's own time (the paper's "time" mode; in the other a clean last time has no place).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ttune.network.denoiser import Denoiser
from ttune.noise.schedules import Float64
from ttune.sampling.plan import Plan, Registers
from ttune.schedule.schedule import Schedule
from ttune.tuning.methods.adam import ByAdam
from ttune.tuning.problem import Problem, finite
from ttune.tuning.solvers.sensitivity import QuadraticModel
from ttune.tuning.solvers.vector import Vector
from ttune.tuning.starting_points import Data

RADIUS = 1e-3  # of the ball, times elements over steps^2
SHIFT_RATE = 6.0  # of a step of x_T, over the steps; the paper's 12 is for the mean of two samples
TIMES_ALONE = 2 / 7  # of the run
MOST = 0.5  # of the smallest gap, by which a network time may leave its time


@dataclass(frozen=True)
class LD3(ByAdam):
    """Times, then network times too, by Adam. ``radius``: of the ball about every x_T; None: the paper's, 0: no ball.

    The whole run of a batch is one graph: memory grows with ``batch`` and with the steps.
    """

    batch: int = 8
    radius: float | None = None

    name: ClassVar[str] = "ld3"

    @property
    def changes(self) -> tuple[str, ...]:
        return ("network_times", "times")

    def check(self, denoiser: Denoiser, schedule: Schedule, data: Data | None) -> None:
        if self.radius is not None and not self.radius >= 0:
            raise ValueError(f"radius must be at least 0, got {self.radius}")
        super().check(denoiser, schedule, data)

    def vector(self, start: Schedule) -> Vector:
        return GapVector(start)

    def rates(self, vector: Vector, part: float) -> Float64:
        rates = super().rates(vector, part)
        if part < TIMES_ALONE:
            rates[(len(rates) + 1) // 2 :] = 0
        return rates

    def measured(self, problem: Problem, vector: Vector, theta: Float64, beside: str) -> tuple[Float64, Float64, str]:
        """The squares and gradients from the shifted x_T, and the next shifts of these."""
        steps, numel = vector.schedule(theta).steps, problem.x_T[0].numel()
        radius = RADIUS * numel / steps**2 if self.radius is None else self.radius
        moved = _decoded(beside, problem.x_T)
        squares, slopes, on_x_T = unrolled(problem, vector, theta, moved)
        trial = _within(moved.float() - SHIFT_RATE / steps * on_x_T.float(), radius)
        with torch.no_grad():
            run = replace(problem, x_T=problem.x_T + trial.to(problem.x_T)).run(vector.schedule(theta))
            lower = problem.residuals(run).square().mean(1) < squares
        taken = torch.where(lower.view(-1, *(1 for _ in moved.shape[1:])), trial, moved.float())
        return squares.cpu().numpy(), slopes.cpu().numpy(), _encoded(taken)


class GapVector(Vector):
    """Logits of the gaps (K), offsets of the network times but the first, in units of the smallest gap (K - 1)."""

    def __init__(self, start: Schedule) -> None:
        self._start = start
        gaps = -np.diff(start.times)
        self.start_vector = np.concatenate([np.log(gaps / gaps.sum()), np.zeros(start.steps - 1)])

    def project(self, theta: Float64) -> Float64:
        steps = self._start.steps
        return np.concatenate([theta[:steps], np.clip(theta[steps:], -MOST, MOST)])

    def schedule(self, theta: Float64) -> Schedule:
        start, noise, steps = self._start, self._start.noise, self._start.steps
        shares = np.exp(theta[:steps] - theta[:steps].max())
        gaps = (start.times[0] - start.times[-1]) * shares / shares.sum()
        times = np.concatenate([start.times[0] - np.append(0.0, np.cumsum(gaps[:-1])), start.times[-1:]])
        network_times = times[:-1] + np.append(0.0, theta[steps:]) * gaps.min()
        return start.replace(times=times, network_times=np.clip(network_times, noise.t_min, noise.t_max), coefficients=start.coefficients)


def unrolled(problem: Problem, vector: Vector, theta: Float64, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of every sample of ``problem`` from its x_T + ``shift``, the mean square of its residuals (n,), and the gradients of that in the
    vector (n, P) and in x_T (n, ...): one graph of the whole run, with a copy of the vector for every sample."""
    denoiser, schedule = problem.denoiser, vector.schedule(theta)
    model = QuadraticModel.make(denoiser, vector, theta, problem.x_T.device)
    plan, before = Plan.make(denoiser, schedule, problem.x_T.device), denoiser.evaluations
    copies = torch.zeros(len(problem), len(vector.free), dtype=torch.float64, device=problem.x_T.device, requires_grad=True)
    with torch.enable_grad():
        x_T = (problem.x_T + shift).detach().requires_grad_()
        scale = model.start_scale.of_each(copies).to(x_T).view(-1, *(1 for _ in x_T.shape[1:]))
        registers: Registers = {"x": scale * x_T}
        if plan.start is not None:
            registers = {"x": plan.start(registers, ())["x"]}
        times = model.network_times.of_each(copies)
        for i, stage in enumerate(model.stages):
            outputs = plan.outputs(denoiser, i, registers["x"], problem.conditions, times[:, i])
            registers = stage(denoiser, registers, outputs, copies)
        squares = problem.residuals(finite(registers["x"], schedule)).square().mean(1)
        slopes, on_x_T = torch.autograd.grad(squares.sum(), [copies, x_T])
    denoiser.evaluations += 2 * (denoiser.evaluations - before)  # a backward counts twice its forward
    return squares.detach(), slopes, on_x_T


def _within(shift: Tensor, radius: float) -> Tensor:
    """Every sample's shift, drawn back into the ball."""
    norms = shift.flatten(1).norm(dim=1).clamp(min=torch.finfo(shift.dtype).tiny).view(-1, *(1 for _ in shift.shape[1:]))
    return shift * (radius / norms).clamp(max=1.0)


def _encoded(shift: Tensor) -> str:
    return base64.b64encode(shift.cpu().numpy().tobytes()).decode()


def _decoded(shift: str, like: Tensor) -> Tensor:
    """(n, ...) in the dtype of ``like``; zeros for no shift yet."""
    if not shift:
        return torch.zeros_like(like)
    numbers = np.frombuffer(base64.b64decode(shift), np.float32).reshape(like.shape).copy()
    return torch.from_numpy(numbers).to(like)
