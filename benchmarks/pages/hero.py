"""The README's picture: the first seeds through the teacher, untuned steps and tuned steps, from the same noise; docs/hero.png.

    python -m benchmarks hero                                                  # the bundled model, DDIM, five steps
    python -m benchmarks hero --model FOLDER --schedule ttune.json --prompts prompts.txt --guidance-scale 3

The error of a row is the RMSE of its pictures to the teacher's, measured by this command on ``--samples`` seeds that no tuning saw. The
untuned row of as many steps has the sampler's default spacing (leading); the one of twice as many has the best of the spacings and starting
times that ``ttune tune`` ranks, chosen on other seeds. The columns are the first seeds; none is picked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from torch import Tensor

from benchmarks.result_paths import ROOT
from ttune.cli.arguments import ModelFlags
from ttune.evaluation.images.decoded import pictures_of
from ttune.evaluation.pictures import write_picture
from ttune.evaluation.score import rmse_of, squared_errors
from ttune.network.denoiser import Denoiser
from ttune.schedule.schedule import Schedule
from ttune.tuning import Teacher
from ttune.tuning.grid_search import rank_grids
from ttune.tuning.problem import Problem
from ttune.tuning.starting_points import drawn_points

SEEDS = 2**41  # from here on: beyond those of a tuning with seed 0, of its validation and of `ttune demo`
RANKING_SEEDS = 2**42  # on which the spacing of the untuned row is chosen


@dataclass(frozen=True)
class HeroOptions:
    model: str = "fashion"
    """A model, as `ttune tune --model` takes it."""
    schedule: Path = ROOT / "gallery" / "fashion" / "ddim_5_coefficients.json"
    """What `ttune tune` wrote for that model."""
    samples: int = 256
    """Seeds that the errors are measured on; a quarter as many rank the spacings."""
    shown: int = 8
    """Columns of the picture."""
    out: Path = ROOT / "docs" / "hero.png"
    flags: tyro.conf.OmitArgPrefixes[ModelFlags] = ModelFlags()


def main(argv: Sequence[str] | None = None) -> None:
    args = tyro.cli(HeroOptions, args=argv, prog="python -m benchmarks hero", description=__doc__)
    tuned = Schedule.load(args.schedule)
    denoiser = args.flags.load(args.model)
    rows = measured(denoiser, tuned, args.samples)
    write_picture(args.out, [(label, pictures[: args.shown]) for label, pictures in rows])
    print("\n".join(label for label, _ in rows))


def measured(denoiser: Denoiser, tuned: Schedule, samples: int) -> list[tuple[str, Tensor]]:
    """(label with the RMSE to the teacher, pictures (samples, C, H, W)) of each row, from the top."""
    teacher = Teacher.default(tuned)
    assert isinstance(teacher.source, Schedule)
    problem = _problem(denoiser, teacher.source, samples, SEEDS)
    double = best_untuned(_problem(denoiser, teacher.source, max(8, samples // 4), RANKING_SEEDS), _default(tuned, 2 * tuned.steps))
    target = pictures_of(denoiser, problem.target)
    rows = [(f"{teacher.source.steps} steps, the teacher", target)]
    for kind, schedule in (("best untuned", double), ("untuned", _default(tuned, tuned.steps)), ("tuned", tuned)):
        pictures = pictures_of(denoiser, problem.samples(schedule))
        rows.append((f"{schedule.steps} steps, {kind}: error\N{NO-BREAK SPACE}{rmse_of(squared_errors(pictures, target)):.3f}", pictures))
    return rows


def best_untuned(problem: Problem, like: Schedule) -> Schedule:
    """The one of least RMSE to the teacher, of the sampler and steps of ``like``."""
    return rank_grids(problem, like)[0].schedule


def _default(tuned: Schedule, steps: int) -> Schedule:
    return Schedule.build(tuned.noise, tuned.sampler, steps, eta=tuned.eta, options=tuned.options)


def _problem(denoiser: Denoiser, teacher: Schedule, count: int, first: int) -> Problem:
    """``count`` seeds from ``first`` on, with the teacher's samples."""
    x_T, conditions = drawn_points(denoiser, torch.arange(count) + first)
    problem = Problem(denoiser, x_T, conditions, torch.empty_like(x_T))
    return replace(problem, target=problem.samples(teacher))
