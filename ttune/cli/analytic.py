"""``ttune analytic``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from ttune.cli.arguments import Spacing, check_counts, check_paths, check_seed
from ttune.cli.bundled import bundled_data


def analytic(
    out: Path,
    model: str = "fashion",
    sampler: Literal["ddpm", "ddim"] = "ddpm",
    steps: int = 10,
    spacing: Spacing = "leading",
    eta: float = 0.0,
    samples: int = 1000,
    batch_size: int = 256,
    seed: int = 0,
    quiet: bool = False,
) -> None:
    """Estimate the optimal variance of every step from real images (Analytic-DPM), and write a schedule that has it.

    Example: ttune analytic --sampler ddpm --steps 10 --out analytic.json

    Args:
        out: The ttune.json to write; ttune sample takes it like any other.
        model: The bundled one (fashion), whose images are at hand. For others: ttune.estimate_gammas in Python.
        sampler: ddpm (Analytic-DPM) or ddim (Analytic-DDIM).
        steps: Step budget.
        spacing: The grid.
        eta: ddim only.
        samples: Real images, at most 10,000.
        batch_size: Samples in one network call.
        seed: Of the noise.
        quiet: No progress bars.
    """
    import ttune
    from ttune.cli.models import load_model
    from ttune.storage.atomic_write import check_writable

    check_paths(out=out)
    check_counts(batch_size=batch_size)
    check_seed(seed, samples=samples)
    check_writable(out)
    denoiser = load_model(model)
    images, conditions = bundled_data(model)
    if not 1 <= samples <= len(images):
        raise ValueError(f"samples must lie in [1, {len(images)}], got {samples}")
    plain = ttune.Schedule.build(denoiser.noise, sampler, steps, spacing, eta=eta)
    gammas = ttune.estimate_gammas(
        denoiser,
        plain,
        images[:samples],
        conditions={name: value[:samples] for name, value in conditions.items()},
        seeds=torch.arange(samples) + seed,
        batch_size=batch_size,
        progress=not quiet,
    )
    options = {"gammas": gammas} | ({"variance": "analytic"} if sampler == "ddpm" else {})
    schedule = plain.replace(options=options)
    schedule.save(out)
    print(schedule.tableau())
    print(f"Wrote {out}")
