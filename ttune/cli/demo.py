"""``ttune demo``: the bundled model tuned for five steps, beside untuned steps and the teacher: figures, a picture and a report."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ttune import zoo
from ttune.cli.arguments import check_paths
from ttune.cli.models import bundled_features
from ttune.evaluation.features.feature_statistics import FeatureStatistics
from ttune.evaluation.judge import CandidateMetrics
from ttune.evaluation.pictures import write_picture
from ttune.evaluation.report_rows import ReportRow, print_table, write_report
from ttune.network.denoiser import Denoiser
from ttune.report import read_sources, write_page
from ttune.schedule.schedule import OUTCOMES, Schedule
from ttune.tuning import Distribution, Endpoint, Teacher, TuneResult, tune
from ttune.tuning.distribution.feature_maps import part_of
from ttune.tuning.distribution.reference import as_reference
from ttune.tuning.solvers.parameters import TUNABLE
from ttune.tuning.starting_points import drawn_points
from ttune.version import __version__

DEMO_SEEDS = 2**40  # of the x_T that everything is judged on; no tuning with seed=0 ever sees them
SAMPLER = "dpmpp_2m"
SPACINGS = ("leading", "trailing", "log_snr", "karras")  # of the untuned schedules; the best one is shown
TEACHER_STEPS = 32
# A tuning of 63,000 evaluations, two minutes on two cores: one start, few x_T and iterations, then two thirds of the usual evaluations
# for the distribution.
SHORT: dict[str, Any] = {
    "method": Endpoint(TUNABLE, iterations=4, search_starts=False),
    "samples": 64,
    "validation_samples": 128,
    "objective": Distribution(evaluations=30_000),
}
SHOWN = 8  # columns of the picture: the first seeds
REPORTED = 32  # x_T of the report, at most


@dataclass(frozen=True)
class DemoRow:
    """A line of the table with the images behind it."""

    row: ReportRow
    images: Tensor

    @property
    def distance(self) -> float:
        entry = self.row.get("frechet")
        assert entry is not None
        assert entry["value"] is not None
        return entry["value"]

    @property
    def label(self) -> str:
        """For the picture."""
        rmse = self.row.get("rmse_to_teacher")
        lines = [f"{self.row['name']}, {self.row.get('steps')} steps", f"distance to real images {self.distance:.2f}"]
        return "\n".join([*lines, *([f"error to the teacher {rmse:.3f}"] if rmse else [])])


def run_demo(
    out: Path,
    *,
    model: str = "fashion",
    steps: int = 5,
    test_samples: int = 256,
    progress: bool = True,
    **settings: Any,
) -> list[ReportRow]:
    """Tune all parameters of DPM-Solver++(2M) on a bundled ``model``, for the distribution of its real images, and show what that gave.

    ``test_samples`` starting noises are what every line of the table is measured on; ``settings`` go to :func:`ttune.tune`.
    Writes ``ttune.json`` (the schedule), ``report.json`` (the table), ``picture.png`` and ``report.html`` to ``out``.
    """
    begin, denoiser = time.monotonic(), zoo.load(model)
    start = Schedule.build(denoiser.noise, SAMPLER, steps, "log_snr")
    reported = min(REPORTED, test_samples)
    with _one_bar(denoiser, _planned(steps, test_samples, reported), progress) as bar:
        bar.set_description("tuning")
        mine = {"teacher": Teacher.default(start, TEACHER_STEPS), "reference": model, "features": bundled_features(model)}
        result = tune(denoiser, start, progress=False, **{**mine, **SHORT, **settings})
        result.schedule.save(out / "ttune.json")
        bar.set_description("measuring")
        entries = _measured(denoiser, model, result, test_samples)
        rows = [entry.row for entry in entries]
        write_report(out / "report.json", {"model": model, "rows": rows, "versions": _versions(), "seconds": time.monotonic() - begin})
        write_picture(out / "picture.png", [(entry.label, entry.images[:SHOWN]) for entry in entries])
        bar.set_description("report")
        sources = read_sources([out / "ttune.json", out / "report.json"])
        write_page(sources, out / "report.html", denoiser=denoiser, n=reported, shown=SHOWN)
    print(_in_words(result, rows, out, test_samples, time.monotonic() - begin))
    return rows


def _measured(denoiser: Denoiser, model: str, result: TuneResult, test_samples: int) -> list[DemoRow]:
    """The teacher, untuned schedules of twice and of as many steps, and what tuning found: all on the same x_T.

    Of the untuned ones that spacing is taken whose samples are nearest to real images, by the very figure that is shown.
    """
    features, shape = bundled_features(model), denoiser.sample_shape
    assert shape is not None
    seen = as_reference(model, shape).to_judge(part_of(features))
    real = seen if isinstance(seen, FeatureStatistics) else FeatureStatistics.of_features(seen, features.name)
    x_T, conditions = drawn_points(denoiser, torch.arange(test_samples) + DEMO_SEEDS)
    judge = CandidateMetrics(denoiser, x_T, conditions, features, real, progress=False)
    source, steps = Teacher.default(result.schedule, TEACHER_STEPS).source, result.schedule.steps
    assert isinstance(source, Schedule)
    teacher = DemoRow(*judge.row("teacher", "teacher", source))
    teacher.row["rmse_to_teacher"], teacher.row["frechet_to_teacher"] = 0.0, 0.0
    judge = judge.with_teacher(teacher.images)

    def best_untuned(k: int) -> DemoRow:
        schedules = {spacing: Schedule.build(denoiser.noise, SAMPLER, k, spacing) for spacing in SPACINGS}
        tried = [DemoRow(*judge.row(f"untuned, {spacing}", "untuned", own)) for spacing, own in schedules.items()]
        return min(tried, key=lambda entry: entry.distance)

    tuned = DemoRow(*judge.row(_name(result), result.outcome, result.schedule))
    tuned.row["tuning"] = dict(result.cost)
    return [teacher, best_untuned(2 * steps), best_untuned(steps), tuned]


def _name(result: TuneResult) -> str:
    """Of the last row; where tuning did not help, what is there in its place."""
    found = OUTCOMES[result.outcome]
    return found if result.improved else f"tuning did not help: {found}"


def _planned(steps: int, test_samples: int, reported: int) -> int:
    """Network evaluations of one sample that the demo takes, about: tuning, table and report."""
    x_T = SHORT["samples"] + SHORT["validation_samples"]
    tuning = x_T * TEACHER_STEPS + 5_000 * steps + SHORT["objective"].evaluations + 4 * steps * SHORT["validation_samples"]
    table = test_samples * (TEACHER_STEPS + 3 * steps * len(SPACINGS) + steps)
    return tuning + table + reported * (128 + 8 * steps)


@contextmanager
def _one_bar(denoiser: Denoiser, total: int, progress: bool) -> Iterator[tqdm[Any]]:
    """A bar of ``total`` network evaluations, moved by every call of the network."""
    begin = denoiser.evaluations
    with tqdm(total=total, unit=" evaluations", unit_scale=True, mininterval=1.0, disable=not progress) as bar:

        def moved(*_: Any) -> None:
            bar.update(denoiser.evaluations - begin - bar.n)

        hooks = [module.register_forward_hook(moved) for module in denoiser.modules()]
        try:
            yield bar
            moved()
            bar.total = bar.n  # the plan was an estimate
        finally:
            for hook in hooks:
                hook.remove()


def _in_words(result: TuneResult, rows: Sequence[ReportRow], out: Path, test_samples: int, seconds: float) -> str:
    steps = result.schedule.steps
    return f"""
{result.headline}

