"""Samples of several schedules from the same starting points, a chunk at a time; only their features and errors stay."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ttune.distributed import ALONE, Ranks
from ttune.evaluation.features.extractor import FeatureExtractor
from ttune.evaluation.images.decoded import decoder_identity, decoder_modules, pictures_of
from ttune.evaluation.images.image_source import write_png
from ttune.evaluation.score import squared_errors
from ttune.network.conditions import digest
from ttune.network.denoiser import Conditions, Denoiser
from ttune.sampling.nonfinite import stop_unless_finite
from ttune.sampling.sample import sample, start_state
from ttune.schedule.schedule import Schedule
from ttune.storage.atomic_write import check_writable, write_atomically
from ttune.storage.chunk_folder import ChunkFolder
from ttune.storage.results import key_of
from ttune.version import __version__

FORMAT = 2  # of the chunks; another number finds nothing of the old
# How far, of the largest feature, a sample made once more may be off: other batch sizes and threads change rounding.
SAME = 1e-3  # float32: some 1e-6 on a CPU; a network that predicts .3 % less is further off
SAME_IN_TF32 = 1e-2  # what GPUs make of float32 where they may: 10 bits instead of 23
SAME_IN_HALF = 5e-2  # float16 and bfloat16
Points = Callable[[Tensor], tuple[Tensor, Conditions]]  # seeds (b,) -> x_T (b, ...) and conditions


@dataclass(frozen=True)
class Candidate:
    """A schedule to be judged, and how a table calls it."""

    name: str
    method: str
    schedule: Schedule


@dataclass(frozen=True)
class CachedSamples:
    """Samples 0 ... n - 1, sample i from seed ``seed`` + i, ``batch_size`` in one network call; kept in ``work``.

    A chunk of a schedule is a file there with the features, the squared errors to the teacher's sample from the same x_T, seconds,
    evaluations, and a digest of its x_T and conditions: where these are others now, it is made anew. Its folder is named by what else
    determines it: schedule, denoiser, decoder, features, teacher, seed, chunk. So an interrupted run goes on, more samples or other
    metrics cost only what is new, and a change of any of these begins anew. Of plain functions, as network or features, only the name is
    known: so the first sample that is kept of every schedule, the teacher too, is made once more, and what differs is refused.

    Of a model with a decoder, features, PSNR and images are of the decoded pictures; the squared errors are of the sampler's own samples.

    Attributes:
        points: x_T and conditions of seeds (b,); each sample's must depend on its own seed alone.
        teacher: a schedule whose samples the others' are compared with.
        images: where every sample is written as a PNG too, or None.
        ranks: share the chunks that are missing; all must see ``work``.
    """

    denoiser: Denoiser
    points: Points
    features: FeatureExtractor
    n: int
    batch_size: int
    seed: int
    work: Path
    teacher: Candidate | None = None
    images: Path | None = None
    ranks: Ranks = ALONE
    progress: bool = True

    def __post_init__(self) -> None:
        if self.n < 2 or self.batch_size < 1:
            raise ValueError(f"samples must be at least 2 and batch_size at least 1, got {self.n} and {self.batch_size}")

    def folder(self, candidate: Candidate) -> ChunkFolder:
        """Where the chunks of ``candidate`` are."""
        return ChunkFolder(self.work / _name(candidate.schedule, self.identity(candidate)), self.n, self.batch_size)

    def identity(self, candidate: Candidate) -> dict[str, Any]:
        """All that the kept figures of ``candidate`` depend on."""
        teacher = None if self.teacher is None or candidate is self.teacher else self.teacher.schedule.settings()
        return {
            "format": FORMAT,
            "ttune": __version__,
            "noise": self.denoiser.noise.to_dict(),
            "schedule": candidate.schedule.settings(),
            "teacher": teacher,
            "features": [self.features.name, self.features.digest, self.features.batch],
            "seed": self.seed,
            "batch_size": self.batch_size,
            **self._shared_identity,
        }

    @cached_property
    def _shared_identity(self) -> dict[str, Any]:
        first = digest(*self.points(torch.tensor([self.seed])))
        decoder = decoder_identity(self.denoiser)
        return {"denoiser": self.denoiser.identity(), "weights": self.denoiser.weights_digest(), "decoder": decoder, "first_point": first}

    def make(self, candidates: Sequence[Candidate]) -> None:
        """Sample what is missing; returns when every rank has done its part."""
        work = [*([] if self.teacher is None else [self.teacher]), *candidates]
        folders = [self.folder(candidate) for candidate in work]
        missing = self.ranks.from_first(lambda: self._prepared(work, folders))
        mine = missing[self.ranks.rank :: self.ranks.world]
        for k in tqdm(mine, desc="sampling", unit="chunk", disable=not (self.progress and self.ranks.first), leave=False):
            self._chunk(k, work, folders)
        self.ranks.everyones(None)

    def _prepared(self, work: Sequence[Candidate], folders: Sequence[ChunkFolder]) -> list[int]:
        """The chunks that some schedule lacks; and what each folder is about, for a later reader."""
        if self.images is not None:
            for folder in folders:
                check_writable(self._image(folder, 0))  # which makes the folder
        points = [self._points_of_stored(k, folders) for k in range(len(folders[0]))]
        for candidate, folder in zip(work, folders, strict=True):
            self._check_same(candidate, folder, points)
            identity = folder.path / "identity.json"
            if not identity.exists():
                write_atomically(identity, msgspec.json.format(msgspec.json.encode(self.identity(candidate)), indent=1))
        return [k for k, made_of in enumerate(points) if not all(self._done(k, folder, made_of) for folder in folders)]

    def _points_of_stored(self, k: int, folders: Sequence[ChunkFolder]) -> str:
        """The digest of chunk ``k``'s starting points as they are now; empty, and not computed, where nothing of it is kept."""
        if not any(folder.has(k) for folder in folders):
            return ""
        rows = folders[0].rows(k)
        return digest(*self.points(torch.arange(rows.start, rows.stop) + self.seed))

    def _check_same(self, candidate: Candidate, folder: ChunkFolder, points: Sequence[str]) -> None:
        """The first sample that is kept, made once more: that of chunk 0, or of a later one where the rank that had it was killed."""
        k = next((k for k, made_of in enumerate(points) if folder.has(k, made_of)), None)
        if k is None:
            return
        i = folder.rows(k).start
        seeds = torch.tensor([self.seed + i])
        x_T, conditions = self.points(seeds)
        x = sample(self.denoiser, candidate.schedule, x_T, conditions=conditions, seeds=seeds)
        now = self.features(pictures_of(self.denoiser, x)).numpy()
        stored = folder.read(k, "features")[:1]
        if stored.shape != now.shape or not np.abs(stored - now).max() <= _tolerance(self.denoiser, x_T) * np.abs(stored).max():
            raise ValueError(
                f"work: {folder.path} was made by another network or other features of the same name: sample {i} is not what it was; "
                f"name another folder, or remove this one"
            )

    def _done(self, k: int, folder: ChunkFolder, points: str) -> bool:
        rows = folder.rows(k)
        return folder.has(k, points) and (self.images is None or all(self._image(folder, i).exists() for i in range(rows.start, rows.stop)))

    def _chunk(self, k: int, work: Sequence[Candidate], folders: Sequence[ChunkFolder]) -> None:
        """Chunk ``k`` of every schedule that lacks it, and of the teacher, with which they are compared."""
        rows = folders[0].rows(k)
        seeds = torch.arange(rows.start, rows.stop) + self.seed
        x_T, conditions = self.points(seeds)
        made_of = digest(x_T, conditions)
        target: tuple[Tensor, Tensor] | None = None
        for candidate, folder in zip(work, folders, strict=True):
            is_teacher = candidate is self.teacher
            if self._done(k, folder, made_of) and not is_teacher:
                continue
            begin, before = time.monotonic(), self.denoiser.evaluations
            x = sample(self.denoiser, candidate.schedule, x_T, conditions=conditions, seeds=seeds)
            try:  # and a GPU is done then, which the seconds must wait for
                stop_unless_finite(x, self.denoiser, candidate.schedule, start_state(candidate.schedule, x_T), conditions, seeds)
            except FloatingPointError as error:
                named = f"{candidate.name}: samples of seeds {seeds[0]} to {seeds[-1]} hold NaN or infinity"
                raise FloatingPointError(f"{named} ({error}); the chunks before are kept") from None
            cost = np.array([[time.monotonic() - begin, self.denoiser.evaluations - before]], np.float64)
            made = x, pictures_of(self.denoiser, x)
            target = made if is_teacher else target
            if not self._done(k, folder, made_of):
                self._write_images(folder, rows, made[1])
                record = {"features": self.features(made[1]).numpy().astype(np.float32), "cost": cost, **_errors(made, target)}
                folder.write(k, record, made_of)

    def _images_folder(self, folder: ChunkFolder) -> Path:
        assert self.images is not None
        return self.images / folder.path.name

    def _image(self, folder: ChunkFolder, i: int) -> Path:
        return self._images_folder(folder) / f"{i:06}.png"

    def _write_images(self, folder: ChunkFolder, rows: slice, x: Tensor) -> None:
        if self.images is None:
            return
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"save_images: samples must be (1 or 3, H, W) to be pictures, got {tuple(x.shape[1:])}")
        for i, image in zip(range(rows.start, rows.stop), x, strict=True):
            write_png(self._image(folder, i), image)


def _tolerance(denoiser: Denoiser, x: Tensor) -> float:
    """By the coarsest numbers in sight: those of the state, or of the weights."""
    modules = [*denoiser.modules(), *decoder_modules(denoiser)]
    kinds = {x.dtype, *(p.dtype for module in modules for p in module.parameters() if p.is_floating_point())}
    if not kinds <= {torch.float32, torch.float64}:
        return SAME_IN_HALF
    tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return SAME_IN_TF32 if x.is_cuda and tf32 and kinds != {torch.float64} else SAME


def _errors(made: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor] | None) -> Mapping[str, Any]:
    """Mean squared differences of each sample as the sampler made it, and of its picture, clamped to [-1, 1]."""
    if target is None:
        return {}
    (x, picture), (y, other) = made, target
    return {
        "squared_error": squared_errors(x.cpu(), y.cpu()),
        "clamped_squared_error": squared_errors(*(p.cpu().double().clamp(-1, 1) for p in (picture, other))),
    }


def _name(schedule: Schedule, identity: Mapping[str, Any]) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", f"{schedule.sampler}-{schedule.steps}-{key_of(identity)[:24]}")
