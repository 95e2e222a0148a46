"""Tune a diffusers pipeline for a few steps and put pictures of it before and after into one file.

    python examples/diffusers_pipeline.py path/to/folder --steps 5 --out pictures.png
    python examples/diffusers_pipeline.py path/to/sd --steps 5 --guidance-scale 7.5 --prompts "a lighthouse at dusk" "a red bicycle"

The folder is what pipeline.save_pretrained wrote (DDPM, DDIM, DiT, Stable Diffusion, SDXL, SD3; Flux without --guidance-scale).
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro

import ttune
from ttune.evaluation import save_grid


def main(
    model: tyro.conf.Positional[Path],
    out: Path = Path("pictures.png"),
    steps: int = 5,
    sampler: str = "dpmpp_2m",
    guidance_scale: float | None = None,
    prompts: tuple[str, ...] = (),
    samples: int = 128,
    n: int = 8,
) -> None:
    """Rows: untuned on the log-SNR grid, tuned, and 50 steps."""
    device = "cuda" if torch.cuda.is_available() else None
    denoiser = ttune.diffusers.load(model, guidance_scale=guidance_scale, prompts=prompts or None, device=device)
    start = ttune.Schedule.build(denoiser.noise, sampler, steps, "log_snr")
    result = ttune.tune(denoiser, start, samples=samples)
    print(result.summary())
    result.schedule.save(out.with_suffix(".json"))

    assert denoiser.sample_shape is not None
    seeds = torch.arange(n) + 2**40  # no tuning knows them
    x_T = ttune.initial_noise(denoiser.noise, denoiser.sample_shape, seeds).to(device)
    conditions = {} if denoiser.draw_conditions is None else denoiser.draw_conditions(seeds)
    many = ttune.Schedule.build(denoiser.noise, sampler, 50, "log_snr")
    rows = [ttune.sample(denoiser, schedule, x_T, conditions=conditions) for schedule in (start, result.schedule, many)]
    pictures = torch.cat(rows) if denoiser.decode is None else denoiser.decode(torch.cat(rows))
    save_grid(out, pictures, n)
    print(
        f"Wrote {out} and {out.with_suffix('.json')}; in your pipeline: ttune.diffusers.apply(pipeline, {str(out.with_suffix('.json'))!r})"
    )


if __name__ == "__main__":
    tyro.cli(main)
