"""The gradient of a loss of features of many samples in a schedule's parameters, in three moves and memory that does not grow with n.

First the features of all samples, without a graph. Then the gradient of the loss in these features, (n, F) numbers. Then the sampler
once more, a batch at a time, pulling each sample's row back through features, network and steps. It costs about 5 K n evaluations
of one sample: K forward, K forward again, and K with their backward (2 K), which needs the activations of a few samples at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ttune.evaluation.features.feature_statistics import as_features
from ttune.network.denoiser import Conditions
from ttune.noise.schedules import Float64
from ttune.sampling.plan import Plan
from ttune.schedule.schedule import Schedule
from ttune.tuning.problem import Problem
from ttune.tuning.solvers.backpropagation import backward, forward
from ttune.tuning.solvers.parameters import Parameters
from ttune.tuning.solvers.sensitivity import QuadraticModel

FeatureMap = Callable[[Tensor, Conditions], Tensor]  # samples (b, ...) and their conditions -> (b, F)
Loss = Callable[[Tensor], Tensor]  # features (n, F) float64 -> a number, differentiable in them


def features_of_schedule(problem: Problem, schedule: Schedule, features: FeatureMap) -> Float64:
    """(n, F) of all samples of ``schedule``, the same on every rank."""

    @torch.no_grad()
    def figures(batch: Problem) -> list[Float64]:
        return [as_features(features(batch.run(schedule), batch.conditions))]

    return problem.per_sample(figures)[0]


def loss_gradient(problem: Problem, parameters: Parameters, theta: Float64, features: FeatureMap, loss: Loss) -> tuple[float, Float64]:
    """The loss at ``theta`` and its gradient in the free parameters (P,)."""
    schedule = parameters.schedule(theta)
    found = torch.from_numpy(features_of_schedule(problem, schedule, features)).requires_grad_()
    value = loss(found)
    (on_features,) = torch.autograd.grad(value, found)
    rows = slice(None) if problem.share is None else problem.share.rows
    # As the goal of a problem the rows stay beside their samples, in whatever parts the memory takes them.
    own = replace(problem, residual=None, goal=on_features[rows])
    plan = Plan.make(problem.denoiser, schedule, problem.x_T.device)
    model = QuadraticModel.make(problem.denoiser, parameters, theta, problem.x_T.device)

    def sums(batch: Problem) -> list[Float64]:
        path = forward(batch, schedule, plan)
        assert batch.goal is not None
        with torch.enable_grad():
            leaf = path.x_0.requires_grad_()
            made = features(leaf, batch.conditions)
            (on_x_0,) = torch.autograd.grad(made, leaf, batch.goal.to(made))
        (slopes,) = backward(batch, plan, model, path, [on_x_0])
        return [slopes.sum(0).cpu().numpy()]

    return float(value.detach()), np.asarray(own.total(sums)[0])
