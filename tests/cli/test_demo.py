"""The demo at a small scale: every file that it promises, with what it promises in it."""

import json
from pathlib import Path

import pytest

import ttune
from ttune.cli.demo import run_demo


def test_demo_writes_table_picture_and_schedules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_demo(tmp_path, samples=8, test_samples=16, validation_samples=8, iterations=1, progress=False)
    assert "best untuned grid" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["model"] == "fashion"
    assert report["versions"]["ttune"] == ttune.__version__
    seen = [(row["sampler"], row["method"]) for row in report["rows"]]
    assert seen == [
        ("ddim", "base"),
        ("ddim", "base"),
        ("dpmpp_2m", "base"),
        ("ddim", "timetuner"),
        ("ddim", "endpoint"),
        ("dpmpp_2m", "endpoint"),
        ("dpmpp_2m", "endpoint"),
        ("dpmpp_2m", "teacher"),
    ]
    for row in report["rows"]:
        assert row["frechet"]["features"] == "LeNet-64"
        assert row["frechet"]["n"] == 16
        assert row["steps"] == (128 if row["method"] == "teacher" else 5)
        assert row["network_evaluations"] == row["steps"]
        assert (row["rmse_to_teacher"] == 0) == (row["method"] == "teacher")
        assert row["seconds"] > 0
    for name, sampler in (("ddim", "ddim"), ("dpmpp_2m", "dpmpp_2m"), ("dpmpp_2m_coefficients", "dpmpp_2m")):
        assert ttune.Schedule.load(tmp_path / f"{name}.json").sampler == sampler
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
