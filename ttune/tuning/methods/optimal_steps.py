"""The times of the steps, by dynamic programming over a teacher's path (GITS, Chen et al. 2024, arXiv 2405.11326; Optimal Steps, Pei et
al. 2025, arXiv 2503.21774). Network times are solver times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ttune.messages.names import must_be_one_of
from ttune.network.denoiser import Denoiser
from ttune.noise.schedules import Float64
from ttune.samplers.points import Point
from ttune.sampling.plan import Plan
from ttune.schedule.schedule import Schedule
from ttune.tuning.methods.method import Found, Task, best_of
from ttune.tuning.problem import Problem, finite
from ttune.tuning.starting_points import Data
from ttune.tuning.teacher import Teacher

METRICS = ("l2", "l1", "deviation")


@dataclass(frozen=True)
class OptimalSteps:
    """K steps through ``candidates`` times of the teacher's path whose costs have the smallest sum.

    ``cost``
        "local" (GITS): of a step from t_i to t_j, the distance of the sampler's step from the teacher's state at t_i to the
        teacher's state at t_j. Needs the network's outputs along one teacher path and nothing else.
        "rolled" (Optimal Steps): of arriving at t_j after k steps, the distance to the teacher's state there when starting
        from where the best k - 1 steps had led; K evaluations at every candidate. The paper takes the best steps of each
        sample alone and leaves their choice open; here they are those with the lowest mean over the first chunk of x_T.
    ``metric``: "l1" or "l2", mean norm of the difference; "deviation" (GITS): by how much further than the teacher's state the
    student's lies from the straight line between x_T and x_0, in x / alpha. For "rolled" always the mean square, as published.
    ``discounts``: in a sum of local costs every later cost weighs that much more (GITS's gamma); the schedules of all of them
    are tried on the tuning x_T and the best is kept. t_0 is free, at the cost of being there with x_T,
    unless ``fix_start``.

    A multistep sampler begins at first order, so the costs are those of its first-order steps, as in both papers; so are
    those of a sampler with several evaluations a step (by DDIM). The steps found are then the sampler's own.
    """

    cost: str = "local"
    # The bundled model, 5 steps, 128 validation x_T, RMSE of DDIM and 2M: l1 .1395, .1048; l2 .1404, .1096; deviation .1513 (DDIM);
    # rolled .1392 (DDIM) at 1.75 times the cost. The best untuned grid of DDIM: .1404.
    metric: str = "l1"
    discounts: Sequence[float] = (0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
    candidates: int = 64
    fix_start: bool = False

    name: ClassVar[str] = "optimal_steps"

    def __post_init__(self) -> None:
        if self.cost not in ("local", "rolled"):
            raise ValueError(f"cost must be 'local' or 'rolled', got {self.cost!r}")
        must_be_one_of("metric", self.metric, list(METRICS))
        if not self.discounts or not all(0 < gamma < float("inf") for gamma in self.discounts):
            raise ValueError(f"discounts must be at least one positive number, got {list(self.discounts)}")
        if self.candidates < 2:
            raise ValueError(f"candidates must be at least 2, got {self.candidates}")

    @property
    def shared(self) -> bool:
        """Whether several ranks may tune together: the rolled costs are those of one chunk."""
        return self.cost == "local"

    @property
    def changes(self) -> tuple[str, ...]:
        return ("times",)

    def check(self, denoiser: Denoiser, schedule: Schedule, data: Data | None) -> None:
        if schedule.steps > self.candidates:
            raise ValueError(f"candidates must be at least the {schedule.steps} steps of the schedule, got {self.candidates}")

    def settings(self) -> dict[str, Any]:
        return {"optimal_steps": asdict(self) | {"discounts": list(self.discounts)}}

    def run(self, task: Task) -> Found:
        times = candidate_times(
            task.teacher, task.start, self.candidates, fix_start=self.fix_start, whole=task.problem.denoiser.integer_time
        )
        if len(times) <= task.start.steps:
            raise ValueError(f"teacher: its path has {len(times) - 1} candidate times, fewer than the {task.start.steps} steps wanted")
        if self.metric == "deviation" and task.start.noise.alpha(times[0]) == 0:
            raise ValueError(f"metric 'deviation' divides by alpha, which is 0 at the first candidate, t = {times[0]:g}; use 'l2'")
        with task.ledger.entry("tuning"):
            found = self._local(task, times) if self.cost == "local" else [self._rolled(task, times)]
        return best_of(task, {f"steps {path}": task.start.replace(times=times[path]) for path in found})

    def _local(self, task: Task, times: Float64) -> list[list[int]]:
        """The distinct paths that the discounts lead to."""
        problem = task.problem
        bar = tqdm(total=len(problem), desc="optimal steps: costs", disable=not task.progress, leave=False)

        def sums(batch: Problem) -> tuple[Float64]:
            costs = local_costs(batch, task.start, task.teacher, times, self.metric)
            bar.update(len(batch))
            return (costs * len(batch),)

        with bar:
            total = np.array(task.journal.piece("costs", lambda: (problem.total(sums)[0] / len(problem)).tolist()), np.float64)
        total[np.isnan(total)] = np.inf  # JSON has no infinity: it came back as nothing
        start = np.where(np.arange(len(times)) == 0, 0.0, np.inf) if self.fix_start else total[-1]
        paths = [cheapest_path(total[:-1], task.start.steps, start, gamma) for gamma in self.discounts]
        return [path for i, path in enumerate(paths) if path not in paths[:i]]

    def _rolled(self, task: Task, times: Float64) -> list[int]:
        first = task.problem.head(task.problem.batch_size)
        return task.journal.piece(
            "rolled", lambda: rolled_path(first, task.start, task.teacher, times, fix_start=self.fix_start, progress=task.progress)
        )


def candidate_times(teacher: Teacher, start: Schedule, count: int, *, fix_start: bool = False, whole: bool = False) -> Float64:
    """At most ``count`` of the teacher's own times, where its outputs cost nothing more, and the last time of ``start``; with
    ``fix_start`` beginning with its first. ``whole``: for a network that knows whole times only."""
    source = teacher.source if isinstance(teacher.source, Schedule) else Teacher.default(start, count).source
    assert isinstance(source, Schedule)
    end, t_0 = start.times[-1], start.times[0]
    own = source.times[source.times > end]
    if fix_start:
        own = np.append(t_0, own[own < t_0])
    own = own[np.unique(np.linspace(0, len(own) - 1, count).round().astype(int))]
    if whole:
        own = np.unique(own.round())[::-1]
        own = own[own > end]
    return np.append(own, end)


def local_costs(problem: Problem, like: Schedule, teacher: Teacher, times: Float64, metric: str) -> Float64:
    """(n + 1, n) for n ``times``: entry (i, j) is the mean cost of the step from t_i to t_j of a sampler like ``like``'s, infinite
    for j <= i. The last row: of starting at t_j with x_T itself."""
    denoiser, n = problem.denoiser, len(times)
    states, outputs = _path(problem, teacher, times)
    ends = (problem.x_T * like.noise.start_scale(times[0]), states[-1])
    alphas = like.noise.alpha(times)

    def distance(x: Tensor, j: int) -> float:
        if metric == "deviation":
            line = [end / alpha for end, alpha in zip(ends, (alphas[0], alphas[-1]), strict=True)]
            return float((_off_line(x / alphas[j], *line) - _off_line(states[j] / alphas[j], *line)).mean())
        return float((x.double() - states[j].double()).flatten(1).norm(p=2 if metric == "l2" else 1, dim=1).mean())

    costs = np.full((n + 1, n), np.inf)
    for i in range(n - 1):
        costs[n, i] = distance(problem.x_T * like.noise.start_scale(times[i]), i)
        for j in range(i + 1, n):
            costs[i, j] = distance(_step(denoiser, like, times[i], times[j], states[i], outputs[i]), j)
    return costs


@torch.no_grad()
def rolled_path(
    problem: Problem, like: Schedule, teacher: Teacher, times: Float64, *, fix_start: bool = False, progress: bool = False
) -> list[int]:
    """Indices of the times of the student's steps: at every candidate the best arrival in k steps from the best in k - 1."""
    denoiser, n = problem.denoiser, len(times)
    states = teacher.trajectory(denoiser, problem.x_T, problem.conditions, times.tolist())
    arrived: dict[int, Tensor] = {i: problem.x_T * like.noise.start_scale(times[i]) for i in ([0] if fix_start else range(n - 1))}
    came_from: list[dict[int, int]] = []
    for left in tqdm(range(like.steps - 1, -1, -1), desc="optimal steps: rolled", disable=not progress, leave=False):
        best: dict[int, tuple[float, int, Tensor]] = {}
        for i, x in arrived.items():
            outputs = _outputs(problem, times[i], x)
            # The last step goes to the end, and those before leave room for the rest.
            for j in range(i + 1, n - left) if left else [n - 1]:
                moved = _step(denoiser, like, times[i], times[j], x, outputs)
                error = float((moved.double() - states[j].double()).square().mean())
                if j not in best or error < best[j][0]:
                    best[j] = (error, i, moved)
        came_from.append({j: i for j, (_, i, _) in best.items()})
        arrived = {j: x for j, (_, _, x) in best.items() if j < n - 1}
    path = [n - 1]
    for step in reversed(came_from):
        path.append(step[path[-1]])
    return path[::-1]


def cheapest_path(costs: Float64, steps: int, start: Float64, discount: float = 1.0) -> list[int]:
    """The ``steps`` + 1 indices from any i, at the price start[i], to the last, with the smallest discounted sum of costs[i, j]:
    start + d (c_1 + d (c_2 + d (...))). ``costs`` (n, n) is infinite for j <= i."""
    n = len(costs)
    value = np.where(np.arange(n) == n - 1, 0.0, np.inf)  # of what is left to pay from each index in k steps
    chosen: list[np.ndarray] = []
    for _ in range(steps):
        sums = costs + discount * value[None, :]
        chosen.append(sums.argmin(1))
        value = sums.min(1)
    path = [int((start + discount * value).argmin())]
    for nexts in reversed(chosen):
        path.append(int(nexts[path[-1]]))
    return path


def _path(problem: Problem, teacher: Teacher, times: Float64) -> tuple[list[Tensor], list[Sequence[Tensor]]]:
    """The teacher's states at ``times``, and the network's outputs at all but the last, at the solver's time."""
    denoiser, known = problem.denoiser, dict[float, Sequence[Tensor]]()
    wanted = {float(t): _time_passed(problem, t) for t in times[:-1]}

    def seen(time: float, tau: float, outputs: Sequence[Tensor]) -> None:
        if wanted.get(time) == tau:
            known[time] = list(outputs)

    states = teacher.trajectory(denoiser, problem.x_T, problem.conditions, times.tolist(), seen)
    outputs = [known.get(float(t)) or _outputs(problem, t, x) for t, x in zip(times[:-1], states, strict=False)]
    return states, outputs


@torch.no_grad()
def _outputs(problem: Problem, time: float, x: Tensor) -> Sequence[Tensor]:
    denoiser, noise = problem.denoiser, problem.denoiser.noise
    evaluation = denoiser.evaluation(0, Point(float(time), float(noise.alpha(time)), float(noise.sigma(time))))
    outputs = denoiser.outputs(x, _time_passed(problem, time), problem.conditions, evaluation)
    return [output.clone() for output in outputs]  # to keep: the next call may be written into the same memory


def _time_passed(problem: Problem, time: float) -> float:
    noise = problem.denoiser.noise
    return float(np.clip(time, noise.t_min, noise.t_max))


@torch.no_grad()
def _step(denoiser: Denoiser, like: Schedule, t: float, u: float, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """The sampler's step from ``x`` at t to u as its first one, given the network's outputs at t."""
    plain = {name: value for name, value in like.options.items() if not isinstance(value, tuple)}  # a tuple has a value per step
    alone = like.replace(times=np.array([t, u]), options=plain)
    if len(alone.network_times) > 1:
        alone = Schedule(like.noise, "ddim", alone.times)
    plan = Plan.make(denoiser, alone, x.device)
    return finite(plan.advance(0, {"x": x}, outputs)["x"], alone)


def _off_line(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(B,) distance of x (B, ...) from the straight line through a and b."""
    x, a, b = (v.double().flatten(1) for v in (x, a, b))
    along = (b - a) / (b - a).norm(dim=1, keepdim=True)
    across = (x - a) - ((x - a) * along).sum(1, keepdim=True) * along
    return across.norm(dim=1)
