"""``ttune analytic``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ttune.cli.arguments import Spacing, check_counts, check_paths, check_seed
from ttune.cli.models import bundled_data, load_model


@dataclass(frozen=True, kw_only=True)
class Analytic:
    """Estimate the optimal variance of every step from real images (Analytic-DPM), and write a schedule that has it.

    Example: ttune analytic --sampler ddpm --steps 10 --out analytic.json
    """

    out: Path
    """The ttune.json to write; ttune sample takes it like any other."""
    model: str = "fashion"
    """The bundled one (fashion), whose images are at hand. For others: ttune.estimate_gammas in Python."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """ddpm (Analytic-DPM) or ddim (Analytic-DDIM)."""
    steps: int = 10
    """Number of steps."""
    spacing: Spacing = "leading"
    """How the steps are laid out."""
    eta: float = 0.0
    """ddim only."""
    samples: int = 1000
    """Real images to estimate from, at most 10,000."""
    batch_size: int = 256
    """Samples in one network call."""
    seed: int = 0
    """Random seed of the noise."""
    quiet: bool = False
    """No progress bars."""

    def run(self) -> None:
        import ttune
        from ttune.storage.atomic_write import check_writable

        check_paths(out=self.out)
        check_counts(batch_size=self.batch_size)
        check_seed(self.seed, samples=self.samples)
        check_writable(self.out)
        denoiser = load_model(self.model)
        images, conditions = bundled_data(self.model)
        if not 1 <= self.samples <= len(images):
            raise ValueError(f"samples must lie in [1, {len(images)}], got {self.samples}")
        plain = ttune.Schedule.build(denoiser.noise, self.sampler, self.steps, self.spacing, eta=self.eta)
        gammas = ttune.estimate_gammas(
            denoiser,
            plain,
            images[: self.samples],
            conditions={name: value[: self.samples] for name, value in conditions.items()},
            seeds=torch.arange(self.samples) + self.seed,
            batch_size=self.batch_size,
            progress=not self.quiet,
        )
        schedule = plain.replace(options={"gammas": gammas} | ({"variance": "analytic"} if self.sampler == "ddpm" else {}))
        schedule.save(self.out)
        print(schedule.tableau())
        print(f"Wrote {self.out}")
