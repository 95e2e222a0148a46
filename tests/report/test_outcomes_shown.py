"""Everything that shows a schedule says whether tuning helped: the page, the tables, the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

import ttune
from tests import tiny_model
from tests.report.test_report import page_of
from tests.tuning.test_outcome import TEACHER, Fixed
from ttune.cli import tune as command
from ttune.cli.demo import _name
from ttune.cli.evaluate import _method_of, _named_schedules
from ttune.cli.main import main
from ttune.report import read_sources
from ttune.report.figures import validation_by_steps
from ttune.report.rivals import GRID, START, TUNED, roles

MODEL = tiny_model.factory()
FIRST = ttune.Schedule.build(MODEL.noise, "ddim", 4)
GOOD = ttune.Schedule.build(MODEL.noise, "ddim", 4, "quadratic", t_start=950.0)
BAD = FIRST.replace(network_times=0.3 * FIRST.network_times)
BETTER = GOOD.replace(network_times=0.99 * GOOD.network_times)


def result_of(outcome: str) -> ttune.TuneResult:
    found = {"tuned": ((BETTER,), ()), "untuned": ((BAD,), (GOOD,)), "start": ((BAD,), ())}[outcome]
    result = ttune.tune(MODEL, FIRST, method=Fixed(*found), samples=8, validation_samples=8, teacher=TEACHER, progress=False)
    assert result.outcome == outcome
    return result


SHOWN = {
    "tuned": ("ddim, 4 steps: tuned; RMSE", [START, TUNED], "tuned (4 steps)"),
    "untuned": (
        "ddim, 4 steps: tuning did not help, this is the best untuned schedule; RMSE",
        [START, GRID],
        "tuning did not help, the best untuned schedule (4 steps)",
    ),
    "start": (
        "ddim, 4 steps: tuning did not help, this is the untuned start; RMSE",
        [START],
        "tuning did not help, the untuned start (4 steps)",
    ),
}


@pytest.mark.parametrize("outcome", SHOWN)
def test_what_is_shown_follows_the_outcome(outcome: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, shown, last = SHOWN[outcome]
    result = result_of(outcome)
    file = tmp_path / "t.json"
    result.schedule.replace(tuned=result.record).save(file)  # as ``ttune tune`` writes it
    assert ttune.Schedule.load(file).outcome == outcome
    assert command._written({4: result}) == last

    sources = read_sources([file])
    assert list(roles(sources.entries[0])) == shown
    assert (TUNED in validation_by_steps(sources.entries)) == (outcome == "tuned")
    page = page_of(file, out=tmp_path / "r.html", denoiser=MODEL if outcome == "untuned" else None, n=4, shown=1)
    assert first in page.text
    if outcome == "untuned":
        assert [row[1] for row in page.table("schedule", "what")[1:]] == ["teacher", *shown]
    assert ("kept the tuned schedule" in page.text) == (outcome == "tuned")

    ((name, schedule),) = _named_schedules(file, MODEL.noise, None)
    assert name == {"tuned": f"{file}", "untuned": f"{file} (best untuned schedule)", "start": f"{file} (untuned start)"}[outcome]
    assert _method_of(schedule) == ("fixed" if outcome == "tuned" else "base")
    assert ("did not help" in _name(result)) == (outcome != "tuned")

    capsys.readouterr()
    main(["info", str(file)])
    lines = capsys.readouterr().out.splitlines()
    words = {"tuned": "tuned", "untuned": "best untuned schedule (tuning did not help)", "start": "untuned start (tuning did not help)"}
    assert lines[0] == f"ddim, 4 steps, {words[outcome]}"
    assert any(line.startswith("  not better: the RMSE") for line in lines) == (outcome != "tuned")
