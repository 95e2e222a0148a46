"""Normal equations from backpropagation: a cost that does not grow with the number of parameters.

Every sample is given its own copy of the parameters. One backward pass with the residuals r as cotangent then gives the exact
gradient J^T r; one with random signs v gives v_s^T J_s for every sample s, a row whose outer products add up to an unbiased
estimate of J^T J.

The sampler is run without a graph, keeping each stage's registers and outputs, and walked backwards a stage at a time, calling the network
again there: only one call's activations exist at any time, of a few samples. How the rows of the tableau depend on the parameters is
known before (:mod:`ttune.tuning.solvers.sensitivity`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ttune.network.denoiser import Denoiser, select
from ttune.network.guidance import Classifier
from ttune.noise.schedules import Float64
from ttune.sampling.plan import Plan, Registers
from ttune.sampling.program import Program
from ttune.sampling.sample import start_state
from ttune.schedule.schedule import Schedule
from ttune.tuning.problem import Problem, finite
from ttune.tuning.solvers.least_squares import NormalEquations, Search
from ttune.tuning.solvers.parameters import Parameters
from ttune.tuning.solvers.sensitivity import QuadraticModel, StageRows

# Of a chunk, the share whose activations exist at once. On the bundled model a sample's are 1.7 MiB and a chunk of 64 needs 22 MiB to be
# sampled: an eighth of it took 1.5 times that memory (beyond the cached states), a sixteenth no more (``python -m benchmarks memory``).
MICRO_SHARE = 16
PROBES = 1  # random rows of every sample's Jacobian


@dataclass(frozen=True)
class Backpropagation:
    """``micro`` samples in one backward pass of the network, by default a sixteenth of a chunk: activations of a pass are many
    times what a forward needs, so that these few take about the memory of a whole chunk's forward. ``seed``: of the random signs."""

    seed: int = 0
    probes: int = PROBES
    micro: int | None = None

    def __call__(self, problem: Problem, parameters: Parameters, search: Search) -> NormalEquations:
        return normal_equations(problem, parameters, np.array(search.theta), self, draw=len(search.history))

    def cost(self, problem: Problem, parameters: Parameters, schedule: Schedule) -> float:
        return problem.cost(schedule)

    def fresh(self, search: Search) -> bool:
        return True


Signs = Callable[[Tensor], Tensor]  # (B, m) -> as many random signs, others at every call


def normal_equations(
    problem: Problem, parameters: Parameters, theta: Float64, how: Backpropagation | None = None, draw: int = 0
) -> NormalEquations:
    """Those at ``theta``: cost and J^T r exactly, J^T J estimated. ``draw`` numbers the random signs."""
    how = how or Backpropagation()
    model = QuadraticModel.make(problem.denoiser, parameters, theta, problem.x_T.device)
    schedule = parameters.schedule(theta)
    plan = Plan.make(problem.denoiser, schedule, problem.x_T.device)

    def sums(batch: Problem) -> tuple[float, Float64, Float64]:
        r, (along_r, *random) = vector_products(batch, schedule, plan, model, how, _signs_of(batch, how, draw))
        P = along_r.shape[1]
        A = sum((rows.T @ rows for rows in random), torch.zeros(P, P, dtype=torch.float64, device=along_r.device))
        return float(r.square().sum()), A.cpu().numpy() / max(len(random), 1), along_r.sum(0).cpu().numpy()

    cost, A, g = problem.total(sums)
    return NormalEquations(float(cost) / problem.elements, A / problem.elements, g / problem.elements)


def _signs_of(batch: Problem, how: Backpropagation, draw: int) -> Signs:
    """Random signs, each sample's own: the same whichever rank has it, and in whatever part of a chunk."""
    seed = (how.seed * 1_000_003 + draw) * 2**32
    generators = [torch.Generator().manual_seed((seed + _number_of(x)) % 2**64) for x in batch.x_T]

    def signs(r: Tensor) -> Tensor:
        return torch.stack([torch.randint(2, r.shape[1:], generator=generator) for generator in generators]).to(r) * 2 - 1

    return signs


