"""Trials of the sampler update: a step with guidance, with noise, with clipping, and its backward in the coefficients."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.correctness_gate import same_work
from benchmarks.kernels import baselines
from benchmarks.kernels.baselines import DDIM, GUIDANCE, MULTISTEP, UpdateStep
from benchmarks.kernels.case import SMALLEST, Place, Trial, coeffs_on, filled, poisoned
from benchmarks.kernels.empty_operators import NoCompiler, empty_operators
from benchmarks.timing import Call
from ttune import ops

NOISE_SEED = 2**40 + 1
CLIP = 1.0


def update(step: UpdateStep, place: Place) -> Trial:
    """The in-place update against a copy, torch.compile, diffusers and, where a call is all overhead, an empty operator."""
    terms, outs, straight_outs = filled(place, step.n_terms), poisoned(place, len(step.rows)), poisoned(place, len(step.rows))
    coeffs, scalars = coeffs_on(place, step.rows), torch.tensor(step.scalars, device=place.device)
    compiled = baselines.compiled(step.straight)
    others: dict[str, Call] = {"compiled": lambda: compiled(straight_outs, terms, scalars)}
    missing = {}
    if reason := baselines.why_no_diffusers():
        missing["diffusers"] = reason
    else:
        others["diffusers"] = step.diffusers(terms)
    if place.shape == SMALLEST:
        operator = torch.ops.ttune.linear_update_.default
        others["operator"] = lambda: operator(outs, terms, coeffs, None, None, None, None)
        try:
            empty = empty_operators().linear_update_.default
            others["empty"] = lambda: empty(outs, terms, coeffs, None, None, None, None)
        except NoCompiler as reason:
            missing["empty"] = str(reason)

    def check_rivals() -> None:
        exact = step.run(terms, torch.float64)
        others["compiled"]()
        same_work("compiled", straight_outs, exact)
        if "diffusers" in others:
            same_work("diffusers", step.diffusers(terms)(), exact)

    return Trial.of(
        place,
        lambda: ops.linear_update_(outs, terms, coeffs),
        others,
        len(terms) + len(outs),
        who="linear_update_",
        results=lambda: outs,
        straight=lambda dtype: step.run(terms, dtype),
        ours=("ttune", "operator"),
        missing=missing,
        check_rivals=check_rivals,
        uncaptured=("operator", "empty", "diffusers"),
    )


def noise_step(place: Place) -> Trial:
    """An ancestral step, x_next = a x + b epsilon + s noise with guidance: noise made in the kernel against torch.randn
    into a buffer and the same update of one term more."""
    terms, outs, drawn_outs = filled(place, DDIM.n_terms), poisoned(place, 1), poisoned(place, 1)
    coeffs = coeffs_on(place, [[*DDIM.rows[0], 0.3]])
    seeds = torch.arange(NOISE_SEED, NOISE_SEED + place.shape[0], device=place.device)
    draw, noise = torch.tensor(3, device=place.device), torch.empty_like(terms[0])

    def randn_and_update() -> None:
        torch.randn(place.shape, out=noise)
        ops.linear_update_(drawn_outs, [*terms, noise], coeffs)

    def straight(dtype: torch.dtype) -> list[Tensor]:
        unit = ops.philox_normal(place.shape[1:], seeds, draw=3, dtype=torch.float64)
        return [DDIM.run(terms, dtype)[0] + (0.3 * unit).to(dtype)]

    return Trial.of(
        place,
        lambda: ops.linear_update_(outs, terms, coeffs, seeds=seeds, draw=draw),
        {"randn + update": randn_and_update},
        len(terms) + 1,  # reads x and two network outputs, writes x: the noise never touches memory
        who="linear_update_ with noise",
        results=lambda: outs,
        straight=straight,
        slack=0.3e-5,  # normals agree to 1e-5 (semantics of the noise)
    )


def clipping(place: Place) -> Trial:
    """What a clamp of the x_0 prediction costs: prediction and state, with it and without."""
    (state,) = DDIM.rows
    alpha, sigma, _, _ = DDIM.scalars
    prediction = [1 / alpha, -GUIDANCE * sigma / alpha, (GUIDANCE - 1) * sigma / alpha]
    plain, clipped = coeffs_on(place, [prediction, state]), coeffs_on(place, [[*prediction, 0.0], [*state, 0.25]])
    terms, outs, plain_outs = filled(place, 3), poisoned(place, 2), poisoned(place, 2)

    def straight(dtype: torch.dtype) -> list[Tensor]:
        x, conditional, unconditional = (term.to(dtype) for term in terms)
        clamped = (prediction[0] * x + prediction[1] * conditional + prediction[2] * unconditional).clamp(-CLIP, CLIP)
        return [clamped, state[0] * x + state[1] * conditional + state[2] * unconditional + 0.25 * clamped]

    return Trial.of(
        place,
        lambda: ops.linear_update_(outs, terms, clipped, clip=CLIP),
        {"without clip": lambda: ops.linear_update_(plain_outs, terms, plain)},
        5,
        who="linear_update_ with clip",
        results=lambda: outs,
        straight=straight,
        ours=("ttune", "without clip"),
    )


def functional(place: Place) -> Trial:
    """Fresh outputs against the in-place form."""
    terms, outs = filled(place, DDIM.n_terms), poisoned(place, 1)
    coeffs = coeffs_on(place, DDIM.rows)
    return Trial.of(
        place,
        lambda: ops.linear_update(terms, coeffs),
        {"in place": lambda: ops.linear_update_(outs, terms, coeffs)},
        len(terms) + 1,
        who="linear_update",
        results=lambda: ops.linear_update(terms, coeffs),
        straight=lambda dtype: DDIM.run(terms, dtype),
        ours=("ttune", "in place"),
    )


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

    # Sums of products cancel: the error is one of the sum of magnitudes, which is what 1e-6 is relative to.
    size = max(float((g.double() * t.double()).abs().sum()) for g in gradients for t in terms)
    return Trial.of(
        place,
        backward,
        {"sums of products": lambda: sums(torch.float32)},
        len(terms) + len(gradients),
        who="backward in coeffs",
        results=lambda: [backward()],
        straight=lambda dtype: [sums(torch.float64 if dtype == torch.float64 else torch.float32)],
        slack=1e-6 * size,
        uncaptured=("ttune",),  # a backward runs on its forward's stream, which is not the one that a graph is captured on
    )
