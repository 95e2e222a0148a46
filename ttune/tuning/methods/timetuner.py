"""TimeTuner's objective (Xia et al., CVPR 2024, arXiv 2310.09469), for any sampler's step.

Per step i, all but the last, one ratio rho_i, found by Adam:

    L_i(rho) = E || stopgrad eps(x_i, t_i) - eps(x_{i+1}(rho), t_{i+1}) ||^2     (summed over elements, mean over the batch)

where x_{i+1}(rho) is the sampler's step from x_i with the network passed rho t_i. The objective is biased: it asks
epsilon to stay constant over a step, which the true trajectory does not do. It is here for comparison.

Against the released code (THU-LYJ-Lab/time-tuner, 366bb74e), with the same data and noise:

- ``TimeTuner(reroll=True)`` is its procedure. For networks that predict epsilon the ratios agree to 4e-7 in float64, 2e-5 in float32, and
  its sampler with them to 2e-7. The default, ``reroll=False``, takes one batch of states along instead: in the parallel procedure that is
  the same, the sequential ratios differ by 2e-2 to 7e-2.
- It converts what networks of x_0 or the score predict to epsilon with alpha and sigma of the network time rho t_i; here, as everywhere in
  ttune, those are of t_i. The ratios of such networks, and what is sampled with them, differ by up to 0.3. A denoiser of the epsilon
  that it makes of them agrees.
- It never clips. A denoiser with ``clip_sample`` has other ratios, by 2e-2 for the bundled networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ttune.network.denoiser import Conditions, Denoiser
from ttune.network.stitched import Stitched
from ttune.network.variants import Variants
from ttune.noise.schedules import Float64, NoiseSchedule
from ttune.samplers.points import Point
from ttune.sampling.plan import Plan, Registers
from ttune.sampling.sample import start_state
from ttune.schedule.schedule import Schedule
from ttune.tuning.methods.method import Found, Task, one_by_one, refuse_integer_time, refuse_multistage
from ttune.tuning.starting_points import Data, check_data, data_draws

# One batch of clean data: (x_0, epsilon, conditions), all (B, ...).
Draw = Callable[[int], tuple[Tensor, Tensor, Conditions]]


def _shift(noise: NoiseSchedule) -> float:
    """From the model's time to the paper's, which is 0 for a clean image of a discrete model and continuous time itself else."""
    return 0.0 if noise.discrete_steps is None else 1.0


def timetuner_ratios(schedule: Schedule) -> Float64:
    """(n_evaluations,) rho_i = network time / time, in the paper's continuous time: (tau + 1) / (s + 1) for discrete models."""
    shift = _shift(schedule.noise)
    return (schedule.network_times + shift) / (schedule.tableau().times + shift)


def apply_timetuner_ratios(schedule: Schedule, ratios: Sequence[float]) -> Schedule:
    """``schedule`` with the network passed rho_i t_i; a list without the last step's ratio is completed with 1.

    Ratios of the released code sample here as there for networks that predict epsilon only (see the module's head).
    """
    times = schedule.tableau().times
    if len(ratios) not in (len(times) - 1, len(times)):
        raise ValueError(f"ratios must hold {len(times) - 1} or {len(times)} numbers for this schedule, got {len(ratios)}")
    rho = np.ones(len(times))
    rho[: len(ratios)] = ratios
    return schedule.replace(network_times=_network_times(schedule, times, rho))


def _network_times(schedule: Schedule, times: Float64, rho: Float64) -> Float64:
    shift = _shift(schedule.noise)
    return np.clip(rho * (times + shift) - shift, schedule.noise.t_min, schedule.noise.t_max)


