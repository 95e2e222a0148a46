"""Trials of the sampler update: a step with guidance, with noise, with clipping, and its backward in the coefficients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.correctness_gate import as_good_as_eager, same_work
from benchmarks.kernels import baselines
from benchmarks.kernels.case import SMALLEST, Call, Place, Trial, copy_of, filled, poisoned
from benchmarks.kernels.empty_operators import NoCompiler, empty_operators
from ttune import ops

NOISE_SEED = 2**40 + 1
CLIP = 1.0


@dataclass(frozen=True)
class UpdateStep:
    """A sampler's step: ``straight``, straight-line code into its outputs; ``rows``, the same as coefficients;
    ``diffusers``: the scheduler's step on given terms."""

    straight: Callable[[list[Tensor], list[Tensor], Tensor], None]
    scalars: tuple[float, ...]
    rows: list[list[float]]
    diffusers: Callable[[list[Tensor]], Callable[[], list[Tensor]]]

    @property
    def n_terms(self) -> int:
        return len(self.rows[0])

    def run(self, terms: Sequence[Tensor], dtype: torch.dtype, scalars: torch.dtype = torch.float32) -> list[Tensor]:
        """Eagerly, in ``dtype``."""
        terms = [term.to(dtype) for term in terms]
        outs = [torch.empty_like(terms[0]) for _ in self.rows]
        self.straight(outs, terms, torch.tensor(self.scalars, dtype=scalars, device=terms[0].device))
        return outs


DDIM = UpdateStep(baselines.ddim, baselines.ddim_scalars(), baselines.ddim_rows(), baselines.diffusers_ddim)
MULTISTEP = UpdateStep(baselines.multistep, baselines.multistep_scalars(), baselines.multistep_rows(), baselines.diffusers_multistep)


def coeffs_on(place: Place, rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64, device=place.device)


def update(step: UpdateStep, place: Place) -> Trial:
    """The in-place update against a copy, torch.compile, diffusers and, where a call is all overhead, an empty operator."""
    terms, outs = filled(place, step.n_terms), poisoned(place, len(step.rows))
    coeffs = coeffs_on(place, step.rows)
    scalars = torch.tensor(step.scalars, device=place.device)
    straight_outs = poisoned(place, len(step.rows))
    straight = baselines.compiled(step.straight)
    moved = len(terms) + len(outs)
    contestants: dict[str, Call] = {
        "ttune": lambda: ops.linear_update_(outs, terms, coeffs),
        "copy": copy_of(place, moved),
        "compiled": lambda: straight(straight_outs, terms, scalars),
    }
    missing = {}
    if reason := baselines.why_no_diffusers():
        missing["diffusers"] = reason
    else:
        contestants["diffusers"] = step.diffusers(terms)
    if place.shape == SMALLEST:
        operator = torch.ops.ttune.linear_update_.default
        contestants["operator"] = lambda: operator(outs, terms, coeffs, None, None, None, None)
        try:
            empty = empty_operators().linear_update_.default
            contestants["empty"] = lambda: empty(outs, terms, coeffs, None, None, None, None)
        except NoCompiler as reason:
            missing["empty"] = str(reason)

    def check() -> None:
        exact = step.run(terms, torch.float64, torch.float64)
        contestants["ttune"]()
        as_good_as_eager("linear_update_", outs, step.run(terms, place.dtype), exact)

    def check_rivals() -> None:
        exact = step.run(terms, torch.float64, torch.float64)
        contestants["compiled"]()
        same_work("compiled", straight_outs, exact)
        if "diffusers" in contestants:
            same_work("diffusers", step.diffusers(terms)(), exact)

    bytes_moved = moved * terms[0].numel() * terms[0].element_size()
    return Trial(
        contestants, check, bytes_moved, ("ttune", "operator"), missing, check_rivals, uncaptured=("operator", "empty", "diffusers")
    )


def noise_step(place: Place) -> Trial:
    """An ancestral step, x_next = a x + b epsilon + s noise with guidance: noise made in the kernel against torch.randn
    into a buffer and the same update of one term more."""
    (row,) = DDIM.rows
    rows = [[*row, 0.3]]
    terms, outs = filled(place, DDIM.n_terms), poisoned(place, 1)
    coeffs = coeffs_on(place, rows)
    seeds = torch.arange(NOISE_SEED, NOISE_SEED + place.shape[0], device=place.device)
    draw = torch.tensor(3, device=place.device)
    noise, drawn_outs = torch.empty_like(terms[0]), poisoned(place, 1)

    def randn_and_update() -> None:
        torch.randn(place.shape, out=noise)
        ops.linear_update_(drawn_outs, [*terms, noise], coeffs)

    def in_kernel() -> None:
        ops.linear_update_(outs, terms, coeffs, seeds=seeds, draw=draw)

    def check() -> None:
        in_kernel()
        unit = ops.philox_normal(place.shape[1:], seeds, draw=3, dtype=torch.float64)
        exact = DDIM.run(terms, torch.float64, torch.float64)[0] + 0.3 * unit
        eager = DDIM.run(terms, place.dtype)[0] + (0.3 * unit).to(place.dtype)
        # Normals agree to 1e-5 (semantics of the noise).
        as_good_as_eager("linear_update_ with noise", outs, [eager], [exact], slack=0.3e-5)

    # Reads x and two network outputs, writes x: the noise never touches memory.
    bytes_moved = (len(terms) + 1) * terms[0].numel() * terms[0].element_size()
    contestants: dict[str, Call] = {"ttune": in_kernel, "randn + update": randn_and_update, "copy": copy_of(place, len(terms) + 1)}
    return Trial(contestants, check, bytes_moved)


