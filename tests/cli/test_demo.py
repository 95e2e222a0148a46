"""The demo at a small scale: every file that it promises, with what it promises in it, and commands that exist."""

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import ttune
from ttune import zoo
from ttune.cli.demo import DemoRow, _in_words, _one_bar, run_demo
from ttune.cli.main import main
from ttune.cli.report import Report
from ttune.cli.tune import Tune
from ttune.tuning import Distribution, Endpoint
from ttune.tuning.solvers.parameters import TUNABLE


@pytest.mark.slow
def test_demo_writes_table_picture_report_and_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small: Any = {"samples": 4, "validation_samples": 8, "method": Endpoint(iterations=1, search_starts=False)}
    small["objective"] = Distribution(evaluations=100, samples=4, many=16)
    start = ttune.Schedule.build(zoo.load("fashion").noise, "dpmpp_2m", 8, "log_snr")
    rows: Any = run_demo(tmp_path, steps=2, test_samples=4, progress=False, **(small | {"teacher": start}))
    assert [(row["method"], row["steps"]) for row in rows[:3]] == [("teacher", 32), ("untuned", 4), ("untuned", 2)]
    assert rows[3]["steps"] == 2
    assert rows[3]["tuning"]["distribution"] > 0
    for row in rows:
        assert row["network_evaluations"] == row["steps"]
        assert row["frechet"]["features"] == "LeNet-64"
        assert row["frechet"]["n"] == 4
        assert (row["rmse_to_teacher"] == 0) == (row["method"] == "teacher")

    report = json.loads((tmp_path / "report.json").read_text())
    assert report["model"] == "fashion"
    assert report["versions"]["ttune"] == ttune.__version__
    assert [row["name"] for row in report["rows"]] == [row["name"] for row in rows]
    schedule = ttune.Schedule.load(tmp_path / "ttune.json")
    assert (schedule.sampler, schedule.steps) == ("dpmpp_2m", 2)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert "Samples from the same noise" in page
    assert all(row["name"] in page for row in rows)
    out = capsys.readouterr().out
    assert out.split("\n")[1].startswith("2 ")
    assert all(row["name"] in out for row in rows)


def test_the_last_lines_are_commands_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    for command in (Tune, Report):
        monkeypatch.setattr(command, "run", lambda self: ran.append(self))
    result: Any = SimpleNamespace(headline="5 tuned steps: ...", schedule=SimpleNamespace(steps=5))
    words = _in_words(result, [{"name": "tuned"}], tmp_path, 256, 1.0).replace("\\\n", " ")
    for line in words.split("\n"):
        if line.startswith("    ttune "):
            main(shlex.split(line)[1:])
    tune, report = ran
    assert (tune.steps, tune.sampler, tune.tuning.objective) == ((5,), "dpmpp_2m", "distribution")
    assert set(tune.tuning.tune) == set(TUNABLE)
    assert report.sources == (tune.out,)


def test_a_label_says_steps_and_distances() -> None:
    row: Any = {"name": "untuned, karras", "steps": 10, "rmse_to_teacher": 0.0671, "frechet": {"value": 0.738, "features": "LeNet-64"}}
    entry = DemoRow(row, torch.zeros(1))
    assert entry.label == "untuned, karras, 10 steps\ndistance to real images 0.74\nerror to the teacher 0.067"
    row["rmse_to_teacher"] = 0.0
    assert "error" not in entry.label


class Halved(torch.nn.Module):
    def forward(self, x: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        return 0.5 * x


def test_the_bar_counts_evaluations_and_ends_full() -> None:
    denoiser = ttune.Denoiser(Halved(), ttune.NoiseSchedule.linear())
    schedule = ttune.Schedule.build(denoiser.noise, "ddim", 4)
    with _one_bar(denoiser, 100, progress=True) as bar:
        ttune.sample(denoiser, schedule, torch.zeros(3, 1, 4, 4))
    assert bar.n == bar.total == 12
    assert not any(module._forward_hooks for module in denoiser.modules())
