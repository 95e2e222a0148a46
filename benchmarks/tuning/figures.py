"""What tuning buys on the bundled model: ttune against the best untuned grid and t_0 of the same sampler.

    make figures                                  # all budgets; resumable
    python -m benchmarks figures --steps 5        # one budget

For every sampler and step budget: RMSE to the teacher with a paired 95 % interval of the ratio, Fréchet distance
(LeNet-64) to the teacher's samples and to real images, all on held-out x_T that no tuning saw. The best grid is
picked on tuning x_T, as a user would.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors.torch
import torch
import tyro

import ttune
from benchmarks.machine import command, machine
from benchmarks.result_paths import is_part, result_path
from ttune import zoo
from ttune.evaluation import frechet_distance, lenet64, lenet64_train_statistics, paired_interval, rmse_to
from ttune.evaluation.judge import CandidateMetrics
from ttune.evaluation.table import write_report
from ttune.storage.atomic_write import write_atomically
from ttune.tuning import Teacher
from ttune.tuning.starting_points import drawn_points

TEST_SEEDS = 2**41
SPLITS = 50  # bootstrap resamples of the paired Fréchet difference


@dataclass
class FiguresOptions:
    """Tune DDIM and 2M at several budgets and compare with the best untuned grid on held-out x_T."""

    steps: tuple[int, ...] = (3, 4, 5, 6, 8, 10)
    samplers: tuple[str, ...] = ("ddim", "dpmpp_2m")
    test_samples: int = 1000
    """x_T that the figures are measured on."""
    tuning: int = 128
    """x_T that schedules are tuned on."""
    progress: bool = True
    work: Path = Path("runs/figures")
    """Finished cells and checkpoints; an interrupted run goes on from here."""
    out: Path | None = None
    """By default benchmarks/results/figures.json; build/figures.json where budgets, samplers or x_T are not the default."""


def main(argv: Sequence[str] | None = None) -> None:
    args = tyro.cli(FiguresOptions, args=argv, prog="python -m benchmarks figures", description=__doc__)
    out = args.out or result_path("figures.json", is_part(args))
    report = {"command": command("figures", argv), "machine": machine()}
    args.work.mkdir(parents=True, exist_ok=True)
    denoiser = zoo.load("fashion")
    teacher = Teacher.default(ttune.Schedule.build(denoiser.noise, "ddim", 5), remember=True)
    assert isinstance(teacher.source, ttune.Schedule)
    x_T, conditions = drawn_points(denoiser, torch.arange(args.test_samples) + TEST_SEEDS)
    judge = CandidateMetrics(denoiser, x_T, conditions, lenet64(), lenet64_train_statistics(), progress=args.progress)
    target = _teacher_samples(args, judge, teacher.source)
    judge = judge.with_teacher(target)
    teacher_row = judge.row_of("teacher", "teacher", teacher.source, target, seconds=0.0, evaluations=teacher.source.steps)
    print(f"teacher: Fréchet distance to real images {_frechet(teacher_row)}")
    cells: list[dict[str, Any]] = []
    print(_header())
    for steps in args.steps:
        for sampler in args.samplers:
            cell = _remembered(args, judge, teacher, sampler, steps)
            cells.append(cell)
            print(_line(cell), flush=True)
    write_report(out, report | {"teacher": teacher_row, "cells": cells})
    print(f"Wrote {out}")


def _teacher_samples(args: FiguresOptions, judge: CandidateMetrics, schedule: ttune.Schedule) -> torch.Tensor:
    """The teacher's samples from the held-out x_T, kept in the work folder."""
    path = args.work / f"teacher-{args.test_samples}.safetensors"
    if not path.exists():
        write_atomically(path, safetensors.torch.save({"x_0": judge.samples(schedule, "teacher, held-out x_T")}))
    return safetensors.torch.load_file(path)["x_0"]


def _remembered(args: FiguresOptions, judge: CandidateMetrics, teacher: Teacher, sampler: str, steps: int) -> dict[str, Any]:
    path = args.work / f"{sampler}-{steps}-{args.test_samples}-{args.tuning}.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    cell = _cell(args, judge, teacher, sampler, steps)
    write_atomically(path, msgspec.json.encode(cell))
    return cell


