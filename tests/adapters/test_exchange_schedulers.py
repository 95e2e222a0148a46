"""``exchange.set_timesteps`` against every scheduler of diffusers, in many settings: it steps where the schedule does, or is refused.

What a scheduler steps on is not asked of it but seen: the network here knows its one image, so that every state says its noise level.
"""

from __future__ import annotations

import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ttune
from tests.hosts import diffusers
from ttune import NoiseSchedule, Schedule
from ttune.cli.main import main

VP = NoiseSchedule.scaled_linear()
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
WHOLE = Schedule.build(VP, "euler", 5, [999.0, 741.0, 480.0, 211.0, 30.0, -1.0])
FRACTIONAL = Schedule.build(VP, "euler", 5, [999.0, 741.5, 480.25, 211.75, 30.5, -1.0])
FLOW = Schedule.build(NoiseSchedule.flow(), "euler", 5, [1.0, 0.83, 0.61, 0.377, 0.1, 0.0])
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_lu_lambdas": True},
    {"shift": 3.0},
    {"shift_terminal": 0.05},
    {"interpolation_type": "log_linear"},
    {"final_sigmas_type": "sigma_min"},
    {"timestep_type": "continuous", "prediction_type": "v_prediction"},
    {"timestep_spacing": "trailing"},
    {"set_alpha_to_one": False},
    {"steps_offset": 1},
    {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"},
    {"use_dynamic_shifting": True},
    {"use_dynamic_shifting": True, "time_shift_type": "linear"},
)


def schedulers() -> list[str]:
    package = diffusers()
    kinds = {name: getattr(package, name) for name in dir(package) if name.endswith("Scheduler") and not name.startswith("Flax")}
    return sorted(n for n, k in kinds.items() if inspect.isclass(k) and "dummy" not in k.__module__ and hasattr(k, "set_timesteps"))


def made(name: str, settings: dict[str, Any]) -> Any:
    """The scheduler with the model's betas, nothing clipped; None where it has not these settings, or does not take them."""
    kind = getattr(diffusers(), name)
    own = inspect.signature(kind).parameters
    if not settings.keys() <= own.keys():
        return None
    base = {k: v for k, v in (BETAS | {"clip_sample": False}).items() if k in own}
    try:
        return kind(**base | settings)
    except (ValueError, NotImplementedError, ImportError, TypeError):
        return None


def end_state(scheduler: Any, schedule: Schedule, arguments: dict[str, Any]) -> torch.Tensor:
    """Where a run ends whose network knows that the image is .7 everywhere: there, if it is passed the solver's time at every step."""
    scheduler.set_timesteps(**arguments)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 8, 8, generator=generator, dtype=torch.float64)
    flow = isinstance(schedule.noise, ttune.noise.continuous.Flow)
    x = x * (1.0 if flow else float(scheduler.init_noise_sigma))
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        at = float(t) / (1000 if flow else 1)
        alpha, sigma = float(schedule.noise.alpha(at)), float(schedule.noise.sigma(at))
        output = (seen - alpha * 0.7) / sigma if not flow else (x - 0.7) / sigma
        more = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
        x = scheduler.step(output, t, x, **more).prev_sample
    return x


@pytest.mark.parametrize("name", schedulers())
def test_a_scheduler_steps_where_the_schedule_does_or_is_refused(name: str) -> None:
    accepted, refusals = 0, list[str]()
    takes = "timesteps" in inspect.signature(getattr(diffusers(), name).set_timesteps).parameters
    for settings in SETTINGS if takes else ({},):
        for schedule, mu in ((WHOLE, None), (FRACTIONAL, None), (FLOW, None), (FLOW, 0.7)) if takes else ((WHOLE, None),):
            scheduler = made(name, settings)
            if scheduler is None:
                continue
            own = {} if mu is None else {"mu": mu}
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    arguments = ttune.exchange.set_timesteps(scheduler, schedule, **own)
            except ValueError as error:
                refusals.append(str(error))
                continue
            accepted += 1
            ends = end_state(scheduler, schedule, arguments | own)
            # TCD's solver ends at index 0 wherever its steps are.
            assert (ends - 0.7).abs().max() < (0.1 if name == "TCDScheduler" else 0.02), (settings, schedule.times, arguments)
    assert all(name in refusal for refusal in refusals), refusals
    if name in ("EulerDiscreteScheduler", "HeunDiscreteScheduler", "FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler"):
        assert accepted >= 2