Every line is measured on the same {test_samples} starting noises, which the tuning did not see.
Untuned: of {len(SPACINGS)} spacings the one that is nearest to real images here.
{print_table(rows)}

Look at {out / "picture.png"} and {out / "report.html"}. The schedule is {out / "ttune.json"}. All this took {seconds:.0f} s.

The same for your model, where my_module.py has a function make_denoiser that returns a ttune.Denoiser, and images/ holds real images:

    ttune tune --model my_module:make_denoiser --sampler {SAMPLER} --steps {steps} --tune {" ".join(TUNABLE)} \\
        --objective distribution --reference images/ --out ttune.json
    ttune report ttune.json --model my_module:make_denoiser --out report.html"""


def _versions() -> dict[str, Any]:
    return {"ttune": __version__, "torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Tune the bundled model for a few steps and show what that gives: figures, a picture, a report and the schedule.

    Example: ttune demo
    """

    out: Path = Path("runs/demo")
    """Folder for ttune.json, report.json, picture.png, and report.html with its figures."""
    steps: int = 5
    """Number of steps."""
    test_samples: int = 256
    """Starting noises that every line of the table is measured on."""
    quiet: bool = False
    """No progress bar."""

    def run(self) -> None:
        check_paths(out=self.out)
        run_demo(self.out, steps=self.steps, test_samples=self.test_samples, progress=not self.quiet)
