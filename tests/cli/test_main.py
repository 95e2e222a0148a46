"""The command line, end to end on a tiny model: what it writes, what it says, and how it fails."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ttune
from tests import tiny_model
from ttune.cli.main import COMMANDS, main
from ttune.report import read_sources
from ttune.tuning import TuneOptions

TINY = ["--model", "tests.tiny_model:factory"]
QUICK = [*TINY, "--steps", "3", "--samples", "8", "--validation-samples", "8", "--iterations", "3", "--quiet"]


@pytest.fixture(autouse=True)
def _uninterrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model.calls = 0
    monkeypatch.delenv("TINY_MODEL_INTERRUPT_AT", raising=False)


def failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a command that must fail without a traceback."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    message = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"Example: ttune {command}" in capsys.readouterr().out


def test_the_flags_of_tune_are_the_options_of_tune_in_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    first, group = (set(re.findall(r"^\W*(--[a-z-]+)", part, re.M)) for part in capsys.readouterr().out.split(" tuning options "))
    flags = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(TuneOptions)}
    assert flags <= group
    assert not flags & first


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"ttune {ttune.__version__}\n"


def test_info_names_versions_backends_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info"])
    out = capsys.readouterr().out
    assert ttune.__version__ in out
    for name, state in ttune.backends().items():
        assert name in out
        assert state["available"] or state["reason"] in out


def test_tune_asks_for_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A forgotten --model would tune the bundled one for minutes."""
    message = failure(["tune", "--out", str(tmp_path / "ttune.json")], capsys)
    assert "--model" in message
    assert "required" in message.lower()


def test_tune_then_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ttune.json"
    main(["tune", "--out", str(file), *QUICK])
    assert "RMSE to the teacher" in capsys.readouterr().out
    schedule = ttune.Schedule.load(file)
    assert schedule.steps == 3
    assert schedule.tuned["validation"]["rmse"] < schedule.tuned["validation"]["rmse_start"]
    assert list(tmp_path.iterdir()) == [file]  # the checkpoint is gone
    main(["sample", "--out", str(tmp_path / "a.npz"), "--schedule", str(file), *TINY, "--samples", "5"])
    main(["sample", "--out", str(tmp_path / "b.npz"), "--schedule", str(file), *TINY, "--samples", "3"])
    a, b = (np.load(tmp_path / f"{name}.npz")["images"] for name in "ab")
    assert a.shape == (5, 1, 8, 8)
    np.testing.assert_allclose(a[:3], b, atol=1e-6)
    main(["sample", "--out", str(tmp_path / "c.png"), *TINY, "--samples", "4", "--steps", "4", "--sampler", "ddpm"])
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_invert_then_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out, again = (tmp_path / name for name in ("images.npz", "x_T.npz", "again.npz"))
    main(["sample", "--out", str(images), *TINY, "--samples", "5", "--steps", "4"])
    main(["invert", "--images", str(images), *TINY, "--steps", "10", "--out", str(out), "--edited", str(again), "--batch-size", "2"])
    assert "x_T of 5 images, 10 steps of belm" in capsys.readouterr().out
    found, given = np.load(out), np.load(images)["images"]
    np.testing.assert_allclose(np.load(again)["images"], given, atol=1e-4)
    schedule = ttune.Schedule.build(ttune.NoiseSchedule.linear(), "belm", 10)
    inverted = ttune.Inverted(tiny_model.factory(), schedule, *(torch.from_numpy(found[name]) for name in ("x_T", "second")))
    np.testing.assert_allclose(inverted.sample().numpy(), given, atol=1e-4)
    main(["invert", "--images", str(images), *TINY, "--steps", "10", "--sampler", "ddim", "--out", str(out)])
    assert np.load(out).files == ["x_T"]
    np.savez(images, images=np.zeros((2, 1, 9, 8), np.uint8))
    message = failure(["invert", "--images", str(images), *TINY, "--out", str(out)], capsys)
    assert "images must be of the shape (1, 8, 8) that the model makes, got (1, 9, 8)" in message


