"""A plain scheduler never samples from the configuration of a tuned one; a tuned pipeline survives saving."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ttune
from tests.adapters.diffusers_models import ddpm, loaded, saved
from tests.hosts import diffusers
from ttune.adapters.diffusers.scheduler import GUARDED, REFUSAL

# That facts and pipelines know; the others are found by their settings.
NAMED = (
    *("DDIM", "DDPM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep"),
    *("DEISMultistep", "UniPCMultistep", "LMSDiscrete", "KDPM2Discrete", "LCM", "TCD", "EDMEuler"),
    *("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "FlowMatchLCM"),
)


def tuned_scheduler(flow: bool = False) -> Any:
    base = diffusers().FlowMatchEulerDiscreteScheduler() if flow else diffusers().DDIMScheduler(clip_sample=False)
    noise = ttune.NoiseSchedule.flow() if flow else ttune.NoiseSchedule.linear()
    schedule = ttune.Schedule.build(noise, "euler" if flow else "ddim", 5, "linspace")
    return ttune.diffusers.TunedScheduler.of([schedule], base, {})


def with_a_guarded_setting() -> list[str]:
    package = diffusers()
    found = {name: getattr(package, name) for name in dir(package) if name.endswith("Scheduler")}
    return sorted(
        name
        for name, kind in found.items()
        if inspect.isclass(kind) and "dummy" not in kind.__module__ and set(GUARDED) & set(inspect.signature(kind.__init__).parameters)
    )


@pytest.mark.parametrize("flow", [False, True], ids=["discrete", "flow"])
def test_every_plain_scheduler_refuses_the_configuration(flow: bool, tmp_path: Path) -> None:
    tuned = tuned_scheduler(flow)
    tuned.save_pretrained(tmp_path)
    names = with_a_guarded_setting()
    assert {f"{name}Scheduler" for name in NAMED} <= set(names)
    for name in names:
        kind = getattr(diffusers(), name)
        for read in (lambda kind=kind: kind.from_config(tuned.config), lambda kind=kind: kind.from_pretrained(tmp_path)):
            with pytest.raises((ValueError, NotImplementedError, TypeError, UnboundLocalError)):
                read().set_timesteps(5)  # PiflowScheduler looks at its settings only here


def test_the_refusal_says_why() -> None:
    with pytest.raises(NotImplementedError, match=r"tuned by ttune, for ttune\.diffusers\.TunedScheduler alone"):
        diffusers().DDIMScheduler.from_config(tuned_scheduler().config)


def test_pipelines_still_find_the_settings_of_the_model() -> None:
    base = diffusers().DDIMScheduler(steps_offset=1, clip_sample=False, prediction_type="v_prediction")
    schedule = ttune.Schedule.build(ttune.NoiseSchedule.linear(), "ddim", 5)
    tuned = ttune.diffusers.TunedScheduler.of([schedule], base, {})
    assert (tuned.config.steps_offset, tuned.config.prediction_type, tuned.config.num_train_timesteps) == (1, "v_prediction", 1000)
    assert tuned.config.beta_schedule == REFUSAL
    again = tuned.original()
    assert type(again) is type(base)
    assert {k: v for k, v in again.config.items() if k[0] != "_"} == {k: v for k, v in base.config.items() if k[0] != "_"}


def tuned_pipeline(folder: Path) -> tuple[Any, ttune.Schedule]:
    pipeline = ddpm(folder / "plain")
    schedule = ttune.Schedule.build(ttune.NoiseSchedule.linear(), "dpmpp_2m", 4, "log_snr")
    schedule = schedule.replace(network_times=0.9 * schedule.network_times)
    ttune.diffusers.apply(pipeline, schedule)
    return pipeline, schedule


def pictures(pipeline: Any) -> np.ndarray:
    return pipeline(batch_size=2, num_inference_steps=4, output_type="np", generator=torch.Generator().manual_seed(3)).images


def test_a_saved_tuned_pipeline_must_be_applied_again(tmp_path: Path) -> None:
    pipeline, schedule = tuned_pipeline(tmp_path)
    before = pictures(pipeline)
    again = loaded("DDPMPipeline", saved(pipeline, tmp_path / "tuned"))
    assert isinstance(again.scheduler, ttune.diffusers.TunedScheduler)
    with pytest.raises(RuntimeError, match=r"no network was passed 899\.1 instead of 999: call ttune.diffusers.apply"):
        pictures(again)
    ttune.diffusers.apply(again)
    assert next(iter(again.scheduler.schedules.values())) == schedule
    assert (pictures(again) == before).all()
    assert ttune.diffusers.remove(again)
    assert type(again.scheduler.original()) is diffusers().DDPMScheduler


def test_without_ttune_a_saved_tuned_pipeline_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, _ = tuned_pipeline(tmp_path)
    folder = saved(pipeline, tmp_path / "tuned")
    monkeypatch.delitem(sys.modules, "ttune.adapters.diffusers.scheduler")  # as if nobody had imported it
    with pytest.raises(ValueError, match=r"import ttune\.adapters\.diffusers\.scheduler before calling"):
        loaded("DDPMPipeline", folder)


def test_a_pipeline_that_rebuilds_its_scheduler_refuses(tmp_path: Path) -> None:
    """DDIMPipeline makes a DDIMScheduler of whatever it is given."""
    pipeline, _ = tuned_pipeline(tmp_path)
    folder = saved(pipeline, tmp_path / "tuned")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "DDIMPipeline"}))
    with pytest.raises(NotImplementedError, match="tuned by ttune"):
        loaded("DDIMPipeline", folder)


def test_another_scheduler_set_after_apply_is_refused(tmp_path: Path) -> None:
    pipeline, _ = tuned_pipeline(tmp_path)
    pipeline.scheduler = diffusers().DDIMScheduler()
    with pytest.raises(ValueError, match=r"scheduler must be the one that ttune\.diffusers\.apply put there, got DDIMScheduler"):
        pictures(pipeline)


def test_a_changed_schedule_in_a_saved_configuration_is_refused(tmp_path: Path) -> None:
    tuned_scheduler().save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    content = json.loads(path.read_text())
    content["ttune_schedules"]["network_times"][0] = 7.0
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was changed after it was written"):
        ttune.diffusers.TunedScheduler.from_pretrained(tmp_path)