FLOWS = (
    ({"shift": 1.0}, {}, "timesteps"),
    ({"shift": 3.0}, {}, "sigmas"),
    ({"use_dynamic_shifting": True}, {"mu": 0.7}, "sigmas"),
    ({"use_dynamic_shifting": True, "time_shift_type": "linear"}, {"mu": 1.4}, "sigmas"),
)


@pytest.mark.parametrize(("settings", "own", "given"), FLOWS)
def test_the_shift_of_a_flow_scheduler_is_taken_off(settings: dict[str, Any], own: dict[str, float], given: str) -> None:
    scheduler = diffusers().FlowMatchEulerDiscreteScheduler(**settings)
    arguments = ttune.exchange.set_timesteps(scheduler, FLOW, **own)
    assert list(arguments) == [given]
    scheduler.set_timesteps(**arguments, **own)
    np.testing.assert_allclose(scheduler.sigmas, FLOW.times, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(scheduler.timesteps, 1000 * FLOW.times[:-1], rtol=1e-6)


REFUSED = (
    ("FlowMatchEulerDiscreteScheduler", {"use_karras_sigmas": True}, FLOW, r"step 1 begins at the noise level 0\.\d+ instead of 0\.83"),
    ("FlowMatchEulerDiscreteScheduler", {"shift_terminal": 0.05}, FLOW, "instead of"),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, FLOW, "mu must be given"),
    ("EulerDiscreteScheduler", BETAS | {"interpolation_type": "log_linear"}, FRACTIONAL, "6 steps|steps elsewhere|steps instead of 5"),
    (
        "EulerDiscreteScheduler",
        BETAS | {"final_sigmas_type": "sigma_min"},
        FRACTIONAL,
        r"last step ends at the noise level 0\.029",
    ),
    ("EulerDiscreteScheduler", BETAS, FLOW, "steps elsewhere"),
)


@pytest.mark.parametrize(("name", "settings", "schedule", "message"), REFUSED)
def test_a_scheduler_that_steps_elsewhere_is_refused(name: str, settings: dict[str, Any], schedule: Schedule, message: str) -> None:
    scheduler = getattr(diffusers(), name)(**settings)
    with pytest.raises(ValueError, match=message):
        ttune.exchange.set_timesteps(scheduler, schedule)


def test_other_betas_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"EulerDiscreteScheduler has other betas than the model .* at time 480.25"):
        ttune.exchange.set_timesteps(diffusers().EulerDiscreteScheduler(), FRACTIONAL)


def test_the_command_line_asks_the_scheduler_of_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diffusers().FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(tmp_path / "model" / "scheduler")
    diffusers().EulerDiscreteScheduler(**BETAS, final_sigmas_type="sigma_min").save_pretrained(tmp_path / "euler")
    FLOW.save(tmp_path / "flow.json")
    FRACTIONAL.save(tmp_path / "vp.json")
    FLOW.replace(noise=NoiseSchedule.flow(3.0)).save(tmp_path / "shifted.json")
    main(["export", "--schedule", str(tmp_path / "flow.json"), "--to", "sigmas", "--model", str(tmp_path / "model")])
    scheduler = diffusers().FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=json.loads(capsys.readouterr().out))
    np.testing.assert_allclose(scheduler.sigmas, FLOW.times, rtol=1e-6, atol=1e-7)
    for arguments, message in (
        (["flow.json", "--to", "timesteps", "--model", str(tmp_path / "model")], "use --to sigmas with --model"),
        (["shifted.json", "--to", "timesteps", "--scheduler", "FlowMatchEulerDiscreteScheduler"], "use --to sigmas with --model"),
        (["vp.json", "--to", "timesteps", "--model", str(tmp_path / "euler")], "the last step ends at the noise level"),
        (["vp.json", "--to", "timesteps", "--model", str(tmp_path)], r"model must be a folder with a scheduler_config\.json"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["export", "--schedule", str(tmp_path / arguments[0]), *arguments[1:]])
    main(["export", "--schedule", str(tmp_path / "vp.json"), "--to", "timesteps", "--scheduler", "EulerDiscreteScheduler"])
    assert json.loads(capsys.readouterr().out) == FRACTIONAL.times[:-1].tolist()