def _number_of(x: Tensor) -> int:
    """32 bits that a sample's x_T has whichever samples are beside it."""
    held = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return int(hashlib.sha256(held.numpy().tobytes()).hexdigest()[:8], 16)


class Path(NamedTuple):
    """A run of the sampler without a graph: where it began, every stage's registers and outputs, and where it arrived."""

    begin: Tensor
    stages: list[tuple[Registers, Sequence[Tensor]]]
    x_0: Tensor


def vector_products(
    batch: Problem, schedule: Schedule, plan: Plan, model: QuadraticModel, how: Backpropagation, random_signs: Signs
) -> tuple[Tensor, list[Tensor]]:
    """The residuals r (B, m), and for every sample its r^T J and ``how.probes`` random v^T J: (B, P) each."""
    path = forward(batch, schedule, plan)
    with torch.enable_grad():
        leaf = path.x_0.requires_grad_()
        r = batch.residuals(leaf)
        signs = [random_signs(r) for _ in range(how.probes)]
        seeds = [r.detach(), *signs]
        pulled = [torch.autograd.grad(r, leaf, seed, retain_graph=True)[0] for seed in seeds]
    return r.detach(), backward(batch, plan, model, path, pulled, how.micro)


def forward(batch: Problem, schedule: Schedule, plan: Plan) -> Path:
    """The sampler on a batch, remembered for :func:`backward`."""
    stages: list[tuple[Registers, Sequence[Tensor]]] = []
    with torch.no_grad():
        begin = {"x": start_state(schedule, batch.x_T)}
        program = Program.make(plan, batch.denoiser, batch.x_T)
        run = program.run(batch.denoiser, begin, batch.conditions, visit=lambda _i, registers, outputs: stages.append((registers, outputs)))
        return Path(begin["x"], stages, finite(run, schedule).detach())