def test_samples_are_the_same_in_any_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sample", *TINY, "--samples", "5", "--steps", "3", "--sampler", "ddpm", "--seed", str(2**63 - 5)]
    made = []
    for size in ("64", "2", "1"):
        main([*command, "--out", str(tmp_path / "a.npz"), "--batch-size", size])
        made.append(np.load(tmp_path / "a.npz")["images"])
        assert ("5/5" in capsys.readouterr().err) == (size != "64")
    assert made[0].shape == (5, 1, 8, 8)
    for others in made[1:]:
        np.testing.assert_allclose(others, made[0], atol=1e-6)
    with pytest.raises(SystemExit, match="batch_size must be a whole number >= 1, got 0"):
        main([*command, "--out", str(tmp_path / "b.npz"), "--batch-size", "0"])
    assert not (tmp_path / "b.npz").exists()


@pytest.mark.parametrize("method", ["trajectory", "local", "optimal_steps", "ays", "shifted"])
def test_other_methods(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tune", "--out", str(tmp_path / "t.json"), *QUICK, "--method", method, "--no-fallback"])
    assert "RMSE to the teacher" in capsys.readouterr().out
    assert ttune.Schedule.load(tmp_path / "t.json").tuned["method"] == method


def test_residuals_and_conditions_from_factories(tmp_path: Path) -> None:
    file = tmp_path / "ttune.json"
    own = ["--residual", "tests.tiny_model:edges", "--conditions", "tests.tiny_model:no_conditions", "--no-fallback"]
    main(["tune", "--out", str(file), *QUICK, *own])
    assert "edges" in ttune.Schedule.load(file).tuned["residual"]
    assert ttune.Schedule.load(file).tuned["time_table"]["kind"] == "smooth"


def test_an_interrupted_tuning_resumes_and_ends_where_an_uninterrupted_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = tmp_path / "whole.json", tmp_path / "broken.json"
    main(["tune", "--out", str(whole), *QUICK])
    total = tiny_model.calls
    tiny_model.calls = 0
    monkeypatch.setenv("TINY_MODEL_INTERRUPT_AT", str(int(0.8 * total)))
    with pytest.raises(SystemExit) as stop:
        main(["tune", "--out", str(broken), *QUICK])
    assert stop.value.code == 130
    assert "--resume" in capsys.readouterr().err
    assert not broken.exists()
    assert "--resume" in failure(["tune", "--out", str(broken), *QUICK], capsys)  # never over an earlier run
    main(["tune", "--out", str(broken), *QUICK, "--resume"])
    assert ttune.Schedule.load(broken) == ttune.Schedule.load(whole)


def test_a_choice_of_the_sampler_that_is_interrupted_says_what_is_left_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = tmp_path / "whole.json", tmp_path / "broken.json"
    command = [*TINY, "--sampler", "auto", "--steps", "3", "--samples", "4", "--validation-samples", "4", "--quiet", "--no-fallback"]
    tiny_model.calls = 0
    main(["tune", "--out", str(whole), *command])
    total = tiny_model.calls
    left = f"What was found is in {broken}.checkpoint, {broken}.checkpoint.choice; the same command with --resume"
    for call, says in ((300, "Nothing had been finished yet"), (total - 5, left)):  # in the choice, and in the tuning
        tiny_model.calls = 0
        monkeypatch.setenv("TINY_MODEL_INTERRUPT_AT", str(call))
        with pytest.raises(SystemExit) as stop:
            main(["tune", "--out", str(broken), *command])
        assert stop.value.code == 130
        assert says in capsys.readouterr().err
    main(["tune", "--out", str(broken), *command, "--resume"])
    assert ttune.Schedule.load(broken) == ttune.Schedule.load(whole)


@pytest.mark.parametrize("operators", ["genetic", "cma"])
def test_evolution(operators: str, tmp_path: Path) -> None:
    file = tmp_path / "ttune.json"
    main(["tune", "--out", str(file), *QUICK, "--method", f"evolution:operators={operators},fitness=rmse,rounds=2"])
    schedule = ttune.Schedule.load(file)
    assert (schedule.times % 1 == 0).all() == (operators == "genetic")
    assert not schedule.tuned or schedule.tuned["tune"] == {"genetic": ["times"], "cma": ["network_times", "times"]}[operators]


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "Interrupted."), (signal.SIGTERM, "Terminated.")])
def test_a_signal_leaves_the_best_so_far_and_says_where(
    number: int, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, partial = tmp_path / "ttune.json", tmp_path / "ttune.partial.json"
    command = ["tune", "--out", str(out), *QUICK, "--method", "trajectory"]
    main(command)
    whole, total = ttune.Schedule.load(out), tiny_model.calls
    out.unlink()
    tiny_model.calls = 0
    monkeypatch.setenv("TINY_MODEL_INTERRUPT_AT", str(total - 10))  # in the last of the 1-D searches
    monkeypatch.setenv("TINY_MODEL_SIGNAL", str(int(number)))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 128 + number
    assert signal.getsignal(signal.SIGTERM) == before
    said = capsys.readouterr().err
    assert word in said
    assert f"The best schedule so far is {partial}" in said
    assert not out.exists()
    best = ttune.Schedule.load(partial)
    assert best.network_times[0] == whole.network_times[0]
    assert best.tuned["method"] == "trajectory"
    assert "never compared with its start on validation x_T" in best.tuned["unfinished"]
    main(["sample", "--out", str(tmp_path / "a.npz"), "--schedule", str(partial), *TINY, "--samples", "2"])
    main([*command, "--resume"])
    assert ttune.Schedule.load(out) == whole
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npz", "ttune.json"]


def test_the_checkpoint_of_another_run_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "ttune.json.checkpoint2"
    other.write_text("somebody's")
    main(["tune", "--out", str(tmp_path / "ttune.json"), *QUICK])
    assert other.read_text() == "somebody's"


def test_evolution_of_variants(tmp_path: Path) -> None:
    file, model = tmp_path / "ttune.json", ["--model", "tests.tiny_model:variants"]
    main(["tune", "--out", str(file), *QUICK, *model, "--method", "evolution:budget=2,fitness=rmse,rounds=3"])
    schedule = ttune.Schedule.load(file)
    assert sum(schedule.variants) >= 2  # of three evaluations, at half the cost
    main(["sample", "--out", str(tmp_path / "a.npz"), "--schedule", str(file), *model, "--samples", "2"])


def test_evaluate_the_bundled_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "ddim.json", tmp_path / "evaluation.json"
    ttune.Schedule.build(ttune.NoiseSchedule.linear(), "ddim", 2).save(file)
    main(["evaluate", str(file), "--samples", "4", "--out", str(out), "--no-teacher", "--quiet"])
    assert "Fréchet distance (LeNet-64)" in capsys.readouterr().out
    (row,) = json.loads(out.read_text())["rows"]
    assert row["network_evaluations"] == 2
    assert row["frechet"]["features"] == "LeNet-64"


def test_several_budgets_in_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ttune.json"
    main(["tune", "--out", str(file), *QUICK, "--method", "trajectory", "--steps", "3", "4"])
    assert list(ttune.load_schedules(file)) == [3, 4]
    assert list(tmp_path.iterdir()) == [file]  # the checkpoints are gone
    sample = ["sample", "--schedule", str(file), *TINY, "--samples", "2", "--out", str(tmp_path / "a.npz")]
    capsys.readouterr()
    assert "name one with steps (--steps)" in failure(sample, capsys)
    main([*sample, "--steps", "4"])
    assert "2 samples of 4 steps" in capsys.readouterr().out


def test_the_sampler_and_grid_are_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ttune.json"
    main(["tune", "--out", str(file), *QUICK, "--sampler", "auto"])
    assert "chosen with" in capsys.readouterr().out
    schedule = ttune.Schedule.load(file)
    assert schedule.tuned["choice"]["teacher"] == 8 * 128
    assert schedule.tuned["cost"]["teacher"] == 8 * 128 + 8 * 256  # the validation x_T, and the check of the teacher
    assert list(tmp_path.iterdir()) == [file]
    message = failure(["tune", "--out", str(file), *QUICK, "--sampler", "auto", "--spacing", "karras"], capsys)
    assert "auto chooses the spacing too, so ['spacing'] cannot be given" in message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["sample", "--out", "a.png", "--schedule", "a.json", "--spacing", "karras"],
            "spacing: for an untuned schedule only, and --schedule",
        ),
        (["sample", "--out", "a.txt"], "out must end in .png or .npz, got 'a.txt'"),
        (["sample", "--out", "a.png", "--model", "nothing"], "model must be a bundled name (fashion, emoji)"),
        (["sample", "--out", "a.png", "--model", "nowhere.at_all:factory"], "'nowhere.at_all:factory' cannot be loaded"),
        (["sample", "--out", "a.png", "--model", "os:getcwd"], "must return a ttune.Denoiser, got str"),
        (["sample", "--out", "a.png", *TINY, "--steps", "0"], "steps must be a whole number >= 1, got 0"),
        (["sample", "--out", "a.png", *TINY, "--steps", "1001"], "at most the 1000 training steps, got 1001"),
        (["invert", "--images", "nowhere", "--out", "a.npz"], "images: nowhere does not exist"),
        (["invert", "--images", ".", "--out", "a.png"], "out must end in .npz, got 'a.png'"),
        (["invert", "--images", ".", "--out", "a.npz", "--edited", "a.jpg"], "edited must end in .png or .npz, got 'a.jpg'"),
        (
            ["invert", "--images", ".", "--out", "a.npz", "--edited-condition", "class_label", "2"],
            "that --edited writes; name a file there",
        ),
        (["invert", "--images", "ttune/cli", "--out", "a.npz", *TINY], "images: ttune/cli must hold image files"),
        (["invert", "--images", ".", "--out", "a.npz", *TINY, "--batch-size", "0"], "batch_size must be a whole number >= 1, got 0"),
        (["tune", "--out", "a.json", *QUICK, "--sampler", "ddpm"], "needs a deterministic sampler, got 'ddpm'"),
        (["tune", "--out", "a.json", *QUICK, "--method", "timetuner"], "clean images are needed"),
        (
            ["tune", "--out", "a.json", *QUICK, "--residual", "magic"],
            "residual must be one of ['samples', 'own', 'lenet64'], or a callable",
        ),
        (["tune", "--out", "a.json", *QUICK, "--residual", "own"], "module must be given: the denoiser's network is a function"),
        (["tune", "--out", "a.json", *QUICK, "--residual", "os:nothing"], "residual: 'os:nothing' cannot be loaded"),
        (["tune", "--out", "a.json", *QUICK, "--conditions", "labels"], "conditions must be 'package.module:factory', got 'labels'"),
        (["tune", "--out", "a.json", *QUICK, "--samples", "0"], "samples must be at least 2, got 0"),
        (["tune", "--out", "a.json", *QUICK, "--iterations", "0"], "iterations must be at least 1, got 0"),
        (["tune", "--out", "a.json", *QUICK, "--method", "evolution:population=4"], "at most the population, got 25 + 15 of 4"),
        (
            ["tune", "--out", "a.json", *QUICK, "--method", "local:budget=2"],
            "method: 'budget=2' in 'local:budget=2' must be field=value, each once, with a field of []",
        ),
        (["tune", "--out", "a.json", *QUICK, "--method", "evolution:population=x"], "population in 'evolution:population=x' must be"),
        (["tune", "--out", "a.json", *QUICK, "--method", "evolution:"], "'evolution:' ends in a colon without settings"),
        (["tune", "--out", "a.json", *QUICK, "--method", "endpiont"], "did you mean 'endpoint'?"),
        (
            ["tune", "--out", "a.json", *QUICK, "--method", "local", "--optimizer", "broyden"],
            "optimizer is a setting of the methods ['endpoint'], got method 'local'",
        ),
        (
            ["tune", "--out", "a.json", *QUICK, "--method", "trajectory", "--tune", "coefficients"],
            "tune is a setting of the methods ['endpoint', 'evolution'], got method 'trajectory'",
        ),
        (
            ["tune", "--out", "a.json", *QUICK, "--method", "evolution", "--tune", "coefficients"],
            "tune must name one or both of ['times', 'variants'] for operators='genetic', got ['coefficients']; use 'cma'",
        ),
        (["tune", "--out", "a.json", *QUICK, "--method", "ays", "--fix-start"], "fix_start does not go with method 'ays'"),
        (["tune", "--out", "a.json", *QUICK, "--method", "evolution:budget=2"], "needs a network that is a ttune.Variants"),
        (["evaluate", "missing.json"], "missing.json"),
        (
            ["sample", "--out", "a.png", "--samples", "2", "--steps", "2", "--condition", "class_label", "11"],
            "got {'class_label': 11}: index out",
        ),
        (
            ["tune", "--out", "a.json", *QUICK, "--sampler", "auto", "--seed", str(2**40)],
            f"seed must be in [-{2**29}, {2**29}], got {2**40}",
        ),
        (["compare", "--out", "a.folder", *TINY, "--samples", "1"], "samples must be at least 2, got 1"),
        (
            ["sample", "--out", "a.png", "--samples", "9" * 30],
            "seed and samples must satisfy -2^63 <= seed <= 2^63 - samples, so that the samples' seeds are 64-bit integers, got seed=0 and",
        ),
        (["analytic", "--out", "a.json", "--samples", "9" * 30], "seed and samples must satisfy -2^63 <= seed <= 2^63 - samples"),
        (["report", "a.json", "--out", "a.html", "--seed", str(2**63)], f"got seed={2**63} and samples=128"),
        (["sample", "--out", "\0.png"], r"out must be a path without a zero byte or half a surrogate pair, got '\x00.png'"),
        (
            ["sample", "--out", "a.png", "--schedule", "\ud800"],
            r"schedule must be a path without a zero byte or half a surrogate pair, got '\ud800'",
        ),
        (["evaluate", "a.json", "\0"], "schedules must be a path without a zero byte"),
        (["evaluate", "a.json", "--work", "\0"], "work must be a path without a zero byte"),
        (["tune", "--out", "a.json", *TINY, "--checkpoint", "\0"], "checkpoint must be a path without a zero byte"),
        (["analytic", "--out", "\0"], "out must be a path without a zero byte"),
        (["compare", "--out", "\0"], "out must be a path without a zero byte"),
        (["demo", "--out", "\0"], "out must be a path without a zero byte"),
        (["report", "\0", "--out", "a.html"], "sources must be a path without a zero byte"),
        (["export", "--schedule", "\0"], "schedule must be a path without a zero byte"),
        (["import", "--values", "\0", "--out", "a.json", "--noise", "edm"], "values must be a path without a zero byte"),
    ],
)
def test_mistakes_are_one_clear_line(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in failure(arguments, capsys)


@pytest.mark.parametrize("said", ["", "two", "0", "-1", "1.5"])
def test_a_number_of_processes_that_is_none_is_one_line(
    said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", said)
    assert failure(["info"], capsys).startswith(
        f"ttune: WORLD_SIZE must be a whole number >= 1, as torchrun sets it in the environment, got {said!r}"
    )


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "Interrupted."), (signal.SIGTERM, "Terminated.")])
@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["sample", "--out", "a.npz"], "the same command begins again"),
        (["evaluate", "t.json", "--features", "pixels", "--samples", "4"], "With --work, what was finished is kept there"),
        (
            ["compare", "--out", "c", "--methods", "trajectory", "--samples", "4", "--validation-samples", "4", "--test-samples", "4"],
            "finished are kept in",
        ),
        (["report", "t.json", "--out", "a.html"], "The page may not have been written"),
    ],
)
def test_an_interrupted_command_says_what_is_left_of_it(
    command: list[str],
    says: str,
    number: int,
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    ttune.Schedule.build(ttune.NoiseSchedule.linear(), "ddim", 2).save("t.json")
    monkeypatch.setenv("TINY_MODEL_INTERRUPT_AT", "1")
    monkeypatch.setenv("TINY_MODEL_SIGNAL", str(int(number)))
    with pytest.raises(SystemExit) as stop:
        main([*command, *TINY])
    assert stop.value.code == 128 + number
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(word)
    assert says in said[-1]


def test_a_report_file_that_somebody_made_up_is_no_traceback(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    ttune.Schedule.build(ttune.NoiseSchedule.linear(), "ddim", 2).save(file)
    start = {"sampler": "ddim", "times": [999, 499, -1], "options": None}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tuned": {"start": start}, "digest": ""}))
    assert "its record of 'start' is not a schedule: options must be a mapping" in str(read_sources([file]).entries[0].record.faults)
    main(["report", str(file), "--out", str(tmp_path / "r.html")])
    assert (tmp_path / "r.html").exists()


def test_a_stochastic_schedule_is_judged_by_the_seed(tmp_path: Path) -> None:
    file = tmp_path / "ddpm.json"
    ttune.Schedule.build(ttune.NoiseSchedule.linear(), "ddpm", 2).save(file)
    tables = []
    for name in ("a.json", "b.json"):
        main(["evaluate", str(file), "--samples", "4", "--batch-size", "2", "--no-teacher", "--quiet", "--out", str(tmp_path / name)])
        tables.append([row | {"seconds": 0} for row in json.loads((tmp_path / name).read_text())["rows"]])
    assert tables[0] == tables[1]


def test_a_schedule_for_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ttune.json"
    main(["tune", "--out", str(file), *QUICK])
    capsys.readouterr()
    sample = ["sample", "--out", str(tmp_path / "a.png"), "--schedule", str(file)]
    assert "made for the sampler 'ddim', got 'dpmpp_2m'" in failure([*sample, *TINY, "--sampler", "dpmpp_2m"], capsys)
    assert "was tuned for 'tiny': pass --model" in failure(sample, capsys)
    assert "tuned for another denoiser: clip_sample is 1.0" in failure([*sample, "--model", "fashion"], capsys)
    file.write_bytes(file.read_bytes()[:-40])
    assert "not a readable schedule file" in failure([*sample, *TINY], capsys)


def test_sampler_options_and_analytic_variance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["analytic", "--steps", "3", "--samples", "16", "--out", str(tmp_path / "a.json"), "--quiet"])
    schedule = ttune.Schedule.load(tmp_path / "a.json")
    assert schedule.options["variance"] == "analytic"
    gammas = schedule.options["gammas"]
    assert isinstance(gammas, tuple)
    assert all(0.3 < gamma < 1.1 for gamma in gammas)  # a trained network predicts noise of nearly unit variance
    main(["sample", "--schedule", str(tmp_path / "a.json"), "--samples", "2", "--out", str(tmp_path / "a.png")])
    untuned = ["sample", "--sampler", "unipc", "--steps", "3", "--samples", "2", "--out", str(tmp_path / "b.png"), "--option"]
    main([*untuned, "order", "3", "variant", "bh1", "corrector", "false"])
    for words, message in (
        (["order", "7"], "order must be 1, 2 or 3, got 7"),
        (["order", "3.0"], "order of the sampler 'unipc' must be a whole number, as its default 2 is, got 3.0"),
        (["corrector", "no"], "corrector of the sampler 'unipc' must be true or false, as its default True is, got 'no'"),
        (["variant", "2"], r"variant must be one of \['bh1', 'bh2'\], got '2'"),
        (["eta", "1"], r"must be among \['order', 'variant', 'corrector'\], got \['eta'\]"),
    ):
        assert re.search(message, failure([*untuned, *words], capsys))
    capsys.readouterr()
    main(["info"])
    out = capsys.readouterr().out
    assert "unipc (order=2, variant='bh2', corrector=True)" in out
    assert "timetuner (procedure='sequential', iterations=500, lr=0.002, reroll=False)" in out


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m ttune info | true"
    run = subprocess.run(["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False)
    assert run.stderr == ""
    assert run.returncode in (0, 128 + 13)  # 0 where it was done before the reader went
