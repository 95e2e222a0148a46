"""What is looked at before a tuning is paid for: training mode, a network that does not say the same twice, another prediction type."""

from __future__ import annotations

import functools
import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]

from ttune.messages.warn import warn
from ttune.network.denoiser import Denoiser, Evaluation, select
from ttune.network.modules_behind import modules_behind
from ttune.sampling.plan import Plan
from ttune.sampling.program import Program
from ttune.sampling.sample import start_state
from ttune.schedule.schedule import Schedule
from ttune.tuning.starting_points import Points

ENOUGH = 512  # numbers that a correlation is taken over; of large samples one has more
STEPS = 8  # of a sampling that says which prediction type the network has
# Half log-SNR at which a network is to recognise its own samples, and the share that is evidence of a type. Of the networks of a mixture
# and of the bundled model v explains 0.4 to 0.94 where it is right, x_0 0.8 to 0.99; of untrained networks v at most 0.02, x_0 0.41.
NOISED_TO, RECOGNISED = 1.0, {"v_prediction": 0.3, "sample": 0.6}
DATA = 0.5  # the standard deviation of typical data, for what an output of each type is about at the largest time


def check_input(denoiser: Denoiser, points: Points, batch_size: int) -> None:
    """UserWarnings for a network that answers the same call differently, and for one whose output is that of another prediction type. Two
    calls with a few samples, and more where the second is suspected."""
    x_T, conditions = points
    n = min(len(x_T), batch_size, -(-ENOUGH // max(1, x_T[0].numel())))
    few = x_T[:n]
    own = _without_classifier(denoiser, select(conditions, slice(0, n), len(x_T), denoiser.shared))
    output = _output(denoiser, few, denoiser.noise.t_max, own)
    again = _output(denoiser, few, denoiser.noise.t_max, own)
    if torch.isfinite(output).all():
        _check_same(output, again, few.dtype)
        _check_prediction_type(denoiser, few, own, output)


def refuse_training(denoiser: Denoiser) -> None:
    """ValueError where a module is in training mode that minds it: dropout, batch norm, one that asks for ``self.training``."""
    named = [entry for behind in modules_behind(denoiser.network) for entry in behind.named_modules()]
    found = [name or "the network itself" for name, module in named if module.training and _minds_training(module)]
    if found:
        raise ValueError(
            f"network must be in evaluation mode, got {len(found)} modules that behave otherwise in training mode, the first: {found[0]}; "
            f"call network.eval()"
        )


def _minds_training(module: nn.Module) -> bool:
    if isinstance(module, _NormBase):
        return module.track_running_stats  # else the batch's own statistics in either mode
    if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
        return module.dropout > 0
    if type(module).__module__.startswith(("torch.nn.", "torch._dynamo.")):  # torch.compile's own module only wraps
        return isinstance(module, nn.RReLU) or (isinstance(module, _DropoutNd) and module.p > 0)
    return _asks_for_training(type(module))


@functools.cache
def _asks_for_training(kind: type[nn.Module]) -> bool:
    """Whether the code of a class of modules names ``training``."""
    own = [base for base in kind.__mro__ if issubclass(base, nn.Module) and base is not nn.Module]
    functions = [
        inspect.unwrap(value) for base in own for name, value in vars(base).items() if inspect.isfunction(value) and name != "train"
    ]
    return any("training" in function.__code__.co_names for function in functions if inspect.isfunction(function))


def _without_classifier(denoiser: Denoiser, conditions: Any) -> dict[str, Any]:
    only = getattr(denoiser.guidance, "only", ())  # a classifier's own conditions
    return {name: value for name, value in conditions.items() if name not in only}


@torch.no_grad()
def _output(denoiser: Denoiser, x: Tensor, t: float, conditions: dict[str, Any]) -> Tensor:
    """What the network itself says of ``x`` at ``t``, without guidance, in float64; a copy: it may use the same memory again."""
    return denoiser.outputs(x, t, conditions, Evaluation(denoiser.network_at(t), None, ()))[0].double().clone()


def _check_same(output: Tensor, again: Tensor, dtype: torch.dtype) -> None:
    difference, size = float((output - again).square().mean().sqrt()), float(output.square().mean().sqrt())
    if difference > (1e-4 if dtype in (torch.float32, torch.float64) else 1e-2) * size:
        warn(
            f"network: two equal calls differ by {difference:.3g} RMS (its output has {size:.3g}); tuning compares runs, and needs the "
            f"same answer to the same call. Is dropout on (network.eval()), does the network draw noise or keep a state?"
        )


def _check_prediction_type(denoiser: Denoiser, x: Tensor, conditions: dict[str, Any], output: Tensor) -> None:
    noise, declared = denoiser.noise, denoiser.prediction_type
    alpha, sigma = float(noise.alpha(noise.t_max)), float(noise.sigma(noise.t_max))
    flat, out = x.double().flatten(), output.flatten()
    if flat.numel() < 32 or not float(flat.square().sum()) > 0 or not float(out.square().sum()) > 0:
        return
    slope = float((flat @ out) / (flat @ flat)) * sigma  # of the output in the noise that x_T is made of
    correlation = float(torch.corrcoef(torch.stack([flat, out]))[0, 1])
    expected = _expected(alpha, sigma)
    if abs(slope - expected[declared]) < 0.5:
        return
    if abs(slope) < 0.2:
        likely = _by_sampling(denoiser, x, conditions)
    else:
        likely = [kind for kind, value in expected.items() if abs(slope - value) < 0.2 * abs(value)] if abs(correlation) > 0.9 else []
    if likely:
        warn(
            f"prediction_type is {declared!r}, and the network's output is not of that type: at the largest time its slope in the noise is "
            f"{slope:.2f} (correlation {correlation:.2f}), where {declared!r} has about {expected[declared]:.2f}. It looks like "
            f"{' or '.join(map(repr, likely))}: Denoiser(..., prediction_type={likely[0]!r})"
        )


def _expected(alpha: float, sigma: float) -> dict[str, float]:
    """The slope of each type's output in the noise, for data of standard deviation ``DATA``."""
    variance = alpha**2 * DATA**2 + sigma**2
    x_0, eps = alpha * DATA**2 / variance * sigma, sigma / variance * sigma
    return _outputs(x_0, eps, alpha, sigma)


def _outputs(x_0: Any, eps: Any, alpha: float, sigma: float) -> dict[str, Any]:
    """What a network of each type returns that believes in ``x_0`` and ``eps``."""
    return {
        "epsilon": eps,
        "sample": x_0,
        "v_prediction": alpha * eps - sigma * x_0,
        "score": -eps / sigma,
        "flow_prediction": eps - x_0,
    }


def _by_sampling(denoiser: Denoiser, x_T: Tensor, conditions: dict[str, Any]) -> list[str]:
    """The type under which the network samples something that it recognises again with other noise in it; none where it recognises
    nothing, as an untrained one, or also what it samples under the declared type."""
    explained = {kind: _recognised(denoiser, kind, x_T, conditions) for kind in (denoiser.prediction_type, *RECOGNISED)}
    declared = explained.pop(denoiser.prediction_type)
    best = max(explained, key=lambda kind: explained[kind])
    return [best] if explained[best] > RECOGNISED[best] and declared < 0 else []


@torch.no_grad()
def _recognised(denoiser: Denoiser, kind: str, x_T: Tensor, conditions: dict[str, Any]) -> float:
    """The share of the output's mean square that prediction type ``kind`` explains, on its own samples with new noise in them."""
    own = replace(denoiser, prediction_type=kind, guidance=None)
    noise = own.noise
    try:
        schedule = Schedule.build(noise, "ddim", STEPS, "linspace")
        schedule = schedule.with_integer_times() if own.integer_time else schedule
        # Not ttune.sample, which would warn of a type that the network has not.
        program = Program.make(Plan.make(own, schedule, x_T.device), own, x_T)
        x_0 = program.run(own, {"x": start_state(schedule, x_T)}, conditions)
    except ValueError:
        return float("-inf")  # the type says nothing at the largest time
    t = float(np.round(noise.time(NOISED_TO)) if noise.discrete_steps else noise.time(NOISED_TO))
    alpha, sigma = float(noise.alpha(t)), float(noise.sigma(t))
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(x_0.device)
    wanted = _outputs(x_0.double(), eps, alpha, sigma)[kind]
    output = _output(own, (alpha * x_0.double() + sigma * eps).to(x_T.dtype), t, conditions)
    denoiser.evaluations, denoiser.spent = denoiser.evaluations + own.evaluations, denoiser.spent + own.spent
    share = 1 - float((output - wanted).square().mean() / wanted.square().mean())
    return share if np.isfinite(share) else float("-inf")
