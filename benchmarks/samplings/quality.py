"""What a step budget gives on the bundled model: RMSE and Fréchet distance to the teacher's samples from the same x_T."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

import ttune
from benchmarks.result_paths import ROOT, read_result
from benchmarks.samplings.setting import SAMPLERS
from ttune import zoo
from ttune.evaluation import lenet64, lenet64_train_statistics
from ttune.evaluation.features.feature_statistics import FeatureStatistics
from ttune.evaluation.judge import CandidateMetrics
from ttune.evaluation.metrics.frechet import frechet_standard_error, rmse_to
from ttune.tuning import Teacher
from ttune.tuning.starting_points import drawn_points

SEEDS = 2**41  # no tuning's x_T
TUNED = ROOT / "gallery"
Labelled = list[tuple[str, ttune.Schedule]]


def measure(samples: int, steps: Sequence[int], device: torch.device) -> list[dict[str, Any]]:
    """A row per sampler and budget on its untuned grid, and per tuned schedule that ttune brings along."""
    denoiser = zoo.load("fashion")
    for module in denoiser.modules():
        module.to(device)
    x_T, conditions = drawn_points(denoiser, torch.arange(samples) + SEEDS)
    judge = CandidateMetrics(denoiser, x_T, conditions, lenet64(), lenet64_train_statistics(), progress=False)
    schedules = [*_default_grids(denoiser, steps), *_best_grids(denoiser), *_tuned(denoiser)]
    teacher = Teacher.default(schedules[0][1]).source
    assert isinstance(teacher, ttune.Schedule)
    target = judge.samples(teacher, "teacher")
    judge = judge.with_teacher(target)
    of_teacher = FeatureStatistics.of_features(judge.features(target), judge.features.name)
    rows = []
    for label, schedule in tqdm(schedules, desc="quality", disable=not sys.stderr.isatty()):
        row, x = judge.row(label, label, schedule)
        frechet, squared = row.get("frechet"), rmse_to(x, target).square()
        assert frechet is not None
        rmse = float(squared.mean().sqrt())
        rows.append(
            {
                "label": label,
                "sampler": schedule.sampler,
                "steps": schedule.steps,
                "rmse": rmse,
                "rmse_error": float(squared.std()) / (2 * rmse * samples**0.5),
                "frechet_to_teacher": row.get("frechet_to_teacher"),
                "frechet_to_teacher_error": frechet_standard_error(judge.features(x), of_teacher),
                "frechet_to_real": frechet["value"],
                "frechet_to_real_error": frechet.get("standard_error"),
                "features": judge.features.name,
                "n": samples,
            }
        )
    return rows


def _default_grids(denoiser: ttune.Denoiser, steps: Sequence[int]) -> Labelled:
    """Those that diffusers takes by default."""
    spacings = (("ddim", "leading"), ("dpmpp_2m", "linspace"))
    return [(f"untuned, {grid}", ttune.Schedule.build(denoiser.noise, sampler, k, grid)) for sampler, grid in spacings for k in steps]


def _best_grids(denoiser: ttune.Denoiser) -> Labelled:
    """Of DDIM and 2M per budget, the untuned grid and starting time of the least RMSE on the tuning x_T of ``python -m benchmarks
    compare``, where its result is in the tree."""
    rows = [row for row in read_result("compare-fashion.json").get("untuned_curve", ()) if row["sampler"] in SAMPLERS]
    build = lambda row: ttune.Schedule.build(denoiser.noise, row["sampler"], row["steps"], row["best untuned grid"]["times"])  # noqa: E731
    return [("untuned, best grid", build(row)) for row in rows]


def _tuned(denoiser: ttune.Denoiser) -> Labelled:
    """The tuned schedules of DDIM and 2M for the bundled model that are in the gallery, by what was tuned."""
    found: dict[tuple[str, str, int], ttune.Schedule] = {}
    for path in sorted(TUNED.rglob("*.json")) if TUNED.is_dir() else ():
        for schedule in ttune.load_schedules(path).values():
            fits = not denoiser.differences(schedule.model) and schedule.noise == denoiser.noise and schedule.sampler in SAMPLERS
            if fits and schedule.outcome == "tuned" and schedule.tuned.get("method") == "endpoint":
                label = "tuned" if schedule.coefficients is None else "tuned, coefficients too"
                found[label, schedule.sampler, schedule.steps] = schedule
    return [(label, found[label, sampler, k]) for label, sampler, k in sorted(found)]
