"""Adam on the distance to the teacher's x_0, for methods that write a schedule as a vector of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from tqdm import tqdm

from ttune.network.denoiser import Denoiser
from ttune.noise.schedules import Float64
from ttune.samplers.correction import MAX_DEPTH
from ttune.sampling.plan import Plan, evaluations_of
from ttune.schedule.schedule import Schedule
from ttune.tuning.methods.method import Found, Task, refuse_integer_time, refuse_multistage
from ttune.tuning.problem import Problem
from ttune.tuning.solvers.backpropagation import CHECK_SAMPLES, backward, forward, why_no_gradients
from ttune.tuning.solvers.parameters import Parameters
from ttune.tuning.solvers.sensitivity import QuadraticModel
from ttune.tuning.solvers.vector import Vector
from ttune.tuning.starting_points import Data

BETAS, EPS = (0.9, 0.999), 1e-8
LAST_RATE = 0.01  # of the first: the rate falls along a cosine
GRADIENT_COST = 4  # runs of the sampler: forwards, the network again, and its backward pass, which counts twice
VALIDATED = 2  # schedules in the decision: the start and what was found


@dataclass
class Descent:
    """Where Adam is, in plain values, so that a run continues bit for bit."""

    theta: list[float]
    average: list[float]
    m: list[float]
    v: list[float]
    history: list[float] = field(default_factory=list)  # RMSE of the residuals of every iteration's x_T, before its step
    beside: dict[str, str] = field(default_factory=dict)  # what a method remembers of a batch of x_T, by its number

    def stepped(self, vector: Vector, rmse: float, g: Float64, rates: Float64, decay: float) -> Descent:
        """After one more step, with the gradient ``g``; ``decay`` is the average's."""
        i, theta = len(self.history) + 1, np.array(self.theta)
        m = BETAS[0] * np.array(self.m) + (1 - BETAS[0]) * g
        v = BETAS[1] * np.array(self.v) + (1 - BETAS[1]) * g**2
        moved = vector.moved(theta, rates * (m / (1 - BETAS[0] ** i)) / (np.sqrt(v / (1 - BETAS[1] ** i)) + EPS))
        decay = min(decay, i / (i + 9))  # an average that is older than the run would still be its start
        average = decay * np.array(self.average) + (1 - decay) * moved
        return Descent(moved.tolist(), average.tolist(), m.tolist(), v.tolist(), [*self.history, rmse], self.beside)