def clipping(place: Place) -> Trial:
    """What a clamp of the x_0 prediction costs: prediction and state, with it and without."""
    (state,) = DDIM.rows
    _, sigma, alpha, _ = DDIM.scalars
    prediction = [1 / alpha, -baselines.GUIDANCE * sigma / alpha, (baselines.GUIDANCE - 1) * sigma / alpha]
    plain = coeffs_on(place, [prediction, state])
    clipped = coeffs_on(place, [[*prediction, 0.0], [*state, 0.25]])
    terms, outs, plain_outs = filled(place, 3), poisoned(place, 2), poisoned(place, 2)

    def straight(dtype: torch.dtype) -> list[Tensor]:
        x, conditional, unconditional = (term.to(dtype) for term in terms)
        clamped = (prediction[0] * x + prediction[1] * conditional + prediction[2] * unconditional).clamp(-CLIP, CLIP)
        return [clamped, state[0] * x + state[1] * conditional + state[2] * unconditional + 0.25 * clamped]

    def with_clip() -> None:
        ops.linear_update_(outs, terms, clipped, clip=CLIP)

    def check() -> None:
        with_clip()
        as_good_as_eager("linear_update_ with clip", outs, straight(place.dtype), straight(torch.float64))

    bytes_moved = 5 * terms[0].numel() * terms[0].element_size()
    contestants: dict[str, Call] = {"ttune": with_clip, "without clip": lambda: ops.linear_update_(plain_outs, terms, plain)}
    return Trial({**contestants, "copy": copy_of(place, 5)}, check, bytes_moved, ("ttune", "without clip"))


def functional(place: Place) -> Trial:
    """Fresh outputs against the in-place form."""
    terms, outs = filled(place, DDIM.n_terms), poisoned(place, 1)
    coeffs = coeffs_on(place, DDIM.rows)

    def check() -> None:
        exact = DDIM.run(terms, torch.float64, torch.float64)
        as_good_as_eager("linear_update", ops.linear_update(terms, coeffs), DDIM.run(terms, place.dtype), exact)

    contestants: dict[str, Call] = {
        "ttune": lambda: ops.linear_update(terms, coeffs),
        "in place": lambda: ops.linear_update_(outs, terms, coeffs),
    }
    bytes_moved = (len(terms) + 1) * terms[0].numel() * terms[0].element_size()
    return Trial(contestants, check, bytes_moved, ("ttune", "in place"))


def coefficient_gradient(place: Place) -> Trial:
    """linear_update's backward in the coefficients against the eager sums of products. The forward is not timed."""
    terms, gradients = filled(place, MULTISTEP.n_terms), filled(place, len(MULTISTEP.rows), seed=1)
    coeffs = coeffs_on(place, MULTISTEP.rows).requires_grad_()
    results = ops.linear_update(terms, coeffs)

    def backward() -> Tensor:
        return torch.autograd.grad(results, coeffs, gradients, retain_graph=True)[0]

    def sums(dtype: torch.dtype) -> Tensor:
        columns = [term.to(dtype) for term in terms]
        return torch.stack([torch.stack([(gradient.to(dtype) * column).sum() for column in columns]) for gradient in gradients])

    def check() -> None:
        exact = sums(torch.float64)
        # Sums of products cancel: the error is one of the sum of magnitudes, which is what 1e-6 is relative to.
        size = max(float((g.double() * t.double()).abs().sum()) for g in gradients for t in terms)
        as_good_as_eager("backward in coeffs", [backward()], [sums(torch.float32)], [exact], slack=1e-6 * size)

    arithmetic = torch.float32
    contestants: dict[str, Call] = {"ttune": backward, "sums of products": lambda: sums(arithmetic)}
    bytes_moved = (len(terms) + len(gradients)) * terms[0].numel() * terms[0].element_size()
    # A backward runs on its forward's stream, which is not the one that a graph is captured on.
    return Trial({**contestants, "copy": copy_of(place, len(terms) + len(gradients))}, check, bytes_moved, uncaptured=("ttune",))
