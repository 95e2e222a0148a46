"""Trials of the trajectory loss: forward and backward through autograd, against the mean-squared error of PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.correctness_gate import as_good_as_eager, close, same_work
from benchmarks.kernels.baselines import DDIM, GUIDANCE
from benchmarks.kernels.case import Place, Trial, coeffs_on, copy_of, filled
from benchmarks.samplings.by_hand import ddim_step
from ttune import ops


def mse(place: Place) -> Trial:
    """The loss of a prediction as it is: one term with coefficient one."""
    return _against_mse(place, 1, [[1.0]], lambda terms: terms[0])


def update_and_mse(place: Place) -> Trial:
    """The loss of a DDIM step with guidance, differentiable in both network outputs: update, difference, sum and
    gradient in one pass."""
    return _against_mse(place, 3, DDIM.rows, lambda terms: ddim_step(terms[0], terms[1:], DDIM.scalars, GUIDANCE))


def _against_mse(place: Place, n_terms: int, rows: list[list[float]], straight: Callable[[list[Tensor]], Tensor]) -> Trial:
    terms, (target,) = filled(place, n_terms), filled(place, 1, seed=1)
    learned = [term.requires_grad_() for term in terms[1 if n_terms > 1 else 0 :]]  # x itself is no network output
    coeffs = coeffs_on(place, rows)
    samples = torch.ones(place.shape[0], device=place.device)

    def fused() -> tuple[Tensor, ...]:
        loss = ops.trajectory_loss(terms, coeffs, target)
        return loss, *torch.autograd.grad(loss, learned, samples)

    def eager() -> tuple[Tensor, ...]:
        loss = F.mse_loss(straight(terms), target, reduction="sum")
        return loss, *torch.autograd.grad(loss, learned)

    def exact() -> tuple[Tensor, list[Tensor]]:
        wide = [term.detach().double().requires_grad_(term.requires_grad) for term in terms]
        loss = (straight(wide) - target.double()).square().flatten(1).sum(1)
        return loss.detach(), list(torch.autograd.grad(loss.sum(), [term for term in wide if term.requires_grad]))

    def check() -> None:
        (loss, *gradients), (right, right_gradients) = fused(), exact()
        close("trajectory_loss", [loss.detach()], [right], 1e-6)
        as_good_as_eager("trajectory_loss, gradient", gradients, eager()[1:], right_gradients)

    def check_rivals() -> None:
        (loss, *gradients), (right, right_gradients) = eager(), exact()
        same_work("mse_loss", [loss.detach()], [right.sum()])
        same_work("mse_loss, gradient", gradients, right_gradients)

    tensors = n_terms + 1 + len(learned)  # reads the terms and the target, writes the gradients
    contestants = {"ttune": fused, "mse_loss": eager, "copy": copy_of(place, tensors)}
    return Trial(contestants, check, place.bytes(tensors), check_rivals=check_rivals)
