"""``ttune demo``: the bundled model at five steps, untuned and tuned, in one table and one picture."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttune import zoo
from ttune.cli.arguments import check_paths
from ttune.evaluation import lenet64, lenet64_train_statistics
from ttune.evaluation.judge import CandidateMetrics
from ttune.evaluation.pictures import write_picture
from ttune.evaluation.report_rows import ReportRow, print_table, write_report
from ttune.schedule.schedule import Schedule
from ttune.tuning import Teacher, TuneResult, tune
from ttune.tuning.solvers.parameters import TUNABLE
from ttune.tuning.starting_points import drawn_points
from ttune.version import __version__

DEMO_SEEDS = 2**40  # of the x_T that everything is judged on; no tuning with seed=0 ever sees them
SHOWN = 8
OFFSETS_SHOWN = ("timetuner", "endpoint")  # methods whose network times are drawn
FREE = "dpmpp_2m_coefficients"


@dataclass(frozen=True)
class DemoRow:
    """A line of the table with the images behind it."""

    row: ReportRow
    images: Tensor
    schedule: Schedule


def run_demo(
    out: Path,
    *,
    steps: int = 5,
    samples: int = 96,
    test_samples: int = 512,
    validation_samples: int = 128,
    iterations: int = 30,
    progress: bool = True,
) -> list[ReportRow]:
    """Tune DDIM and DPM-Solver++(2M) on the bundled model, and write everything that was found to ``out``.

    ``test_samples`` starting noises are what every line of the table is measured on; the other counts go to :func:`ttune.tune`.
    ``ddim.json``, ``dpmpp_2m.json`` and ``dpmpp_2m_coefficients.json`` (tuned schedules), ``report.json`` (the table) and ``report.png``.
    """
    begin = time.monotonic()
    denoiser = zoo.load("fashion")
    base = {name: Schedule.build(denoiser.noise, name, steps, "leading") for name in ("ddim", "dpmpp_2m")}
    teacher = Teacher.default(base["ddim"], remember=True)
    assert isinstance(teacher.source, Schedule)
    x_T, conditions = drawn_points(denoiser, torch.arange(test_samples) + DEMO_SEEDS)
    judge = CandidateMetrics(denoiser, x_T, conditions, lenet64(), lenet64_train_statistics(), progress=progress)

    best = _entry(judge, f"teacher: 2M, {teacher.source.steps} steps", "teacher", teacher.source)
    judge = judge.with_teacher(best.images)
    best.row["rmse_to_teacher"], best.row["frechet_to_teacher"] = 0.0, 0.0

    def tuned(schedule: Schedule, **more: Any) -> TuneResult:
        settings: dict[str, Any] = {"teacher": teacher, "features": lenet64(), "samples": samples, "validation_samples": validation_samples}
        return tune(denoiser, schedule, **settings, iterations=iterations, progress=progress, **more)

    results = {name: tuned(schedule) for name, schedule in base.items()}
    # From where network_times and times ended: the solver's own coefficients too.
    results[FREE] = tuned(results["dpmpp_2m"].schedule, tune=TUNABLE, search_starts=False)
    for name, result in results.items():
        result.schedule.save(out / f"{name}.json")

    entries = [_entry(judge, "DDIM, leading grid", "base", base["ddim"])]
    for name, label in (("ddim", "DDIM"), ("dpmpp_2m", "2M")):
        grid = results[name].grids[0]
        entries.append(_entry(judge, f"{label}, best untuned grid ({_grid_name(grid.name)})", "base", grid.schedule))
    if steps == 5:
        entries.append(_entry(judge, "DDIM, TimeTuner as published", "timetuner", zoo.schedule("timetuner_ddim_5")))
    for name, label in (("ddim", "DDIM, tuned by ttune"), ("dpmpp_2m", "2M, tuned by ttune"), (FREE, "2M, its coefficients too")):
        entry = _entry(judge, _label(label, results[name]), "endpoint", results[name].schedule)
        entry.row["tuning"] = dict(results[name].cost)
        entries.append(entry)
    entries.append(best)

    rows = [entry.row for entry in entries]
    write_report(out / "report.json", {"model": denoiser.name, "rows": rows, "versions": _versions(), "seconds": time.monotonic() - begin})
    offsets = {e.row["name"]: (e.schedule.times, e.schedule.network_times) for e in entries if e.row.get("method") in OFFSETS_SHOWN}
    write_picture(out / "report.png", [(entry.row["name"], entry.images[:SHOWN]) for entry in entries], offsets)
    print(f"The bundled Fashion-MNIST model, {steps} steps, the same {test_samples} starting noises in every line:\n")
    print(print_table(rows))
    for name, result in results.items():
        print(f"\nTuning {name}:\n{result.summary()}")
    written = ", ".join(f"{out}/{file}" for file in (*(f"{name}.json" for name in results), "report.json", "report.png"))
    print(f"\nWrote {written} in {time.monotonic() - begin:.0f} s.")
    return rows


def _entry(judge: CandidateMetrics, name: str, method: str, schedule: Schedule) -> DemoRow:
    row, images = judge.row(name, method, schedule)
    return DemoRow(row, images, schedule)


def _label(label: str, result: TuneResult) -> str:
    """``label`` of a tuned schedule; where tuning did not help, what is there in its place."""
    found = {"tuned": label, "untuned": "best untuned schedule", "start": "where its tuning began"}[result.outcome]
    return label if result.improved else f"{label}: did not help, {found}"


def _grid_name(name: str) -> str:
    return "leading" if name == "given" else name


def _versions() -> dict[str, Any]:
    return {"ttune": __version__, "torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Tune the bundled model and show what that gives: a table, a picture, three schedules.

    Example: ttune demo
    """

    out: Path = Path("runs/demo")
    """Folder for ddim.json, dpmpp_2m.json, dpmpp_2m_coefficients.json, report.json and report.png."""
    steps: int = 5
    """Number of steps."""
    test_samples: int = 512
    """Starting noises that every line of the table is measured on."""
    quiet: bool = False
    """No progress bars."""

    def run(self) -> None:
        check_paths(out=self.out)
        run_demo(self.out, steps=self.steps, test_samples=self.test_samples, progress=not self.quiet)