@dataclass(frozen=True)
class TimeTuner:
    """The published settings, and how the state at step i is come by.

    ``procedure``: "sequential" (roll the tuned steps down from x_T = alpha_T x_0 + sigma_T epsilon) or "parallel"
    (x_i = alpha_i x_0 + sigma_i epsilon). ``reroll=True`` rolls the whole prefix again with a fresh batch in every
    iteration, as the released code does, at (K-1)(K+4)/2 forward calls an iteration; the default is not the released procedure: it
    carries one pool of states forward a tuned step at a time, at 4K-5.
    """

    name: ClassVar[str] = "timetuner"
    procedure: str = "sequential"
    iterations: int = 500
    lr: float = 2e-3
    reroll: bool = False

    def __post_init__(self) -> None:
        if self.procedure not in ("sequential", "parallel"):
            raise ValueError(f"procedure must be 'sequential' or 'parallel', got {self.procedure!r}")
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")

    @property
    def changes(self) -> tuple[str, ...]:
        return ("network_times",)

    def check(self, denoiser: Denoiser, schedule: Schedule, data: Data | None) -> None:
        refuse_integer_time(denoiser)
        refuse_multistage(self.name, schedule)
        if data is None:
            raise ValueError("data must be given for method 'timetuner': clean images x_0 (n, ...), got None")
        check_data(denoiser, data)

    def settings(self) -> dict[str, Any]:
        return {"timetuner": asdict(self)}

    def run(self, task: Task) -> Found:
        assert task.data is not None
        draw = data_draws(task.data, task.problem.batch_size, task.seed, task.problem.denoiser.shared)
        denoiser = task.problem.denoiser

        def tuned(ratios: list[float]) -> Schedule:
            return apply_timetuner_ratios(task.start, [*ratios, *np.ones(len(task.start.network_times) - len(ratios))])

        found = one_by_one(task, self.name, lambda done: self.ratios(denoiser, task.start, draw, done=done, progress=task.progress), tuned)
        return Found([tuned(found)])

    def ratios(
        self, denoiser: Denoiser, schedule: Schedule, draw: Draw, *, done: Sequence[float] = (), progress: bool = False
    ) -> Iterator[float]:
        """Yield rho_0, rho_1, … as they are found; the first ``len(done)`` are taken over from an earlier run."""
        steps = len(schedule.network_times)
        device = draw(0)[0].device
        rho = np.ones(steps)
        pool: list[tuple[Registers, Conditions]] = []
        with frozen(denoiser.network):
            for i in range(steps - 1):
                tuned = schedule.replace(network_times=_network_times(schedule, schedule.tableau().times, rho))
                plan = Plan.make(denoiser, tuned, device)
                if i < len(done):
                    rho[i] = done[i]
                else:
                    if self.procedure == "sequential" and not self.reroll:
                        pool = self._carried(denoiser, tuned, plan, draw, i, pool)
                    states = self._states(denoiser, tuned, plan, draw, i, pool)
                    bar = tqdm(range(self.iterations), desc=f"timetuner step {i + 1}/{steps - 1}", disable=not progress, leave=False)
                    rho[i] = _adam(denoiser, tuned, plan, i, (next(states) for _ in bar), self.lr)
                yield float(rho[i])

    def _states(
        self, denoiser: Denoiser, schedule: Schedule, plan: Plan, draw: Draw, i: int, pool: Sequence[tuple[Registers, Conditions]]
    ) -> Iterator[tuple[Registers, Conditions]]:
        """One state at step i per iteration."""
        for j in range(self.iterations):
            if self.procedure == "sequential" and not self.reroll:
                yield pool[j]
                continue
            x_0, epsilon, conditions = draw(i * self.iterations + j)
            if self.procedure == "parallel":
                yield _noised(denoiser, schedule, plan, i, x_0, epsilon, conditions), conditions
            else:
                yield _rolled(denoiser, schedule, plan, 0, i, _start(schedule, x_0, epsilon), conditions), conditions

    def _carried(
        self, denoiser: Denoiser, schedule: Schedule, plan: Plan, draw: Draw, i: int, pool: list[tuple[Registers, Conditions]]
    ) -> list[tuple[Registers, Conditions]]:
        """The pool at step i: one step on from that at step i-1."""
        if not pool:
            pool = [(_start(schedule, x_0, epsilon), conditions) for x_0, epsilon, conditions in map(draw, range(self.iterations))]
            counted = denoiser.evaluations
            pool = [(_rolled(denoiser, schedule, plan, 0, i - 1, registers, conditions), conditions) for registers, conditions in pool]
            denoiser.evaluations = counted  # a resumed run had paid for these steps
        return [(_rolled(denoiser, schedule, plan, max(0, i - 1), i, registers, conditions), conditions) for registers, conditions in pool]


