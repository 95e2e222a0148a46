"""Tuning for networks that only know whole times, or whose rows lie off the curve: coordinate descent on whole numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ttune.network.denoiser import Denoiser
from ttune.network.in_place import copies
from ttune.network.stitched import Stitched
from ttune.network.variants import Variants
from ttune.schedule.schedule import Schedule
from ttune.tuning.best import BestSoFar
from ttune.tuning.methods.method import Found, Method, Task
from ttune.tuning.problem import Problem

STEPS = (16, 8, 4, 2, 1)  # rows, tried from the coarsest: after a continuous search the solution is not far
SWEEPS = 3  # over all coordinates with one step, at most
SAMPLES = 64  # x_T that the descent looks at


@dataclasses.dataclass
class BetweenRows:
    """A network that knows whole times, made to answer for the ones in between: outputs interpolated in the network time.

    So a continuous method can search it where rows lie on a smooth curve. A call between two rows is two calls of the network;
    ``counted`` is called with the number of samples that the second one saw.
    """

    network: Callable[..., Tensor]
    counted: Callable[[int], None]

    def __call__(self, x: Tensor, tau: Tensor, **conditions: Any) -> Tensor:
        # A derivative at a whole time needs the row on one of its sides too.
        below = (tau.detach().ceil() - 1).clamp_min(0) if tau.requires_grad else tau.detach().floor()
        share = tau - below
        # Copies: the second call may find the first one's arguments changed, and write its output into the same memory.
        output = self.network(x.clone(), below.clone(), **copies(conditions)).clone()
        if not tau.requires_grad and not share.any():
            return output
        self.counted(x.shape[0])
        above = self.network(x, torch.where(share > 0, below + 1, below), **conditions)
        # Channels may be more than those of x (a learned variance); the time is one per sample.
        share = share.reshape(*share.shape, *(1,) * (output.ndim - share.ndim)).to(output.dtype)
        return torch.lerp(output, above, share)


def between_rows(denoiser: Denoiser) -> Denoiser:
    """A denoiser of its own counter for continuous methods: ``denoiser`` with interpolation between whole times."""

    def wrapped(network: Callable[..., Tensor]) -> BetweenRows:
        return BetweenRows(network, count)

    def count(samples: int) -> None:
        made.evaluations += samples

    network = denoiser.network
    if isinstance(network, (Stitched, Variants)):
        inner: Any = dataclasses.replace(network, networks=tuple(wrapped(n) for n in network.networks))
    else:
        inner = wrapped(network)
    made = dataclasses.replace(denoiser, network=inner, integer_time=False)
    return made


def rounded(schedule: Schedule, *, free: bool) -> Schedule | None:
    """``schedule`` with whole network times. Its solver times stay where the network times may differ from them (``free``), else
    they are rounded too; None where two of them would be the same."""
    if free:
        whole = schedule.network_times.round()
        same = (whole == schedule.network_times).all()
        return schedule if same else schedule.replace(network_times=whole, coefficients=schedule.coefficients)
    try:
        return schedule.with_integer_times()
    except ValueError:
        return None


def find_whole_times(task: Task, method: Method, between: Denoiser | None, *, search: bool) -> Found:
    """What ``method`` finds for a network that knows whole times only, as ``task.problem.denoiser`` says (``integer_time``).

    A continuous method (``search``) is given ``between``, or if None a denoiser that interpolates between whole times; what it finds
    is rounded, and searched from there, the rounded start being one of the places to begin. Other methods make whole times themselves.
    """
    whole = task.problem
    # Where nothing that is searched moves the steps, they stay where they were given.
    free = "network_times" in method.changes or "times" not in method.changes
    task = dataclasses.replace(task, best=WholeBest(task.best, free))
    if search:
        relaxed = between_rows(whole.denoiser) if between is None else dataclasses.replace(between)
        task.ledger.watch(relaxed)
        task = dataclasses.replace(task, problem=dataclasses.replace(whole, denoiser=relaxed))
    found = method.run(task)
    candidates = [r for r in (rounded(c, free=free) for c in found.candidates) if r is not None]
    history = dict(found.history)
    start = rounded(task.start, free=free)
    begin = candidates if start is None else [*candidates, start]
    if search and begin:
        with task.ledger.entry("whole times"):
            best, history["whole times"] = search_whole_times(
                task, whole, begin, method.changes, fix_start=getattr(method, "fix_start", False)
            )
        candidates = [best, *(c for c in candidates if c != best)]
    # An untuned grid stays as it is, with the nearest whole network times.
    grids = [dataclasses.replace(g, schedule=rounded(g.schedule, free=True) or g.schedule) for g in found.grids]
    return Found(candidates, history, grids)


class WholeBest(BestSoFar):
    """The best so far, with whole network times: what a continuous method accepts is rounded first, and then has no RMSE."""

    def __init__(self, inner: BestSoFar, free: bool) -> None:
        self._inner, self._free = inner, free

    def accept(self, name: str, state: Any, schedule: Schedule, *, samples: int, rmse: float | None = None) -> None:
        whole = rounded(schedule, free=self._free) or rounded(schedule, free=True)
        assert whole is not None
        self._inner.accept(name, state, whole, samples=samples)


def search_whole_times(
    task: Task, problem: Problem, candidates: Sequence[Schedule], changes: Sequence[str], *, fix_start: bool = False
) -> tuple[Schedule, list[float]]:
    """From the best of ``candidates`` (of whole network times) downhill in whole numbers, and the root of the cost on the way.

    A move shifts one network time, or one time together with the network time there, by 16, 8, 4, 2 and at last 1 row, up or down, and
    stays if the mean square of the residuals falls. So the result is never worse on these x_T than the best candidate. Every
    finished sweep is remembered in the task's journal.
    """

    def accept(schedule: Schedule) -> None:
        task.best.accept("whole times", state, schedule, samples=len(problem))

    few = problem.head(SAMPLES)
    state: dict[str, Any] | None = task.journal.get("whole times")
    if state is None:
        costs = [few.cost(candidate) for candidate in candidates]
        best = costs.index(min(costs))
        state = {"best": best, "level": 0, "sweep": 0, "history": [costs[best] ** 0.5], **_plain(candidates[best])}
        accept(candidates[best])
    schedule = _from_plain(candidates[state["best"]], state)
    history: list[float] = list(state["history"])
    with tqdm(total=len(STEPS), initial=state["level"], desc="whole times", disable=not task.progress, leave=False) as bar:
        level, sweep = state["level"], state["sweep"]
        while level < len(STEPS):
            before = history[-1]
            schedule, cost = _sweep(few, schedule, before**2, STEPS[level], changes, fix_start)
            history.append(cost**0.5)
            level, sweep = (level, sweep + 1) if history[-1] < before and sweep + 1 < SWEEPS else (level + 1, 0)
            state = {"best": state["best"], "level": level, "sweep": sweep, "history": history, **_plain(schedule)}
            accept(schedule)
            bar.update(level - bar.n)
            bar.set_postfix(rms=f"{history[-1]:.4f}")
    return schedule, history


def _sweep(problem: Problem, schedule: Schedule, cost: float, step: int, changes: Sequence[str], fix_start: bool) -> tuple[Schedule, float]:
    """Every coordinate once, both ways."""
    moves: list[tuple[str, int]] = []
    if "times" in changes:
        moves += [("times", i) for i in range(1 if fix_start else 0, schedule.steps)]
    if "network_times" in changes:
        moves += [("network_times", i) for i in range(len(schedule.network_times))]
    for what, i in moves:
        for shift in (step, -step):
            trial = moved(schedule, what, i, shift)
            trial_cost = cost if trial is None else problem.cost(trial)
            if trial is not None and trial_cost < cost:
                schedule, cost = trial, trial_cost
                break
    return schedule, cost


def moved(schedule: Schedule, what: str, i: int, shift: int) -> Schedule | None:
    """One network time, or one time with the network time there, shifted by whole rows; None where that leaves the range."""
    noise, times, network_times = schedule.noise, schedule.times.copy(), schedule.network_times.copy()
    if what == "network_times":
        network_times[i] += shift
    else:
        times[i] += shift
        try:
            followed = schedule.replace(times=times).tableau().times
        except ValueError:
            return None
        network_times += (followed - schedule.tableau().times).round()
    if ((network_times < noise.t_min) | (network_times > noise.t_max)).any():
        return None
    return schedule.replace(times=times, network_times=network_times, coefficients=schedule.coefficients)


def _plain(schedule: Schedule) -> dict[str, list[float]]:
    return {"times": schedule.times.tolist(), "network_times": schedule.network_times.tolist()}


def _from_plain(like: Schedule, state: dict[str, Any]) -> Schedule:
    times, network_times = np.array(state["times"]), np.array(state["network_times"])
    return like.replace(times=times, network_times=network_times, coefficients=like.coefficients)
