"""Adam on the distance to the teacher, for comparison (in a prototype 60 iterations ended 2.7 times higher than Gauss-Newton)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ttune.noise.schedules import Float64
from ttune.tuning.problem import Problem
from ttune.tuning.solvers.backpropagation import Backpropagation, normal_equations
from ttune.tuning.solvers.least_squares import Search
from ttune.tuning.solvers.parameters import Parameters

LR, BETAS, EPS = 3e-2, (0.9, 0.999), 1e-8  # lr in units of half log-SNR; it falls to zero along a cosine
STEPS = 10  # on one chunk of the samples each, to an entry of the history: about the cost of two Gauss-Newton iterations on 4 chunks


def descend(
    problem: Problem,
    parameters: Parameters,
    search: Search,
    *,
    iterations: int,
    seed: int = 0,
    accepted: Callable[[Search], None] = lambda search: None,
) -> Search:
    """``iterations`` times :data:`STEPS` steps, each on the next chunk of samples; the lowest RMSE over all samples is kept.

    ``search.trail`` holds the current point and Adam's two moments, so that a run continues bit for bit.
    """
    chunks, free = list(problem.chunks()), parameters.free
    gradient = Backpropagation(seed, probes=0)
    if not search.history:
        search.history = [float(np.sqrt(problem.cost(parameters.schedule(np.array(search.theta)))))]
        search.trail = [search.theta, [0.0] * len(free), [0.0] * len(free)]
    while not search.done and len(search.history) <= iterations:
        theta, m, v = (np.array(values) for values in search.trail)
        for step in range(STEPS):
            n = (len(search.history) - 1) * STEPS + step
            g = normal_equations(chunks[n % len(chunks)], parameters, theta, gradient).g + parameters.ridge[free] * theta[free]
            m = BETAS[0] * m + (1 - BETAS[0]) * g
            v = BETAS[1] * v + (1 - BETAS[1]) * g**2
            move = (m / (1 - BETAS[0] ** (n + 1))) / (np.sqrt(v / (1 - BETAS[1] ** (n + 1))) + EPS)
            theta = moved(parameters, theta, LR * 0.5 * (1 + np.cos(np.pi * n / (iterations * STEPS))) * move)
        rmse = float(np.sqrt(problem.cost(parameters.schedule(theta))))
        if rmse < min(search.history):
            search.theta = theta.tolist()
        search.history.append(min(rmse, search.history[-1]))
        search.trail = [theta.tolist(), m.tolist(), v.tolist()]
        accepted(search)
    return search


def moved(parameters: Parameters, theta: Float64, step: Float64) -> Float64:
    """``theta`` minus ``step``, or half of it, and so on, where the last gap leaves no room for the last time."""
    for _ in range(20):
        trial = theta.copy()
        trial[parameters.free] -= step
        trial = parameters.project(trial)
        try:
            parameters.schedule(trial)
        except ValueError:
            step = step / 2
            continue
        return trial
    return theta