@dataclass(frozen=True)
class ByAdam(ABC):
    """Adam on the mean square of the residuals, on ``batch`` of the tuning x_T after the other; the rate falls along a cosine.

    ``max_evaluations``: of the whole tuning, teacher and validation included: it has as many iterations, up to ``iterations``, as fit.
    """

    iterations: int = 500
    batch: int = 24
    lr: float = 1e-2
    max_evaluations: int | None = None

    name: ClassVar[str]
    decay: ClassVar[float] = 0.0  # of the exponential average of the iterations that is returned

    @property
    @abstractmethod
    def changes(self) -> tuple[str, ...]: ...

    @abstractmethod
    def vector(self, start: Schedule) -> Vector: ...

    def check(self, denoiser: Denoiser, schedule: Schedule, data: Data | None) -> None:
        for name, value in (("iterations", self.iterations), ("batch", self.batch), ("max_evaluations", self.max_evaluations)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        refuse_integer_time(denoiser)
        refuse_multistage(self.name, schedule)
        if "coefficients" in self.changes and schedule.steps > MAX_DEPTH + 1:
            raise ValueError(f"method {self.name!r} uses all predictions so far, for at most {MAX_DEPTH + 1} steps, got {schedule.steps}")
        self.vector(schedule)

    def rates(self, vector: Vector, part: float) -> Float64:
        """Adam's, of every component, when ``part`` of the run is over."""
        return np.full(len(vector.start_vector), self.lr * (LAST_RATE + (1 - LAST_RATE) * (1 + np.cos(np.pi * part)) / 2))

    def measured(self, problem: Problem, vector: Vector, theta: Float64, beside: str) -> tuple[Float64, Float64, str]:
        """Of every sample its loss (n,) and the gradient of that (n, P); and what is to be remembered of this batch."""
        return *gradients(problem, vector, theta), beside

    def settings(self) -> Mapping[str, Any]:
        return {self.name: asdict(self)}

    def run(self, task: Task) -> Found:
        vector = self.vector(task.start)
        with task.ledger.entry("tuning"):
            times = Parameters(task.start, ("network_times",))  # a network without gradients is seen by these best
            why = task.journal.piece("no gradients", lambda: why_no_gradients(task.problem.head(CHECK_SAMPLES), times))
            if why:
                raise ValueError(
                    f"denoiser: method {self.name!r} needs a network that is differentiable in its state and its time, and here {why}; "
                    f"tune this one by 'endpoint'"
                )
            state = self._descended(task, vector)
        return Found([vector.schedule(np.array(state.average))], {self.name: state.history})

    def _descended(self, task: Task, vector: Vector) -> Descent:
        zeros, start = [0.0] * len(vector.start_vector), vector.start_vector.tolist()
        saved = task.journal.get(self.name)
        state = Descent(**saved) if saved else Descent(start, start, zeros, zeros)
        parts = replace(task.problem, batch_size=self.batch, share=None).chunks()  # one process has all x_T
        batches = [replace(part, batch_size=task.problem.batch_size) for part in parts]
        total = task.journal.piece("iterations", lambda: self._iterations(task, [len(batch) for batch in batches]))
        with tqdm(total=total, initial=len(state.history), desc=self.name, disable=not task.progress, leave=False) as bar:
            while (i := len(state.history)) < total:
                k = i % len(batches)
                squares, slopes, beside = self.measured(batches[k], vector, np.array(state.theta), state.beside.get(str(k), ""))
                state = state.stepped(vector, float(squares.mean() ** 0.5), slopes.mean(0), self.rates(vector, i / total), self.decay)
                state.beside |= {str(k): beside} if beside else {}
                task.best.accept(self.name, asdict(state), vector.schedule(np.array(state.average)), samples=len(task.problem))
                bar.update()
        return state

    def _iterations(self, task: Task, sizes: Sequence[int]) -> int:
        """As many as ``max_evaluations`` has room for, with batches of these ``sizes``, one after the other."""
        if self.max_evaluations is None:
            return self.iterations
        run = sum(len(evaluation.row) - 1 for evaluation in evaluations_of(task.problem.denoiser, task.start))
        left = self.max_evaluations - sum(task.ledger.evaluations.values()) - VALIDATED * run * task.validation_samples
        spent = GRADIENT_COST * run * np.cumsum(np.resize(sizes, self.iterations))
        return max(1, int((spent <= left).sum()))


def gradients(problem: Problem, vector: Vector, theta: Float64) -> tuple[Float64, Float64]:
    """Of every sample, the mean square of its residuals (n,) and the gradient of that (n, P)."""
    denoiser, device, schedule = problem.denoiser, problem.x_T.device, vector.schedule(theta)
    model = QuadraticModel.make(denoiser, vector, theta, device)
    plan = Plan.make(denoiser, schedule, device)

    def figures(batch: Problem) -> list[Float64]:
        path = forward(batch, schedule, plan)
        with torch.enable_grad():
            leaf = path.x_0.requires_grad_()
            squares = batch.residuals(leaf).square().mean(1)
            (on_x_0,) = torch.autograd.grad(squares.sum(), leaf)
        (slopes,) = backward(batch, plan, model, path, [on_x_0])
        return [squares.detach().cpu().numpy(), slopes.cpu().numpy()]

    squares, slopes = problem.per_sample(figures)
    return squares, slopes
