"""``ttune sample``."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ttune.cli.arguments import ModelFlags, Sampler, UntunedFlags, check_counts, check_paths, check_seed, model_of, usable

if TYPE_CHECKING:
    from ttune import Denoiser, Schedule


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Sample images, with a tuned schedule or an untuned one.

    Example: ttune sample --schedule ttune.json --samples 64 --out samples.png

    Example: ttune sample --sampler dpmpp_2m --steps 20 --spacing log_snr --samples 64 --out samples.npz
    """

    out: Path
    """A .png (one picture of all samples) or .npz (array "images", float32, as the model makes them: of a latent model its latents)."""
    schedule: Path | None = None
    """A ttune.json; without one, --sampler, --steps and --spacing make an untuned schedule."""
    model: str | None = None
    """As in ttune tune; by default the bundled one, if the schedule is not another model's."""
    sampler: Sampler | None = None
    """Default ddim; with --schedule it must be the schedule's own."""
    steps: int | None = None
    """Default 50; with --schedule, which of several schedules in the file."""
    samples: int = 64
    """Samples to make."""
    seed: int = 0
    """Sample i has seed SEED + i, however many there are."""
    condition: dict[str, int] | None = None
    """One value for all samples, for example --condition class_label 7."""
    columns: int = 8
    """Images in a row of the picture."""
    batch_size: int = 64
    """Samples in one network call. They are the same for any, up to rounding."""
    backend: str | None = None
    """Kernels to use (see ttune info)."""
    check_model: bool = True
    """Refuse a schedule that was tuned for another model."""
    untuned: UntunedFlags = UntunedFlags()
    loading: ModelFlags = ModelFlags()

    def run(self) -> None:
        self._check()
        denoiser = self.loading.load(model_of(self.model, () if self.schedule is None else (self.schedule,)))
        schedule = self._chosen(denoiser)
        check_picture(self.out, denoiser)
        write_images(self.out, self._images(denoiser, schedule), self.columns)
        print(f"Wrote {self.samples} samples of {schedule.steps} steps to {self.out}")

    def _check(self) -> None:
        """Everything that can be refused before the model is loaded."""
        from ttune.storage.atomic_write import check_writable

        check_paths(out=self.out, schedule=self.schedule, prompts=self.loading.prompts)
        if self.out.suffix not in (".png", ".npz"):
            raise ValueError(f"out must end in .png or .npz, got {str(self.out)!r}")
        check_counts(samples=self.samples, columns=self.columns, batch_size=self.batch_size)
        check_seed(self.seed, samples=self.samples)
        if self.schedule is not None and (changed := self.untuned.changed()):
            raise ValueError(f"{' and '.join(changed)}: for an untuned schedule only, and --schedule names {self.schedule}")
        check_writable(self.out)

    def _chosen(self, denoiser: Denoiser) -> Schedule:
        import ttune

        if self.schedule is None:
            return self.untuned.build(denoiser.noise, self.sampler or "ddim", 50 if self.steps is None else self.steps)
        loaded = ttune.Schedule.load(self.schedule, noise=denoiser.noise, sampler=self.sampler, steps=self.steps)
        return usable(loaded, denoiser, check_model=self.check_model)

    def _images(self, denoiser: Denoiser, schedule: Schedule) -> Tensor:
        """All samples on the CPU, float32: of a latent model decoded, for a picture."""
        from tqdm import tqdm

        from ttune.evaluation.images.decoded import pictures_of

        made, n = [], self.samples
        with tqdm(total=n, desc="sampling", unit="image", disable=n <= self.batch_size) as bar:
            for first in range(0, n, self.batch_size):
                seeds = torch.arange(first, min(first + self.batch_size, n)) + self.seed
                images = _samples(denoiser, schedule, seeds, self.condition or {}, self.backend)
                images = pictures_of(denoiser, images) if self.out.suffix == ".png" else images
                made.append(images.to("cpu", torch.float32, copy=True))
                bar.update(len(seeds))
        return torch.cat(made)


def write_images(out: Path, images: Tensor, columns: int) -> None:
    """One picture of them all, with that many in a row, or an .npz, by the ending of ``out``."""
    from ttune.evaluation import save_grid

    if out.suffix == ".png":
        save_grid(out, images, columns)
    else:
        write_arrays(out, images=images)


def write_arrays(out: Path, **arrays: Tensor) -> None:
    """The .npz ``out``, all at once."""
    import numpy as np

    from ttune.storage.atomic_write import write_atomically

    buffer = io.BytesIO()
    plain: dict[str, Any] = {name: array.numpy() for name, array in arrays.items()}
    np.savez_compressed(buffer, **plain)
    write_atomically(out, buffer.getvalue())


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


def check_picture(out: Path, denoiser: Denoiser) -> None:
    """ValueError before anything is sampled that a picture cannot show."""
    shape = denoiser.sample_shape
    if out.suffix == ".png" and denoiser.decode is None and shape is not None and (len(shape) != 3 or shape[0] not in (1, 3)):
        raise ValueError(f"out: a .png shows samples (1 or 3, H, W), and this model makes {tuple(shape)}; write an .npz")
