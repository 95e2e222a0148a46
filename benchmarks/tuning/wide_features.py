"""Wide features in a distribution tuning: their 64 principal directions by Fréchet's distance, or all of them by a polynomial kernel.

    python -m benchmarks wide_features

The bundled model at five steps from the endpoint's result, features: the 1,568 activations of LeNet-64's second convolution. Equal
network evaluations for both. The kernel's distance is the unbiased squared maximum mean discrepancy under (x . y / F + 1)^3 (as in KID,
and as MMD-DDM uses it to finetune weights), against 1,000 real images; it has no correction by the start's moments, since it is no
function of moments of the features. Judged on test seeds by LeNet-64's own features and by the network of
:mod:`benchmarks.tuning.judge_network`. Writes benchmarks/results/wide-features.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.machine import machine
from benchmarks.result_paths import RESULTS, parser_of, write_json
from benchmarks.tuning.distribution import Bench, start_of
from ttune import Schedule
from ttune.evaluation import FeatureStatistics
from ttune.tuning.distribution.descent import BETAS, EPS, LR, LR_COEFFICIENTS, Descent, Objective, descend
from ttune.tuning.distribution.distance import Goal
from ttune.tuning.distribution.feature_maps import SideBySide, part_of
from ttune.tuning.distribution.gradient import features_of_schedule, loss_gradient
from ttune.tuning.distribution.loss import DistributionLoss
from ttune.tuning.problem import Problem
from ttune.tuning.solvers.parameters import Parameters
from ttune.tuning.starting_points import drawn_points
from ttune.zoo.lenet import load_lenet64

STEPS, SAMPLES, MANY, REAL, FIRST_SEED = 5, 64, 1024, 1000, 20_000_000
EVALUATIONS = 30_000


def activations(x: Tensor) -> Tensor:
    """(B, 1568) of the second convolution, after its pooling."""
    network = load_lenet64()
    h = F.max_pool2d(F.relu(network.norm1(network.conv1(x.clamp(-1, 1)))), 2)
    return F.max_pool2d(F.relu(network.norm2(network.conv2(h))), 2).flatten(1)


def kernel_distance(found: Tensor, real: Tensor) -> Tensor:
    """The unbiased estimate of the squared discrepancy of (n, F) and (m, F), differentiable in the first."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.diagonal().sum()) / (len(a) * (len(a) - 1))

    return within(found) - 2 * kernel(found, real).mean() + within(real)


def by_directions(bench: Bench, start: Schedule, real: Tensor) -> Schedule:
    part, parameters = part_of(activations), Parameters(start, ("network_times", "times", "coefficients"))
    features = SideBySide((part,), bench.denoiser)
    goal = Goal.of(FeatureStatistics.of_features(real, part.name))
    loss = DistributionLoss((goal.width,), (goal,), (1.0,), (1.0,))
    many = loss.moments(torch.from_numpy(features_of_schedule(problem(bench, 0, MANY), start, features)))
    iterations = (EVALUATIONS - MANY * STEPS) // (6 * STEPS * SAMPLES)
    state = Descent(parameters.start_vector.tolist())
    state = descend(Objective(features, loss, many), lambda i: fresh(bench, i), parameters, state, iterations, lambda state: None)
    return parameters.schedule(np.array(state.theta))


def by_kernel(bench: Bench, start: Schedule, real: Tensor) -> Schedule:
    parameters = Parameters(start, ("network_times", "times", "coefficients"))
    features, iterations = SideBySide((part_of(activations),), bench.denoiser), EVALUATIONS // (5 * STEPS * SAMPLES)
    theta, rates = parameters.start_vector, np.where(parameters.ridge > 0, LR_COEFFICIENTS, LR)[parameters.free]
    m, v = np.zeros(len(rates)), np.zeros(len(rates))
    for i in range(iterations):
        _, g = loss_gradient(fresh(bench, i), parameters, theta, features, lambda found: kernel_distance(found, real))
        m, v = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g**2
        step = (m / (1 - BETAS[0] ** (i + 1))) / (np.sqrt(v / (1 - BETAS[1] ** (i + 1))) + EPS)
        theta = parameters.moved(theta, rates * (0.5 + 0.5 * np.cos(np.pi * i / iterations)) * step)
    return parameters.schedule(theta)


def problem(bench: Bench, first: int, count: int) -> Problem:
    x_T, conditions = drawn_points(bench.denoiser, torch.arange(count) + FIRST_SEED + first)
    return Problem(bench.denoiser, x_T, conditions, x_T)


def fresh(bench: Bench, iteration: int) -> Problem:
    return problem(bench, MANY + iteration * SAMPLES, SAMPLES)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("wide_features", __doc__)
    parser.add_argument("--test-samples", type=int, default=500)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    bench = Bench(options.test_samples)
    start = start_of(bench, STEPS)
    with torch.no_grad():
        real = torch.cat([activations(x) for x in bench.seen[:REAL].split(250)]).double()
    rows: dict[str, Any] = {"endpoint": bench.figures(bench.samples(start))}
    ways: dict[str, Callable[..., Schedule]] = {"64 principal directions": by_directions, "polynomial kernel": by_kernel}
    for name, way in ways.items():
        before, begin = bench.denoiser.evaluations, time.process_time()
        schedule = way(bench, start, real)
        rows[name] = {"evaluations": bench.denoiser.evaluations - before, "cpu_seconds": round(time.process_time() - begin)}
        rows[name] |= bench.figures(bench.samples(schedule))
        print(name, rows[name])
    write_json(RESULTS / "wide-features.json", {"machine": machine(), "test samples": bench.count, "rows": rows})


if __name__ == "__main__":
    main()
