"""Schedules as lists for other tools and back: nothing is truncated, and nothing is given up, without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ttune
from tests.adapters.small import tuned
from tests.hosts import diffusers
from ttune import NoiseSchedule, Schedule
from ttune.cli.main import main

VP = NoiseSchedule.scaled_linear()
FRACTIONAL = Schedule.build(VP, "euler", 4, "log_snr", t_start=900.5)
KEEPS = ["EulerDiscreteScheduler", "HeunDiscreteScheduler"]
TRUNCATES = ["DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler"]
TAKES_NONE = ["DDIMScheduler", "PNDMScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"]


def scheduler(name: str, **config: Any) -> Any:
    return getattr(diffusers(), name)(**config)


@pytest.mark.parametrize("name", KEEPS)
def test_schedulers_that_keep_fractions_are_given_them(name: str) -> None:
    arguments = ttune.exchange.set_timesteps(scheduler(name), FRACTIONAL)
    host = scheduler(name)
    host.set_timesteps(**arguments)
    np.testing.assert_allclose(list(dict.fromkeys(host.timesteps.tolist())), FRACTIONAL.times[:-1], rtol=1e-6)


def test_flow_times_are_a_thousandfold() -> None:
    schedule = Schedule.build(NoiseSchedule.flow(), "euler", 4, [0.9, 0.61, 0.377, 0.1, 0.0])
    host = scheduler("FlowMatchEulerDiscreteScheduler")
    host.set_timesteps(**ttune.exchange.set_timesteps(host, schedule))
    np.testing.assert_allclose(host.sigmas.tolist(), schedule.times, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "noise", "config"),
    [
        ("EulerDiscreteScheduler", VP, {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        ("FlowMatchEulerDiscreteScheduler", NoiseSchedule.flow(), {}),
        ("FlowMatchEulerDiscreteScheduler", NoiseSchedule.flow(3.0), {"shift": 3.0}),
    ],
)
def test_schedulers_that_take_sigmas_are_on_them(name: str, noise: NoiseSchedule, config: dict[str, Any]) -> None:
    schedule = Schedule.build(noise, "euler", 4, "linspace", t_start=0.9 * noise.t_max)
    host = scheduler(name, **config)
    host.set_timesteps(**ttune.exchange.set_sigmas(host, schedule))
    np.testing.assert_allclose(host.sigmas.tolist(), ttune.exchange.sigmas(schedule), rtol=1e-5, atol=1e-6)


def test_schedulers_that_are_not_on_sigmas_are_named() -> None:
    schedule = Schedule.build(NoiseSchedule.flow(), "euler", 4, "linspace")
    with pytest.raises(ValueError, match="scheduler: DDIMScheduler takes no sigmas of others"):
        ttune.exchange.set_sigmas(scheduler("DDIMScheduler"), schedule)
    with pytest.raises(ValueError, match="scheduler: UniPCMultistepScheduler does not keep the sigmas that it is given"):
        ttune.exchange.set_sigmas(scheduler("UniPCMultistepScheduler"), schedule)


@pytest.mark.parametrize("name", TRUNCATES)
def test_schedulers_that_truncate_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"scheduler: {name} truncates times, 900\.5 to 900; schedule\.with_integer_times\(\) gives"):
        ttune.exchange.set_timesteps(scheduler(name), FRACTIONAL)
    whole = FRACTIONAL.with_integer_times()
    host = scheduler(name)
    host.set_timesteps(**ttune.exchange.set_timesteps(host, whole))
    assert host.timesteps.tolist() == whole.times[:-1].tolist()


@pytest.mark.parametrize("name", TAKES_NONE)
def test_schedulers_that_take_none_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"scheduler: {name} takes no timesteps of others; use ttune\.diffusers\.apply"):
        ttune.exchange.set_timesteps(scheduler(name), FRACTIONAL)


NOISES = [VP, NoiseSchedule.continuous_vp(), NoiseSchedule.edm(), NoiseSchedule.ve(), NoiseSchedule.flow()]


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_lists_come_back_as_they_went(noise: NoiseSchedule) -> None:
    schedule = Schedule.build(noise, "dpmpp_2m", 5, "log_snr", t_start=0.9 * noise.t_max)
    sigmas = ttune.exchange.sigmas(schedule)
    assert sigmas[-1] == 0
    back = ttune.exchange.from_sigmas(noise, "dpmpp_2m", sigmas)
    np.testing.assert_allclose(back.times, schedule.times, rtol=1e-9, atol=1e-9 * noise.t_max)
    again = ttune.exchange.from_timesteps(noise, "dpmpp_2m", ttune.exchange.timesteps(schedule))
    np.testing.assert_allclose(again.times, schedule.times, rtol=1e-12)
    part = ttune.exchange.timesteps(schedule)[:3]
    assert ttune.exchange.from_timesteps(noise, "dpmpp_2m", part, final="min").steps == 2


def test_network_times_are_given_up_by_name_only() -> None:
    schedule = tuned(VP, "euler", 4)
    for export in (ttune.exchange.sigmas, ttune.exchange.timesteps):
        with pytest.raises(ValueError, match="schedule passes the network other times than its own"):
            export(schedule)
        assert export(schedule, times_only=True) == export(schedule.replace(network_times=schedule.tableau().times))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="schedule must end clean"):
        ttune.exchange.timesteps(Schedule.build(VP, "euler", 4, "linspace", final="min"))
    with pytest.raises(ValueError, match=r"values must lie in \[0, 14\.6146\], the noise levels of the model"):
        ttune.exchange.from_sigmas(VP, "euler", [80.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="values must be a list of finite numbers"):
        ttune.exchange.from_timesteps(VP, "euler", [float("nan")])
    with pytest.raises(ValueError, match="strictly decreasing"):
        ttune.exchange.from_timesteps(VP, "euler", [1.0, 2.0])
    with pytest.raises(ValueError, match="final must be 'zero' or 'min', got 'end'"):
        ttune.exchange.from_timesteps(VP, "euler", [2.0, 1.0], final="end")


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diffusers()
    schedule, file, listed, made = tuned(VP, "euler", 4), tmp_path / "ttune.json", tmp_path / "list.json", tmp_path / "made.json"
    schedule.save(file)
    main(["export", "--schedule", str(file), "--to", "t_ratios", "--out", str(listed)])
    main(["import", "--values", str(listed), "--kind", "t_ratios", "--like", str(file), "--out", str(made)])
    np.testing.assert_allclose(Schedule.load(made).network_times, schedule.network_times, rtol=1e-12)
    main(["export", "--schedule", str(file), "--to", "sigmas", "--times-only", "--out", str(listed)])
    main(["import", "--values", str(listed), "--noise", "scaled_linear", "--sampler", "dpmpp_2m", "--out", str(made)])
    back = Schedule.load(made)
    assert back.sampler == "dpmpp_2m"
    np.testing.assert_allclose(back.times, schedule.times, rtol=1e-9, atol=1e-9)
    capsys.readouterr()
    main(["export", "--schedule", str(file), "--to", "timesteps", "--scheduler", "EulerDiscreteScheduler", "--times-only"])
    assert json.loads(capsys.readouterr().out) == schedule.times[:-1].tolist()
    noise = ["--noise", "linear", "--noise-option", "steps", "500", "beta_end", "0.03"]
    listed.write_text("[400, 200.5, 10]")
    main(["import", "--values", str(listed), "--kind", "timesteps", *noise, "--sampler", "ddim", "--out", str(made)])
    assert Schedule.load(made).noise == NoiseSchedule.linear(500, beta_end=0.03)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "timesteps", "--scheduler", "LCMScheduler", "--times-only"], "LCMScheduler truncates times"),
        (["--to", "timesteps", "--scheduler", "UNet2DModel", "--times-only"], "must be a scheduler class of diffusers"),
        (["--to", "sigmas"], "--times-only"),
        (["--to", "sigmas", "--scheduler", "LCMScheduler"], "scheduler goes with --to timesteps"),
        (["--to", "sigmas", "--mu", "1.0", "--times-only"], "mu is for the scheduler of --model or --scheduler, got 1 without one"),
    ],
)
def test_refusals_of_the_command_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    diffusers()
    tuned(VP, "euler", 4).save(tmp_path / "ttune.json")
    with pytest.raises(SystemExit, match=message):
        main(["export", "--schedule", str(tmp_path / "ttune.json"), *arguments])


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("{}", ["--noise", "linear", "--sampler", "ddim"], "this must be a list of numbers"),
        ("[1, true]", ["--noise", "linear", "--sampler", "ddim"], "this must be a list of numbers"),
        ("[" * 100000, ["--noise", "linear", "--sampler", "ddim"], "this is no JSON"),
        (f"[1{'0' * 400}, 2]", ["--noise", "linear", "--sampler", "ddim"], "this must be a list of numbers within the range of float64"),
        ("[3, 2]", ["--sampler", "ddim"], "like or noise must be given"),
        ("[3, 2]", ["--noise", "linear"], "sampler must be given"),
        ("[3, 2]", ["--noise", "linear", "--kind", "t_ratios"], "like must be given for t_ratios"),
    ],
)
def test_refusals_of_import(content: str, arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(SystemExit, match=message):
        main(["import", "--values", str(tmp_path / "list.json"), "--out", str(tmp_path / "out.json"), *arguments])
    assert not (tmp_path / "out.json").exists()
