"""``ttune evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ttune.commands.device import on_own_device
from ttune.ranks import current

if TYPE_CHECKING:
    from ttune.noise import NoiseSchedule
    from ttune.schedule import Schedule


def evaluate(
    schedules: tyro.conf.Positional[tuple[Path, ...]],
    model: str = "fashion",
    steps: tuple[int, ...] | None = None,
    n: Annotated[int, tyro.conf.arg(aliases=["--samples"])] = 1000,
    chunk: int = 64,
    seed: int = 2**40,
    features: Literal["lenet64", "inception"] = "lenet64",
    inception: Path | None = None,
    teacher: bool = True,
    guidance_scale: float | None = None,
    out: Path | None = None,
    quiet: bool = False,
) -> None:
    """Judge tuned schedules: RMSE and Fréchet distance to the teacher, Fréchet distance to real images.

    Example: ttune evaluate runs/demo/ddim.json runs/demo/dpmpp_2m.json --n 1000 --out evaluation.json

    By several processes or GPUs: torchrun --nproc-per-node 4 -m ttune evaluate … --samples 1000 gives the same table.

    Args:
        schedules: One or more ttune.json files.
        model: As in ttune tune.
        steps: Of files of several schedules, those of these steps; by default all.
        n: Samples (--samples under torchrun, which takes --n for an option of its own).
        chunk: Samples in one network call.
        seed: Sample i has seed SEED + i; the default never meets the x_T of a tuning with seed 0.
        features: lenet64 (bundled, Fashion-MNIST) or inception (clean-fid's weights, not downloaded).
        inception: Path of inception-2015-12-05.pt; by default clean-fid's own place.
        teacher: Also sample the teacher (128 steps) and compare with it.
        guidance_scale: Classifier-free guidance of the bundled model.
        out: Write the table as JSON.
        quiet: No progress bars.
    """
    import ttune
    from ttune.evaluation import inception as inception_features
    from ttune.evaluation import lenet64, lenet64_train_statistics, print_table, write_report
    from ttune.evaluation.judge import Judge
    from ttune.evaluation.statistics import FeatureStatistics
    from ttune.models import load_model
    from ttune.tuning import Teacher
    from ttune.tuning.points import drawn_points
    from ttune.zoo.fashion_mnist import load_test_images, to_unit_range

    if not schedules:
        raise ValueError("schedules must name at least one ttune.json, got none")
    ranks = current()
    denoiser = on_own_device(load_model(model, guidance_scale=guidance_scale), ranks)
    loaded = [named for path in schedules for named in _named_schedules(path, denoiser.noise, steps)]
    extractor = lenet64() if features == "lenet64" else inception_features(inception)
    real = None
    if model == "fashion":
        images = to_unit_range(load_test_images()[0]) if features == "inception" else None
        real = lenet64_train_statistics() if images is None else FeatureStatistics.of_features(extractor(images), extractor.name)
    share = ranks.share(n, chunk)
    share.check("n")
    seeds = share.rows + seed
    x_T, conditions = drawn_points(denoiser, seeds)
    bars = not quiet and ranks.first
    judge = Judge(denoiser, x_T, conditions, extractor, real, chunk=chunk, progress=bars, share=share, seeds=seeds)
    rows = []
    if teacher:
        best = Teacher.default(loaded[0][1])
        source = (best.on_whole_times() if denoiser.integer_time else best).source
        assert isinstance(source, ttune.Schedule)
        row, target = judge.row(f"teacher: 2M, {source.steps} steps", "teacher", source)
        judge = judge.with_teacher(target)
        rows.append(row)
    rows = [judge.row(name, _method_of(s), s)[0] for name, s in loaded] + rows
    if not ranks.first:
        return
    print(print_table(rows))
    if out is not None:
        write_report(out, {"model": model, "rows": rows})
        print(f"Wrote {out}")


def _method_of(schedule: Schedule) -> str:
    """For a table."""
    return f"{schedule.tuned.get('method', 'base')}{', unfinished' if 'unfinished' in schedule.tuned else ''}"


def _named_schedules(path: Path, noise: NoiseSchedule, steps: tuple[int, ...] | None) -> list[tuple[str, Schedule]]:
    """The schedules of a file with names for a table: the file's, and the number of steps where there are several."""
    import ttune

    found = ttune.load_schedules(path, noise=noise)
    for k in steps or ():
        if k not in found:
            raise ValueError(f"{path}: steps must be among {list(found)}, of which there is a schedule in this file, got {k}")
    return [(f"{path}, {k} steps" if len(found) > 1 else str(path), s) for k, s in found.items() if steps is None or k in steps]
