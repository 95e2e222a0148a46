"""The nodes for ComfyUI, in a stand-in for the parts of it that they touch (tests/adapters/comfy_stand_in.py), with k-diffusion's own
samplers, from which ComfyUI's are descended."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ttune
from tests.adapters import comfy_stand_in as stand_in
from tests.adapters.k_diffusion_modules import modules
from tests.adapters.small import Small, noise_like, tuned
from ttune import NoiseSchedule

ROOT = Path(__file__).parent.parent.parent
VP = NoiseSchedule.scaled_linear()
X_T, Y = noise_like(3, 2, 6, 6), torch.tensor([1, 2, 3])


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(ROOT / "integrations")
    with stand_in.comfy():
        yield importlib.import_module("comfyui").NODE_CLASS_MAPPINGS


def discrete() -> stand_in.Patcher:
    levels = VP.sigma(np.arange(1000.0)) / VP.alpha(np.arange(1000.0))
    return stand_in.Patcher(stand_in.Model(Small(scale=1000), stand_in.Discrete(torch.from_numpy(levels))))


def sampled(
    patcher: stand_in.Patcher, function: str, x: torch.Tensor, sigmas: torch.Tensor, together: Any = lambda i: True
) -> torch.Tensor:
    return stand_in.Guider(patcher, Y, 3.0, together).sample(getattr(modules()[0], function), x, sigmas)


@pytest.mark.parametrize(("sampler", "function"), [("euler", "sample_euler"), ("heun", "sample_heun"), ("dpmpp_2m", "sample_dpmpp_2m")])
@pytest.mark.parametrize("together", [lambda i: True, lambda i: False, lambda i: i % 2 == 0], ids=["together", "apart", "in turn"])
def test_a_graph_samples_as_our_own_loop(nodes: Any, tmp_path: Path, sampler: str, function: str, together: Any) -> None:
    patcher = discrete()
    schedule = tuned(VP, sampler, 4, t_start=900.0)
    schedule.save(tmp_path / "ttune.json")
    loaded, summary = nodes["TtuneLoadSchedule"]().load(str(tmp_path / "ttune.json"))
    assert sampler in summary
    (sigmas,) = nodes["TtuneScheduleSigmas"]().sigmas(loaded)
    assert sigmas.dtype == torch.float32
    assert nodes["TtuneScheduleSampler"]().sampler(loaded) == (("sampler", sampler),)
    (model,) = nodes["TtuneApplySchedule"]().apply(patcher, loaded)

    network = patcher.model.network
    denoiser = ttune.Denoiser(lambda x, t, y: network(x, t, y), VP, guidance=ttune.ClassifierFree(3.0, {"y": 0}))
    mine = ttune.sample(denoiser, schedule, X_T, conditions={"y": Y})
    start = ttune.k_diffusion.start(schedule, X_T)
    before = sampled(patcher, function, start, sigmas.double(), together)
    theirs = sampled(model, function, start, sigmas.double(), together)
    assert (mine - theirs).abs().max() / mine.abs().max() < 1e-5  # sigmas are float32 there
    assert torch.equal(sampled(model, function, start, sigmas.double(), together), theirs)
    # Without the node the network hears the nearest whole times, as ever, and bit for bit what it heard before.
    network.heard.clear()
    assert torch.equal(sampled(patcher, function, start, sigmas.double(), together), before)
    assert all(t % 1 == 0 for t in network.heard)
    assert not torch.allclose(before, theirs, atol=1e-3)
    assert type(patcher.model.model_sampling) is stand_in.Discrete
    assert "timestep" not in patcher.model.model_sampling.__dict__


def test_flow_models(nodes: Any) -> None:
    noise, network = NoiseSchedule.flow(), Small(scale=1000)
    patcher = stand_in.Patcher(stand_in.Model(network, stand_in.Flow()))
    schedule = tuned(noise, "euler", 4, "linspace")
    (model,) = nodes["TtuneApplySchedule"]().apply(patcher, schedule)
    (sigmas,) = nodes["TtuneScheduleSigmas"]().sigmas(schedule)
    guidance = ttune.ClassifierFree(3.0, {"y": 0})
    denoiser = ttune.Denoiser(lambda x, t, y: network(x, 1000 * t, y), noise, "flow_prediction", guidance=guidance)
    mine = ttune.sample(denoiser, schedule, X_T, conditions={"y": Y})
    theirs = sampled(model, "sample_euler", X_T, sigmas.double())
    assert (mine - theirs).abs().max() / mine.abs().max() < 1e-5


def test_the_patch_is_of_the_clone_and_asks_the_original_between_evaluations(nodes: Any) -> None:
    patcher, schedule = discrete(), tuned(VP, "euler", 4)
    (model,) = nodes["TtuneApplySchedule"]().apply(patcher, schedule)
    assert not patcher.patches
    assert not patcher.wrappers
    patched = model.get_model_object("model_sampling")
    sigma = torch.tensor([3.3], dtype=torch.float64)
    assert torch.equal(patched.timestep(sigma), patcher.model.model_sampling.timestep(sigma))
    assert isinstance(patched, stand_in.Discrete)


def test_what_does_not_fit_is_refused(nodes: Any) -> None:
    patcher, schedule = discrete(), tuned(VP, "euler", 4)
    (model,) = nodes["TtuneApplySchedule"]().apply(patcher, schedule)
    with pytest.raises(ValueError, match="sigma must be"):
        sampled(model, "sample_euler", X_T, torch.tensor([10.0, 3.0, 1.0, 0.0], dtype=torch.float64))
    assert type(patcher.model.model_sampling) is stand_in.Discrete
    with pytest.raises(ValueError, match="schedule must have the model's noise"):
        nodes["TtuneApplySchedule"]().apply(patcher, tuned(NoiseSchedule.linear(), "euler", 4))
    with pytest.raises(ValueError, match=r"schedule is for flow times, which this model \(largest sigma 14"):
        nodes["TtuneApplySchedule"]().apply(patcher, tuned(NoiseSchedule.flow(), "euler", 4, "linspace"))
    with pytest.raises(ValueError, match="to have a sampler here, got 'deis'"):
        nodes["TtuneScheduleSampler"]().sampler(tuned(VP, "deis", 4))


def test_a_node_behind_that_replaces_model_sampling_is_noticed(nodes: Any) -> None:
    patcher, schedule = discrete(), tuned(VP, "euler", 4)
    (model,) = nodes["TtuneApplySchedule"]().apply(patcher, schedule)
    model.add_object_patch("model_sampling", stand_in.Discrete(patcher.model.model_sampling.sigmas))
    (sigmas,) = nodes["TtuneScheduleSigmas"]().sigmas(schedule)
    with pytest.raises(ValueError, match="another node replaced model_sampling after this one"):
        sampled(model, "sample_euler", ttune.k_diffusion.start(schedule, X_T), sigmas.double())


def test_every_node_says_what_comfyui_asks(nodes: Any) -> None:
    for node in nodes.values():
        assert callable(getattr(node, node.FUNCTION))
        assert isinstance(node.RETURN_TYPES, tuple)
        assert node.CATEGORY
        assert "required" in node.INPUT_TYPES()


def test_the_package_imports_nothing_of_it() -> None:
    for file in (ROOT / "ttune").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            assert not any(name.split(".")[0] in ("comfy", "integrations") for name in names), file
