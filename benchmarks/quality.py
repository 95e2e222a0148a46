"""What a step budget buys on the bundled model: RMSE and Fréchet distance to the teacher's samples from the same x_T."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import ttune
from ttune import zoo
from ttune.evaluation import lenet64, lenet64_train_statistics
from ttune.evaluation.judge import Judge
from ttune.tuning import Teacher
from ttune.tuning.points import drawn_points

SEEDS = 2**41  # no tuning's x_T
SAMPLERS = ("ddim", "dpmpp_2m")
TUNED = Path(__file__).resolve().parents[1] / "gallery"


def measure(samples: int, steps: Sequence[int], device: torch.device) -> list[dict[str, Any]]:
    """A row per sampler and budget on its untuned grid, and per tuned schedule that ttune brings along."""
    denoiser = zoo.load("fashion")
    for module in denoiser.modules():
        module.to(device)
    x_T, conditions = drawn_points(denoiser, torch.arange(samples) + SEEDS)
    judge = Judge(denoiser, x_T, conditions, lenet64(), lenet64_train_statistics(), progress=False)
    schedules = [
        (f"untuned, {spacing}", ttune.Schedule.build(denoiser.noise, sampler, k, spacing))
        for sampler, spacing in (("ddim", "leading"), ("dpmpp_2m", "linspace"))
        for k in steps
    ]
    schedules += [("tuned", schedule) for schedule in tuned(denoiser)]
    teacher = Teacher.default(schedules[0][1]).source
    assert isinstance(teacher, ttune.Schedule)
    judge = judge.with_teacher(judge.samples(teacher, "teacher"))
    rows = []
    for label, schedule in schedules:
        row, _ = judge.row(label, label, schedule)
        frechet = row["frechet"]
        rows.append(
            {
                "label": label,
                "sampler": schedule.sampler,
                "steps": schedule.steps,
                "rmse": row["rmse_to_teacher"],
                "frechet_to_teacher": row["frechet_to_teacher"],
                "frechet_to_real": frechet and frechet["value"],
                "features": judge.features.name,
                "n": samples,
            }
        )
    return rows


def tuned(denoiser: ttune.Denoiser) -> list[ttune.Schedule]:
    """The tuned schedules of DDIM and 2M for the bundled model that are in the tree, the largest budget last; one per budget."""
    found = [zoo.schedule(name) for name in ("ddim_5", "dpmpp_2m_5")]
    for path in sorted(TUNED.rglob("*.json")) if TUNED.is_dir() else ():
        for schedule in ttune.load_schedules(path).values():
            if not denoiser.differences(schedule.model) and schedule.noise == denoiser.noise and schedule.sampler in SAMPLERS:
                found.append(schedule)
    one_each = {(s.sampler, s.steps): s for s in found if s.tuned.get("method") == "endpoint"}
    return [one_each[key] for key in sorted(one_each)]
