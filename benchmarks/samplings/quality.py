"""What a step budget buys on the bundled model: RMSE and Fréchet distance to the teacher's samples from the same x_T."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

import ttune
from benchmarks.result_paths import RESULTS, ROOT
from ttune import zoo
from ttune.evaluation import lenet64, lenet64_train_statistics
from ttune.evaluation.features.feature_statistics import FeatureStatistics
from ttune.evaluation.judge import CandidateMetrics
from ttune.evaluation.metrics.frechet import frechet_standard_error, rmse_to
from ttune.tuning import Teacher
from ttune.tuning.starting_points import drawn_points

SEEDS = 2**41  # no tuning's x_T
SAMPLERS = ("ddim", "dpmpp_2m")
TUNED = ROOT / "gallery"
BEST = RESULTS / "compare-fashion.json"


def measure(samples: int, steps: Sequence[int], device: torch.device) -> list[dict[str, Any]]:
    """A row per sampler and budget on its untuned grid, and per tuned schedule that ttune brings along."""
    denoiser = zoo.load("fashion")
    for module in denoiser.modules():
        module.to(device)
    x_T, conditions = drawn_points(denoiser, torch.arange(samples) + SEEDS)
    judge = CandidateMetrics(denoiser, x_T, conditions, lenet64(), lenet64_train_statistics(), progress=False)
    schedules = [
        (f"untuned, {spacing}", ttune.Schedule.build(denoiser.noise, sampler, k, spacing))
        for sampler, spacing in (("ddim", "leading"), ("dpmpp_2m", "linspace"))
        for k in steps
    ]
    schedules += [("untuned, best grid", schedule) for schedule in best_grids(denoiser)]
    schedules += tuned(denoiser)
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


def best_grids(denoiser: ttune.Denoiser) -> list[ttune.Schedule]:
    """Of DDIM and 2M per budget, the untuned grid and starting time of the least RMSE on the tuning x_T of ``python -m benchmarks
    compare``, where its result is in the tree."""
    if not BEST.exists():
        return []
    curve = json.loads(BEST.read_text())["untuned_curve"]
    return [
        ttune.Schedule.build(denoiser.noise, row["sampler"], row["steps"], row["best untuned grid"]["times"])
        for row in curve
        if row["sampler"] in SAMPLERS
    ]


def tuned(denoiser: ttune.Denoiser) -> list[tuple[str, ttune.Schedule]]:
    """The tuned schedules of DDIM and 2M for the bundled model that are in the gallery, by what was tuned."""
    found: dict[tuple[str, str, int], ttune.Schedule] = {}
    for path in sorted(TUNED.rglob("*.json")) if TUNED.is_dir() else ():
        for schedule in ttune.load_schedules(path).values():
            fits = not denoiser.differences(schedule.model) and schedule.noise == denoiser.noise and schedule.sampler in SAMPLERS
            if fits and schedule.outcome == "tuned" and schedule.tuned.get("method") == "endpoint":
                label = "tuned" if schedule.coefficients is None else "tuned, coefficients too"
                found[label, schedule.sampler, schedule.steps] = schedule
    return [(label, found[label, sampler, k]) for label, sampler, k in sorted(found)]
