"""``ttune invert``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ttune.cli.arguments import ModelFlags, Sampler, UntunedFlags, check_counts, check_paths, check_seed, model_of, usable
from ttune.cli.sample import check_picture, write_arrays, write_images

if TYPE_CHECKING:
    from ttune import Denoiser, Inverted, Schedule


@dataclass(frozen=True, kw_only=True)
class Invert:
    """Find the x_T that a schedule makes images of; sample back from it under other conditions, to edit them.

    Example: ttune invert --images photos --steps 50 --spacing trailing --out x_T.npz --edited again.png

    Example: ttune invert --images photos --condition class_label 7 --out x_T.npz --edited edited.png --edited-condition class_label 2
    """

    images: Path
    """A folder of image files, or an .npz or .npy; of a latent model the latents, as ttune sample writes them to an .npz."""
    out: Path
    """An .npz: x_T, and of the exact samplers "second", the state at the schedule's second time (ttune.Inverted takes both)."""
    edited: Path | None = None
    """A .png or .npz: the images sampled back from what was found."""
    schedule: Path | None = None
    """A ttune.json; without one, --sampler, --steps and --spacing make an untuned schedule."""
    model: str | None = None
    """As in ttune tune; by default the bundled one, if the schedule is not another model's."""
    sampler: Sampler | None = None
    """Default belm; with --schedule it must be the schedule's own. belm and bdia are exact."""
    steps: int | None = None
    """Default 50; with --schedule, which of several schedules in the file."""
    method: Literal["ddim", "bdia", "belm"] | None = None
    """Default: the sampler's own. ddim is an approximation, for other samplers without noise too."""
    condition: dict[str, int] | None = None
    """One value for all images, for example --condition class_label 7."""
    edited_condition: dict[str, int] | None = None
    """The same for --edited; what it does not name stays."""
    seed: int = 0
    """Image i has the conditions of seed SEED + i, as a sample has, where none are given."""
    columns: int = 8
    """Images in a row of the picture."""
    batch_size: int = 64
    """Images in one network call."""
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
        if self.edited is not None:
            check_picture(self.edited, denoiser)
        images = _read(self.images, denoiser)
        found: list[Inverted] = []
        edited: list[Tensor] = []
        for first in range(0, len(images), self.batch_size):
            inverted, conditions = self._inverted(denoiser, schedule, images[first : first + self.batch_size], first)
            found.append(inverted)
            if self.edited is not None:
                again = inverted.sample(conditions={**conditions, **_for_all(self.edited_condition, inverted.x_T)}, backend=self.backend)
                edited.append(_shown(denoiser, again, self.edited))
        states = {"x_T": [part.x_T for part in found], "second": [part.second for part in found if part.second is not None]}
        write_arrays(self.out, **{name: torch.cat(parts).cpu() for name, parts in states.items() if parts})
        print(f"Wrote x_T of {len(images)} images, {schedule.steps} steps of {schedule.sampler}, to {self.out}")
        if self.edited is not None:
            write_images(self.edited, torch.cat(edited), self.columns)
            print(f"Wrote the images that it leads back to, to {self.edited}")

    def _check(self) -> None:
        """Everything that can be refused before the model is loaded."""
        from ttune.storage.atomic_write import check_writable

        check_paths(images=self.images, out=self.out, edited=self.edited, schedule=self.schedule, prompts=self.loading.prompts)
        if not self.images.exists():
            raise FileNotFoundError(f"images: {self.images} does not exist")
        if self.out.suffix != ".npz":
            raise ValueError(f"out must end in .npz, got {str(self.out)!r}")
        if self.edited is not None and self.edited.suffix not in (".png", ".npz"):
            raise ValueError(f"edited must end in .png or .npz, got {str(self.edited)!r}")
        if self.edited is None and self.edited_condition:
            raise ValueError(f"edited_condition is of the images that --edited writes; name a file there, got {self.edited_condition}")
        check_counts(columns=self.columns, batch_size=self.batch_size)
        if self.schedule is not None and (changed := self.untuned.changed()):
            raise ValueError(f"{' and '.join(changed)}: for an untuned schedule only, and --schedule names {self.schedule}")
        for path in (self.out, self.edited):
            if path is not None:
                check_writable(path)

    def _chosen(self, denoiser: Denoiser) -> Schedule:
        import ttune

        if self.schedule is None:
            return self.untuned.build(denoiser.noise, self.sampler or "belm", 50 if self.steps is None else self.steps)
        loaded = ttune.Schedule.load(self.schedule, noise=denoiser.noise, sampler=self.sampler, steps=self.steps)
        return usable(loaded, denoiser, check_model=self.check_model)

    def _inverted(self, denoiser: Denoiser, schedule: Schedule, images: Tensor, first: int) -> tuple[Inverted, Mapping[str, object]]:
        """What was found for ``images``, which begin with number ``first``, and their conditions."""
        import ttune
        from ttune.tuning.starting_points import drawn_points

        check_seed(self.seed, images=first + len(images))
        x_T, drawn = drawn_points(denoiser, torch.arange(first, first + len(images)) + self.seed, images.shape[1:])
        conditions = {**drawn, **_for_all(self.condition, x_T)}
        x_0 = images.to(x_T.device, x_T.dtype)
        return ttune.invert(denoiser, schedule, x_0, conditions=conditions, method=self.method, backend=self.backend), conditions


def _for_all(condition: Mapping[str, int] | None, x: Tensor) -> dict[str, Tensor]:
    return {name: torch.full((len(x),), value, device=x.device) for name, value in (condition or {}).items()}


def _shown(denoiser: Denoiser, images: Tensor, out: Path) -> Tensor:
    """On the CPU, float32: of a latent model decoded, for a picture."""
    from ttune.evaluation.images.decoded import pictures_of

    return (pictures_of(denoiser, images) if out.suffix == ".png" else images).to("cpu", torch.float32, copy=True)


def _read(path: Path, denoiser: Denoiser) -> Tensor:
    """(n, ...) float32: the images of ``path``, of the shape that the model makes."""
    import numpy as np

    from ttune.evaluation.images.arrays import is_zip, read_npz
    from ttune.evaluation.images.image_source import MOST, open_pictures

    shape = denoiser.sample_shape
    try:
        array = read_npz(path, ["images"], MOST)[0].get("images") if path.is_file() and is_zip(path) else None
        if array is not None and np.issubdtype(array.dtype, np.floating):  # as ttune sample writes them, in no range
            parts = [torch.from_numpy(np.asarray(array, np.float32))]
        else:
            pictures = open_pictures(path, None if shape is None else shape[0])
            parts = list(pictures.read(range(len(pictures))))
    except (ValueError, ModuleNotFoundError) as error:  # which speaks of the reference that these readers were made for
        raise ValueError(str(error).replace("reference: ", "images: ", 1)) from error
    shapes = sorted({tuple(part.shape[1:]) for part in parts})
    if len(shapes) != 1 or (shape is not None and shapes != [tuple(shape)]):
        wanted = "one shape" if shape is None else f"the shape {tuple(shape)} that the model makes"
        raise ValueError(f"images must be of {wanted}, got {' and '.join(map(str, shapes)) or 'none'}")
    return torch.cat(parts)
