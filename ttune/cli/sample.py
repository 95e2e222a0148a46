"""``ttune sample``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ttune.cli.arguments import (
    ModelFlags,
    Sampler,
    UntunedFlags,
    check_counts,
    check_paths,
    check_seed,
    model_of,
    usable,
)

if TYPE_CHECKING:
    from ttune import Denoiser, Schedule


def sample(
    out: Path,
    schedule: Path | None = None,
    model: str | None = None,
    sampler: Sampler | None = None,
    steps: int | None = None,
    n: int = 64,
    seed: int = 0,
    condition: dict[str, int] | None = None,
    check_model: bool = True,
    untuned: UntunedFlags = UntunedFlags(),  # noqa: B008 (frozen)
    loading: ModelFlags = ModelFlags(),  # noqa: B008 (frozen)
    backend: str | None = None,
    columns: int = 8,
    batch_size: int = 64,
) -> None:
    """Sample images, with a tuned schedule or an untuned grid.

    Example: ttune sample --schedule ttune.json --n 64 --out samples.png

    Args:
        out: A .png (one picture of all samples) or .npz (array "images", float32, as the
            model makes them: of a latent model its latents).
        schedule: A ttune.json. Without one, --sampler, --steps and --spacing make an untuned schedule.
        model: As in ttune tune; by default the bundled one, if the schedules are not another model's.
        sampler: Default ddim; with --schedule it must be the schedule's own.
        steps: Default 50; with --schedule, which of several schedules in the file.
        n: Samples.
        seed: Sample i has seed SEED + i, whatever n is.
        condition: One value for all samples, for example --condition class_label 7.
        check_model: Refuse a schedule that was tuned for another model.
        untuned: The schedule, where none is given.
        loading: How the model is loaded.
        backend: Kernels to use (see ttune info).
        columns: Images in a row of the picture.
        batch_size: Samples in one call of the network. They are the same for any, up to rounding.
    """
    import numpy as np
    from tqdm import tqdm

    import ttune
    from ttune.evaluation import save_grid
    from ttune.evaluation.images.decoded import pictures_of
    from ttune.storage.atomic_write import check_writable, write_atomically

    check_paths(out=out, schedule=schedule, prompts=loading.prompts)
    if out.suffix not in (".png", ".npz"):
        raise ValueError(f"out must end in .png or .npz, got {str(out)!r}")
    check_counts(n=n, columns=columns, batch_size=batch_size)
    check_seed(seed, n=n)
    check_writable(out)
    model = model_of(model, () if schedule is None else (schedule,))
    denoiser = loading.load(model)
    if schedule is not None:
        if changed := untuned.changed():
            raise ValueError(f"{' and '.join(changed)}: for an untuned schedule, and --schedule {schedule} is one already")
        chosen = ttune.Schedule.load(schedule, noise=denoiser.noise, sampler=sampler, steps=steps)
        chosen = usable(chosen, denoiser, check_model=check_model)
    else:
        chosen = untuned.build(denoiser.noise, sampler or "ddim", 50 if steps is None else steps)
    _check_picture(out, denoiser)
    made = []
    with tqdm(total=n, desc="sampling", unit="image", disable=n <= batch_size) as bar:
        for first in range(0, n, batch_size):
            seeds = torch.arange(first, min(first + batch_size, n)) + seed
            images = _samples(denoiser, chosen, seeds, condition or {}, backend)
            images = pictures_of(denoiser, images) if out.suffix == ".png" else images
            made.append(images.to("cpu", torch.float32, copy=True))
            bar.update(len(seeds))
    images = torch.cat(made)
    if out.suffix == ".png":
        save_grid(out, images, columns)
    else:
        import io

        buffer = io.BytesIO()
        np.savez_compressed(buffer, images=images.numpy())
        write_atomically(out, buffer.getvalue())
    print(f"Wrote {n} samples of {chosen.steps} steps to {out}")


def _samples(denoiser: Denoiser, schedule: Schedule, seeds: Tensor, condition: Mapping[str, int], backend: str | None) -> Tensor:
    """x_0 of these seeds, all finite."""
    import ttune
    from ttune.sampling.nonfinite import stop_unless_finite
    from ttune.sampling.sample import start_state
    from ttune.tuning.starting_points import drawn_points

    x_T, drawn = drawn_points(denoiser, seeds)
    conditions = {**drawn, **{k: torch.full((len(seeds),), v, device=x_T.device) for k, v in condition.items()}}
    try:
        x_0 = ttune.sample(denoiser, schedule, x_T, conditions=conditions, seeds=seeds, backend=backend)
    except IndexError as error:  # of a table of the network's, which alone knows how long it is
        if not condition:
            raise
        raise ValueError(f"condition must be among those that the network has an embedding of, got {dict(condition)}: {error}") from error
    return stop_unless_finite(x_0, denoiser, schedule, start_state(schedule, x_T), conditions, seeds)


def _check_picture(out: Path, denoiser: Denoiser) -> None:
    """ValueError before anything is sampled that a picture cannot show."""
    shape = denoiser.sample_shape
    if out.suffix == ".png" and denoiser.decode is None and shape is not None and (len(shape) != 3 or shape[0] not in (1, 3)):
        raise ValueError(f"out: a .png shows samples (1 or 3, H, W), and this model makes {tuple(shape)}; write an .npz")
