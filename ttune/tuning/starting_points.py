"""Where samples come from: starting points for tuning and for judging, and batches of clean data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ttune.network.denoiser import Conditions, Denoiser, Evaluation, select
from ttune.network.modules_behind import modules_behind
from ttune.sampling.sample import initial_noise
from ttune.tuning.problem import on_device

Points = tuple[Tensor, Conditions]  # x_T (n, ...) and conditions
Data = Tensor | tuple[Tensor, Conditions]

VALIDATION_SEEDS = 2**32  # validation x_T have seeds from here on, tuning x_T below: never the same

MAX_SEED = 2**63 // (4 * VALIDATION_SEEDS)  # seeds of samples, 2 VALIDATION_SEEDS apart from one tuning's to the next, are 64-bit integers


def check_draws(seed: int, batch_size: int, **counts: int) -> None:
    """ValueError for a tuning's seed that is too large, a chunk without a sample, and fewer than two samples of any of ``counts``."""
    for name, count, least in (*((name, count, 2) for name, count in counts.items()), ("batch_size", batch_size, 1)):
        if count < least:  # a Fréchet distance needs two samples
            raise ValueError(f"{name} must be at least {least}, got {count}")
    if abs(seed) > MAX_SEED:
        raise ValueError(f"seed must be in [-{MAX_SEED}, {MAX_SEED}], got {seed}")


def given_points(denoiser: Denoiser, x_T: Tensor, conditions: Conditions | Callable[[Tensor], Conditions] | None) -> tuple[Points, Points]:
    """(tuning, validation): the last quarter of the caller's own x_T is for validation."""
    n = x_T.shape[0]
    if n < 8:  # a Fréchet distance needs two samples
        raise ValueError(f"x_T must hold at least 8 samples, a quarter of them for validation, got {n}")
    if not torch.isfinite(x_T).all():
        raise ValueError("x_T must be finite, got NaN or infinity")
    if callable(conditions):
        raise TypeError("conditions must be a mapping of per-sample values when x_T is given, got a function of seeds")
    denoiser.check_conditions(conditions, n)
    cut, given = n - n // 4, dict(conditions or {})
    both = (slice(0, cut), slice(cut, n))
    tuning, validation = ((x_T[rows], select(given, rows, n, denoiser.shared)) for rows in both)
    return tuning, validation


def drawn_points(
    denoiser: Denoiser,
    seeds: Tensor,
    sample_shape: Sequence[int] | None = None,
    conditions: Conditions | Callable[[Tensor], Conditions] | None = None,
) -> Points:
    """One x_T and its conditions per seed (n,) int64, on the network's device."""
    shape = sample_shape if sample_shape is not None else denoiser.sample_shape
    if shape is None:
        raise ValueError("x_T or sample_shape must be given: this denoiser does not know the shape of a sample")
    if conditions is not None and not callable(conditions):
        raise TypeError("conditions must be a function of the seeds when x_T is not given, got a mapping")
    draw = conditions or denoiser.draw_conditions or (lambda seeds: {})
    parameters = (parameter for module in denoiser.modules() for parameter in module.parameters())
    device = next((p.device for p in parameters), torch.device("cpu"))
    drawn = draw(seeds)
    denoiser.check_conditions(drawn, len(seeds))
    x_T, own = initial_noise(denoiser.noise, shape, seeds).to(device), on_device(drawn, device)
    return x_T.to(_dtype_taken(denoiser, x_T, own)), own


@torch.no_grad()
def _dtype_taken(denoiser: Denoiser, x_T: Tensor, conditions: Conditions) -> torch.dtype:
    """Of the states that are drawn: float32, but for a network of another dtype that does not take float32. That is tried with a sample,
    once; it is not counted."""
    weights = next((p.dtype for m in modules_behind(denoiser.network) for p in m.parameters() if p.is_floating_point()), torch.float32)
    if weights not in (torch.float16, torch.bfloat16, torch.float64) or not len(x_T):
        return torch.float32
    known = denoiser.__dict__.setdefault("_dtypes_taken", {})
    if weights not in known:
        t, one = denoiser.noise.t_max, select(conditions, slice(0, 1), len(x_T), denoiser.shared)
        own = {name: value for name, value in one.items() if name not in getattr(denoiser.guidance, "only", ())}
        try:
            denoiser.evaluate(x_T[:1], t, own, Evaluation(denoiser.network_at(t), None, ()))
            known[weights] = torch.float32
        except (RuntimeError, TypeError):  # of dtypes; anything else comes up again in the first call that counts
            known[weights] = weights
    return known[weights]


def check_data(denoiser: Denoiser, data: Data) -> None:
    """ValueError or TypeError for ``data`` that is no floating-point images, or images with conditions that do not go with them."""
    images, conditions = data if isinstance(data, tuple) else (data, {})
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim < 1 or len(images) < 1:
        got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"data must be floating-point images (n, ...) in the network's range, got {got}")
    denoiser.check_conditions(conditions, len(images))


def data_draws(data: Data, batch: int, seed: int, shared: Sequence[str] = ()) -> Callable[[int], tuple[Tensor, Tensor, Conditions]]:
    """Random batches of (x_0, epsilon, conditions): batch j is a function of ``seed`` and j alone."""
    images, conditions = data if isinstance(data, tuple) else (data, {})

    def draw(j: int) -> tuple[Tensor, Tensor, Conditions]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + j)
        pick = torch.randint(len(images), (batch,), generator=generator)
        x_0 = images[pick]
        return x_0, torch.randn(x_0.shape, generator=generator).to(x_0), select(conditions, pick, len(images), shared)

    return draw