def backward(
    batch: Problem, plan: Plan, model: QuadraticModel, path: Path, on_x_0: Sequence[Tensor], micro: int | None = None
) -> list[Tensor]:
    """For each cotangent of x_0 (B, ...), the gradient of every sample in the free parameters (B, P). ``path`` is used up."""
    denoiser = batch.denoiser
    cotangents: list[dict[str, Tensor]] = [{"x": c} for c in on_x_0]
    slopes = [torch.zeros(len(batch), len(model.start_scale.slope), dtype=torch.float64, device=batch.x_T.device) for _ in on_x_0]
    micro = micro or max(1, batch.batch_size // MICRO_SHARE)
    for i in reversed(range(len(model.stages))):
        registers, outputs = path.stages.pop()
        on_outputs = _through_update(denoiser, model.stages[i], registers, outputs, cotangents, slopes)
        _through_network(batch, plan, model, i, registers["x"], on_outputs, cotangents, slopes, micro)
    for cotangent, slope in zip(cotangents, slopes, strict=True):
        x = _through_start(plan, path.begin, cotangent["x"])
        along = (x.double() * (batch.x_T.double())).flatten(1).sum(1)
        slope += along[:, None] * model.start_scale.slope
    return slopes


def _through_update(
    denoiser: Denoiser,
    stage: StageRows,
    registers: Registers,
    outputs: Sequence[Tensor],
    cotangents: list[dict[str, Tensor]],
    slopes: list[Tensor],
) -> list[list[Tensor]]:
    """From cotangents of the registers after a stage to those before it (in place), and returned, of the network's outputs."""
    with torch.enable_grad():
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in registers.items()}
        outs = [o.detach().requires_grad_() for o in outputs]
        copies = torch.zeros_like(slopes[0]).requires_grad_()
        made = stage(denoiser, leaves, outs, copies)
    on_outputs = []
    for cotangent, slope in zip(cotangents, slopes, strict=True):
        names = [name for name in made if name in cotangent and made[name].requires_grad]
        inputs = [*leaves.values(), *outs, copies]
        grads = torch.autograd.grad(
            [made[n] for n in names], inputs, [cotangent[n] for n in names], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        slope += grads[-1]
        on_outputs.append(list(grads[len(leaves) : -1]))
        cotangent.clear()
        cotangent.update(zip(leaves, grads, strict=False))
    return on_outputs


def _through_network(
    batch: Problem,
    plan: Plan,
    model: QuadraticModel,
    i: int,
    x: Tensor,
    on_outputs: list[list[Tensor]],
    cotangents: list[dict[str, Tensor]],
    slopes: list[Tensor],
    micro: int,
) -> None:
    """From cotangents of the outputs of evaluation ``i`` to those of its state (added) and of its network time."""
    denoiser, n = batch.denoiser, len(batch)
    for start in range(0, n, micro):
        rows = slice(start, start + micro)
        with torch.enable_grad():
            leaf = x[rows].detach().requires_grad_()
            tau = model.network_times.value[i].to(torch.float64).expand(len(leaf)).clone().requires_grad_()
            before = denoiser.evaluations
            outputs = plan.outputs(denoiser, i, leaf, select(batch.conditions, rows, n, denoiser.shared), tau)
            spent = denoiser.evaluations - before
        live = [j for j, output in enumerate(outputs) if output.requires_grad]
        for on_output, cotangent, slope in zip(on_outputs, cotangents, slopes, strict=True):
            if not live:
                continue
            on_x, on_tau = torch.autograd.grad(
                [outputs[j] for j in live],
                [leaf, tau],
                [on_output[j][rows] for j in live],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            denoiser.evaluations += 2 * spent  # a backward counts twice its forward
            cotangent["x"][rows] += on_x
            slope[rows] += on_tau[:, None] * model.network_times.slope[:, i]


def _through_start(plan: Plan, x: Tensor, cotangent: Tensor) -> Tensor:
    """The cotangent of the scaled x_T, where the sampler does something before its first evaluation."""
    if plan.start is None:
        return cotangent
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(plan.start({"x": leaf}, ())["x"], leaf, cotangent)[0]


CHECK_SAMPLES = 4
# Along the gradient, in units of half log-SNR. A loss in half precision may not see the shortest one.
CHECK_STEPS = (1e-2, 3e-2, 1e-1)


def has_gradients(problem: Problem, parameters: Parameters) -> bool:
    """Whether backpropagation through this network says what the network does (:func:`why_no_gradients`)."""
    return not why_no_gradients(problem, parameters)


def why_no_gradients(problem: Problem, parameters: Parameters) -> str:
    """Why backpropagation through this network does not say what the network does; empty where it does. One step along its gradient, tried.

    A network that is not made of differentiable operations, or detaches something on the way, is found out here.
    """
    if isinstance(problem.denoiser.guidance, Classifier):
        return "a Classifier's guidance is a gradient itself, made apart from the graph"
    few, theta = problem.head(CHECK_SAMPLES), parameters.start_vector
    try:
        g = normal_equations(few, parameters, theta).g
    except (RuntimeError, NotImplementedError) as error:  # an operation without a derivative, or tensors that NumPy cannot take
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    if not np.isfinite(g).all():
        return f"the gradient is not finite, in {problem.x_T.dtype}"
    if not g.any():
        return "the gradient is zero: the output is cut off from the state and the time (no_grad, detach, a buffer of the network's own)"
    half = few.x_T.element_size() == 2
    reason = ""
    for step in CHECK_STEPS if half else CHECK_STEPS[:1]:
        along = np.zeros_like(theta)
        along[parameters.free] = step * g / np.linalg.norm(g)
        trials = [parameters.project(theta + along), parameters.project(theta - along)]
        try:
            found = few.cost(parameters.schedule(trials[0])) - few.cost(parameters.schedule(trials[1]))
        except ValueError as error:
            return reason or f"no step along the gradient can be tried: {error}"
        predicted = 2 * g @ (trials[0] - trials[1])[parameters.free]
        if 0.5 * predicted < found < 2 * predicted:
            return ""
        reason = f"a step along the gradient changes the loss by {found:.3g}, and the gradient says {predicted:.3g}"
    return reason + (f"; {few.x_T.dtype} may be too coarse to see it: try x_T in float32" if half else "")