def _cell(args: FiguresOptions, judge: CandidateMetrics, teacher: Teacher, sampler: str, steps: int) -> dict[str, Any]:
    start = ttune.Schedule.build(judge.denoiser.noise, sampler, steps, "leading")
    begin = time.monotonic()
    checkpoint = args.work / f"{sampler}-{steps}.checkpoint"
    result = ttune.tune(
        judge.denoiser,
        start,
        teacher=teacher,
        samples=args.tuning,
        features=judge.features,
        checkpoint=checkpoint,
        resume=checkpoint.exists(),
        progress=args.progress,
    )
    result.schedule.save(args.work / f"{sampler}-{steps}.ttune.json")
    seconds = time.monotonic() - begin
    best = result.grids[0]
    base_row, base = judge.row(f"{sampler} {best.name}", "base", best.schedule)
    tuned_row, tuned = judge.row(f"{sampler} tuned", "endpoint", result.schedule)
    assert judge.target is not None
    interval = paired_interval(rmse_to(tuned, judge.target), rmse_to(base, judge.target))
    low, high = _frechet_ratio_interval(judge, tuned, base)
    return {
        "sampler": sampler,
        "steps": steps,
        "grid": best.name if best.name != "given" else "leading",
        "base": base_row,
        "tuned": tuned_row,
        "rmse_ratio": interval.ratio,
        "rmse_ratio_interval": [interval.low, interval.high],
        "frechet_ratio": (tuned_row["frechet_to_teacher"] or 0.0) / (base_row["frechet_to_teacher"] or 1.0),
        "frechet_ratio_interval": [low, high],
        "improved": result.improved,
        "times": result.schedule.times.tolist(),
        "network_times": result.schedule.network_times.tolist(),
        "history": dict(result.history),
        "cost": dict(result.cost),
        "tuning_seconds": round(seconds, 1),
    }


def _frechet_ratio_interval(judge: CandidateMetrics, tuned: torch.Tensor, base: torch.Tensor) -> tuple[float, float]:
    """95 % bootstrap interval of the ratio of Fréchet distances to the teacher, the same samples drawn for all three."""
    assert judge.target is not None
    features = [np.asarray(judge.features(x)) for x in (tuned, base, judge.target)]
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(SPLITS):
        pick = rng.integers(0, len(tuned), len(tuned))
        a, b, c = (f[pick] for f in features)
        ratios.append(frechet_distance(a, c) / frechet_distance(b, c))
    return float(np.quantile(ratios, 0.025)), float(np.quantile(ratios, 0.975))


def _header() -> str:
    return (
        f"{'sampler':9s} {'K':>2s}  {'best untuned grid':22s} {'RMSE':>6s} -> {'tuned':>6s}  {'ratio [95 %]':22s} "
        f"{'F-teacher':>9s} -> {'tuned':>6s}  {'ratio [95 %]':20s} {'F-real':>12s} -> {'tuned':>12s}  {'evaluations':>11s} {'s':>5s}"
        "   (without the teacher's, which all budgets share)"
    )


def _line(cell: dict[str, Any]) -> str:
    base, tuned = cell["base"], cell["tuned"]
    low, high = cell["rmse_ratio_interval"]
    f_low, f_high = cell["frechet_ratio_interval"]
    # The teacher's images are made once and shared by the budgets of a run: they would weigh on the first one only.
    evaluations = sum(int(v) for k, v in cell["cost"].items() if k not in ("seconds", "teacher"))
    return (
        f"{cell['sampler']:9s} {cell['steps']:2d}  {cell['grid']:22s} {base['rmse_to_teacher']:6.4f} -> {tuned['rmse_to_teacher']:6.4f}  "
        f"{cell['rmse_ratio']:.3f} [{low:.3f}, {high:.3f}]   {base['frechet_to_teacher']:9.2f} -> {tuned['frechet_to_teacher']:6.2f}  "
        f"{cell['frechet_ratio']:.2f} [{f_low:.2f}, {f_high:.2f}]    {_frechet(base):>12s} -> {_frechet(tuned):>12s}  "
        f"{evaluations:11,d} {cell['tuning_seconds']:5.0f}"
    )


def _frechet(row: Any) -> str:
    return f"{row['frechet']['value']:.2f} ± {row['frechet']['standard_error']:.2f}"