def _adam(denoiser: Denoiser, schedule: Schedule, plan: Plan, i: int, states: Iterator[tuple[Registers, Conditions]], lr: float) -> float:
    """The ratio of step i. Between iterations the network time is projected into the trained range."""
    noise = schedule.noise
    shift, t = _shift(noise), plan.steps[i].time
    low, high = ((bound + shift) / (t + shift) for bound in (noise.t_min, noise.t_max))
    rho = torch.ones((), dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([rho], lr=lr, betas=(0.9, 0.999))
    for registers, conditions in states:
        with torch.no_grad():
            target = _epsilon(denoiser, schedule, i, registers["x"], conditions)
        before = denoiser.evaluations
        tau = rho * (t + shift) - shift
        outputs = plan.outputs(denoiser, i, registers["x"], conditions, tau)
        moved = plan.advance(i, registers, outputs)["x"]
        predicted = _epsilon(denoiser, schedule, i + 1, moved, conditions)
        loss = (target - predicted).square().flatten(1).sum(1).mean()
        if not loss.requires_grad:
            raise ValueError("denoiser: method 'timetuner' needs a network that is differentiable in its time; tune this one by 'endpoint'")
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the network returned NaN or infinity at step {i} (t = {t:g}) of {schedule}")
        adam.zero_grad()
        loss.backward()
        denoiser.evaluations += 2 * (denoiser.evaluations - before)  # a backward counts twice its forward
        adam.step()
        with torch.no_grad():
            rho.clamp_(low, high)
    return rho.item()


def _epsilon(denoiser: Denoiser, schedule: Schedule, i: int, x: Tensor, conditions: Conditions) -> Tensor:
    """The network's prediction of the noise at step i and its solver time, whatever its prediction type; not clipped."""
    stage = schedule.tableau().stages[i]
    tau = min(max(stage.time, schedule.noise.t_min), schedule.noise.t_max)
    D = denoiser.unclipped(x, tau, conditions, denoiser.evaluation(i, Point(stage.time, stage.alpha, stage.sigma)))
    return (x - stage.alpha * D) / stage.sigma


def _start(schedule: Schedule, x_0: Tensor, epsilon: Tensor) -> Registers:
    noise = schedule.noise
    x_T = float(noise.alpha(noise.t_max)) * x_0 + float(noise.sigma(noise.t_max)) * epsilon
    return {"x": start_state(schedule, x_T)}


@torch.no_grad()
def _rolled(
    denoiser: Denoiser, schedule: Schedule, plan: Plan, first: int, last: int, registers: Registers, conditions: Conditions
) -> Registers:
    """The registers at step ``last``, rolled on from those at step ``first``."""
    for i in range(first, last):
        registers = plan.advance(i, registers, plan.outputs(denoiser, i, registers["x"], conditions))
    return registers


@torch.no_grad()
def _noised(denoiser: Denoiser, schedule: Schedule, plan: Plan, i: int, x_0: Tensor, epsilon: Tensor, conditions: Conditions) -> Registers:
    """x_i = alpha_i x_0 + sigma_i epsilon, and what a multistep sampler retained at the noised states before it."""
    stages = schedule.tableau().stages
    registers: Registers = {}
    for s in range(max(0, i - schedule.tableau().memory), i + 1):
        x = stages[s].alpha * x_0 + stages[s].sigma * epsilon
        # What was retained before the first of these states enters no more than its own update, which is not used.
        forgotten = {name: torch.zeros_like(x) for name in plan.steps[s].terms if s < i}
        registers = {**forgotten, **registers, "x": x}
        if s < i:
            registers = _rolled(denoiser, schedule, plan, s, s + 1, registers, conditions)
    return registers


@contextmanager
def frozen(network: object) -> Iterator[None]:
    """No gradients for the weights meanwhile: a backward pass that only reaches tau takes two thirds of the time."""
    modules = network.networks if isinstance(network, (Stitched, Variants)) else (network,)
    changed = [p for module in modules if isinstance(module, torch.nn.Module) for p in module.parameters() if p.requires_grad]
    for p in changed:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in changed:
            p.requires_grad_(True)
