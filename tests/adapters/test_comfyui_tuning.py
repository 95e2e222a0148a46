"""The node for ComfyUI that tunes, in the stand-in: what it finds is what ``ttune.tune`` finds of the same network."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ttune
from tests.adapters import comfy_stand_in as stand_in
from tests.adapters.small import Small
from tests.adapters.test_comfyui import CFG, FLOW, VP, nodes, table

__all__ = ["nodes"]  # a fixture

SETTINGS = {
    "samples": 8,
    "validation_samples": 4,
    "batch_size": 4,
    "iterations": 2,
    "seed": 3,
    "search_starts": False,
    "tune": ("network_times", "times"),
}
PROMPTS = [torch.tensor([1]), torch.tensor([2]), torch.tensor([3])]


class Guider(stand_in.CFGGuider):
    """With the prompts as its conditionings."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.conds = {"positive": PROMPTS, "negative": [torch.tensor([0])]}

    def predict_noise(self, x: Tensor, *rest: Any) -> Tensor:
        (prompt,) = self.conds["positive"]
        self.y = prompt.expand(len(x))
        return super().predict_noise(x, *rest)


def patcher(kind: str) -> stand_in.Patcher:
    if kind == "eps":
        sampling = stand_in.model_sampling(stand_in.ModelSamplingDiscrete, stand_in.EPS, table(VP))
    else:
        sampling = stand_in.model_sampling(stand_in.ModelSamplingDiscreteFlow, stand_in.CONST)
    return stand_in.Patcher(stand_in.Model(Small(scale=1000.0, dtype=torch.float32), sampling))


def teacher(noise: ttune.NoiseSchedule) -> ttune.tuning.Teacher:
    return ttune.tuning.Teacher.default(ttune.Schedule.build(noise, "ddim", 3, "linspace"), 12)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "noise", "prediction", "unit"), [("eps", VP, "epsilon", 1), ("flow", FLOW, "flow_prediction", 1000)])
def test_it_finds_what_tune_finds(nodes: Any, kind: str, noise: ttune.NoiseSchedule, prediction: str, unit: int) -> None:
    model, seen = patcher(kind), []
    tuning = importlib.import_module("comfyui.tuning").Tuning("ddim", 3, seen.append, teacher=teacher(noise), **SETTINGS)
    latent, guider = torch.zeros(4, 2, 6, 6), Guider(model, PROMPTS[0], CFG)
    assert torch.equal(guider.sample(latent, latent, tuning, torch.tensor([1.0, 0.0])), latent)

    network, spacing = model.model.network, "leading" if kind == "eps" else "linspace"
    denoiser = ttune.Denoiser(lambda x, t, y: network(x, unit * t, y), noise, prediction, guidance=ttune.ClassifierFree(CFG, {"y": 0}))
    draw = lambda seeds: {"y": torch.cat(PROMPTS)[seeds % 3]}  # noqa: E731
    start = ttune.Schedule.build(noise, "ddim", 3, spacing)
    mine = ttune.tune(
        denoiser,
        start,
        sample_shape=(2, 6, 6),
        conditions=draw,
        teacher=teacher(noise),
        optimizer="differences",
        progress=False,
        **SETTINGS,
    )
    theirs = tuning.result
    assert theirs.outcome == mine.outcome
    assert theirs.validation["rmse"] == pytest.approx(mine.validation["rmse"], rel=1e-2)
    np.testing.assert_allclose(theirs.schedule.times, mine.schedule.times, rtol=0.02, atol=1e-6)
    assert sum(seen) > 12 * 12
    assert guider.conds["positive"] == PROMPTS


def test_interruption_ends_it_and_the_model_is_as_it_was(nodes: Any) -> None:
    def interrupt(rows: int) -> None:
        raise KeyboardInterrupt

    model = patcher("eps")
    before = dict(model.model.model_sampling.__dict__)
    tuning = importlib.import_module("comfyui.tuning").Tuning("ddim", 3, interrupt, teacher=teacher(VP), **SETTINGS)
    guider, latent = Guider(model, PROMPTS[0], CFG), torch.zeros(4, 2, 6, 6)
    with pytest.raises(KeyboardInterrupt):
        guider.sample(latent, latent, tuning, torch.tensor([1.0, 0.0]))
    assert model.model.model_sampling.__dict__ == before
    assert guider.conds["positive"] == PROMPTS


def test_the_noise_of_a_model(nodes: Any) -> None:
    noise_of, sampling = importlib.import_module("comfyui.host").noise_of, stand_in.model_sampling
    zero = VP.zero_terminal_snr()
    for noise in (VP, ttune.NoiseSchedule.linear(), zero):
        assert noise_of(sampling(stand_in.ModelSamplingDiscrete, stand_in.EPS, table(noise))).to_dict() == noise.to_dict()
    other = noise_of(sampling(stand_in.ModelSamplingDiscrete, stand_in.EPS, table(ttune.NoiseSchedule.cosine())))
    np.testing.assert_allclose(other.alpha(np.arange(999.0)), ttune.NoiseSchedule.cosine().alpha(np.arange(999.0)), rtol=1e-6)
    flow = sampling(stand_in.ModelSamplingDiscreteFlow, stand_in.CONST)
    for shift in (1.0, 3.0):
        u = torch.arange(1, 1001) / 1000
        flow.sigmas = shift * u / (1 + (shift - 1) * u)
        assert noise_of(flow).to_dict() == ttune.NoiseSchedule.flow(shift).to_dict()
    edm = noise_of(sampling(stand_in.ModelSamplingContinuousEDM, stand_in.V_PREDICTION, 0.002, 80.0))
    assert edm.t_max == pytest.approx(80.0)


def test_what_a_schedule_remembers_of_the_guidance(nodes: Any) -> None:
    module, eps = importlib.import_module("comfyui.tuning"), patcher("eps").model.model_sampling
    assert module.guidance_of([[None, {}]], 3.0, eps) == {"prediction_type": "epsilon", "guidance_scale": 3.0}
    assert module.guidance_of([[None, {}]], 1.0, eps)["guidance_scale"] is None
    given = {"guidance_scale": 3.5, "guidance": "input"}
    assert module.guidance_of([[None, {"guidance": 3.5}]], 1.0, eps) == {"prediction_type": "epsilon", **given}
    with pytest.raises(ValueError, match="positive must have one guidance for all prompts"):
        module.guidance_of([[None, {"guidance": 3.5}], [None, {}]], 1.0, eps)
    with pytest.raises(ValueError, match=r"cfg must be 1 beside a guidance .* got 3"):
        module.guidance_of([[None, {"guidance": 3.5}]], 3.0, eps)
    with pytest.raises(ValueError, match="negative must be for the whole image and the whole run, got one with 'area'"):
        module.check_conditionings([[None, {}]], [[None, {"area": (8, 8, 0, 0)}]])
