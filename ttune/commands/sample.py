"""``ttune sample``."""

from __future__ import annotations

from pathlib import Path

import torch

from ttune.commands.arguments import Sampler, Spacing, check_counts, check_paths, check_seed, options_of


def sample(
    out: Path,
    schedule: Path | None = None,
    model: str = "fashion",
    sampler: Sampler | None = None,
    steps: int | None = None,
    spacing: Spacing = "leading",
    option: dict[str, str] | None = None,
    n: int = 64,
    seed: int = 0,
    condition: dict[str, int] | None = None,
    guidance_scale: float | None = None,
    prompts: Path | None = None,
    backend: str | None = None,
    columns: int = 8,
) -> None:
    """Sample images, with a tuned schedule or an untuned grid.

    Example: ttune sample --schedule ttune.json --n 64 --out samples.png

    Args:
        out: A .png (one picture of all samples) or .npz (array "images", float32, as the
            model makes them: of a latent model its latents).
        schedule: A ttune.json. Without one, --sampler, --steps and --spacing make an untuned schedule.
        model: As in ttune tune.
        sampler: Default ddim; with --schedule it must be the schedule's own.
        steps: Default 50; with --schedule, which of several schedules in the file.
        spacing: Untuned only.
        option: Untuned only: the sampler's own options, for example --option eta 0.5 with ddim (see ttune info).
        n: Samples.
        seed: Sample i has seed SEED + i, whatever n is.
        condition: One value for all samples, for example --condition class_label 7.
        guidance_scale: Classifier-free guidance of a bundled or diffusers model.
        prompts: A file with one prompt a line, for a text-conditional diffusers model; sample i has line i modulo their number.
        backend: Kernels to use (see ttune info).
        columns: Images in a row of the picture.
    """
    import numpy as np

    import ttune
    from ttune.atomic import check_writable, write_atomically
    from ttune.evaluation import save_grid
    from ttune.models import load_model
    from ttune.not_finite import stop_unless_finite
    from ttune.sampling import start_state
    from ttune.tuning.points import drawn_points

    check_paths(out=out, schedule=schedule, prompts=prompts)
    if out.suffix not in (".png", ".npz"):
        raise ValueError(f"out must end in .png or .npz, got {str(out)!r}")
    check_counts(n=n, columns=columns)
    check_seed(seed, n=n)
    check_writable(out)
    denoiser = load_model(model, guidance_scale=guidance_scale, prompts=prompts)
    if schedule is not None:
        if option:
            raise ValueError(f"option goes with an untuned schedule, --schedule has its own, got {option}")
        if spacing != "leading":
            raise ValueError(f"spacing goes with an untuned schedule, --schedule has its own positions, got {spacing!r}")
        chosen = ttune.Schedule.load(schedule, noise=denoiser.noise, sampler=sampler, steps=steps)
    else:
        name = sampler or "ddim"
        chosen = ttune.Schedule.build(denoiser.noise, name, 50 if steps is None else steps, spacing, options=options_of(option, name))
    seeds = torch.arange(n) + seed
    x_T, conditions = drawn_points(denoiser, seeds)
    conditions = {**conditions, **{k: torch.full((n,), v, device=x_T.device) for k, v in (condition or {}).items()}}
    try:
        images = ttune.sample(denoiser, chosen, x_T, conditions=conditions, seeds=seeds, backend=backend)
    except IndexError as error:  # of a table of the network's, which alone knows how long it is
        if not condition:
            raise
        raise ValueError(f"condition must be among those that the network has an embedding of, got {condition}: {error}") from error
    stop_unless_finite(images, denoiser, chosen, start_state(chosen, x_T), conditions, seeds)
    if out.suffix == ".png":
        images = images if denoiser.decode is None else denoiser.decode(images)
        save_grid(out, images, columns)
    else:
        import io

        buffer = io.BytesIO()
        np.savez_compressed(buffer, images=images.float().cpu().numpy())
        write_atomically(out, buffer.getvalue())
    print(f"Wrote {n} samples of {chosen.steps} steps to {out}")
