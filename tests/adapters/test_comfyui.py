"""The nodes for ComfyUI, in a stand-in for the parts of it that they touch (tests/adapters/comfy_stand_in.py). Every sampling is compared
with ``ttune.sample`` of the same network."""

from __future__ import annotations

import ast
import asyncio
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from torch import Tensor

import ttune
from tests.adapters import comfy_stand_in as stand_in
from tests.adapters.small import Small, noise_like, tuned
from ttune import NoiseSchedule
from ttune.adapters.preconditioned import Preconditioned

tomllib = pytest.importorskip("tomllib")  # since Python 3.11
ROOT = Path(__file__).parent.parent.parent
VP, ZERO, FLOW, EDM = (
    NoiseSchedule.scaled_linear(),
    NoiseSchedule.scaled_linear().zero_terminal_snr(),
    NoiseSchedule.flow(),
    NoiseSchedule.edm(),
)
X_T, LATENT, Y = noise_like(3, 2, 6, 6), noise_like(6, 2, 6, 6)[3:], torch.tensor([1, 2, 3])
EMPTY = torch.zeros_like(X_T)
CFG = 3.0


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """By their ids, as ComfyUI gets them: of modules of their own, as they import ComfyUI's."""
    monkeypatch.syspath_prepend(ROOT / "integrations")
    with stand_in.comfy(models_dir=str(tmp_path / "models")):
        for name in [name for name in sys.modules if name.split(".")[0] == "comfyui"]:
            monkeypatch.delitem(sys.modules, name)
        extension = asyncio.run(importlib.import_module("comfyui").comfy_entrypoint())
        yield {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


def table(noise: NoiseSchedule) -> Tensor:
    alpha = np.maximum(noise.alpha(np.arange(1000.0)), 4.8973451890853435e-08**0.5)  # ComfyUI's least alpha
    return torch.from_numpy((1 - alpha**2) ** 0.5 / alpha)


def host(kind: str) -> stand_in.Patcher:
    sampling = {
        "eps": lambda: stand_in.model_sampling(stand_in.ModelSamplingDiscrete, stand_in.EPS, table(VP)),
        "v": lambda: stand_in.model_sampling(stand_in.ModelSamplingDiscrete, stand_in.V_PREDICTION, table(VP)),
        "zero": lambda: stand_in.model_sampling(stand_in.ModelSamplingDiscrete, stand_in.V_PREDICTION, table(ZERO)),
        "flow": lambda: stand_in.model_sampling(stand_in.ModelSamplingDiscreteFlow, stand_in.CONST),
        "edm": lambda: stand_in.model_sampling(stand_in.ModelSamplingContinuousEDM, stand_in.V_PREDICTION, 0.002, 120.0),
    }[kind]()
    return stand_in.Patcher(stand_in.Model(Small(scale=1.0 if kind == "edm" else 1000.0), sampling))


NOISES = {"eps": VP, "v": VP, "zero": ZERO, "flow": FLOW, "edm": EDM}
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "zero": "v_prediction", "flow": "flow_prediction", "edm": "sample"}


def preconditioned(network: Any) -> Preconditioned:
    """D of a network that predicts v at log(sigma) / 4, as ComfyUI's continuous EDM models are."""

    def D(x: Tensor, tau: Tensor, *, position: float, y: Tensor) -> Tensor:
        scale = (position**2 + 1) ** 0.5
        return x / scale**2 - network(x / scale, 0.25 * tau.log(), y) * (position / scale)

    return Preconditioned([D])


def ours(kind: str, patcher: stand_in.Patcher, schedule: ttune.Schedule, x: Tensor = X_T, scale: Any = CFG, **options: Any) -> Tensor:
    """The same network in ttune's own loop."""
    network, settings = patcher.model.network, {k: options.pop(k) for k in ("clip_sample", "clip_epsilon") if k in options}
    if kind == "edm":
        called: Any = preconditioned(network)
    else:
        called = (lambda x, t, y: network(x, 1000 * t, y)) if kind == "flow" else (lambda x, t, y: network(x, t, y))
    guidance = None if scale is None else ttune.ClassifierFree(scale, {"y": 0})
    denoiser = ttune.Denoiser(called, NOISES[kind], PREDICTIONS[kind], guidance=guidance, **settings)
    if kind == "edm" and not options.get("from_state"):
        x = x * EDM.sigma_max
    return ttune.sample(denoiser, schedule.replace(model={}), x, conditions={"y": Y}, **options)


def theirs(
    nodes: Any,
    patcher: Any,
    schedule: ttune.Schedule,
    noise: Tensor = X_T,
    *,
    sampler: Any = None,
    sigmas: Any = None,
    latent: Any = None,
    **run: Any,
) -> Tensor:
    """Through the nodes, as SamplerCustom runs them."""
    sampler = nodes["TtuneScheduleSampler"].execute(schedule)[0] if sampler is None else sampler
    sigmas = nodes["TtuneScheduleSigmas"].execute(schedule)[0] if sigmas is None else sigmas
    guider = run.pop("guider", None) or stand_in.CFGGuider(patcher, Y, run.pop("cfg", CFG), run.pop("together", lambda i: True))
    return guider.sample(noise, EMPTY if latent is None else latent, sampler, sigmas.double(), **run)


def own(name: str) -> Any:
    return sys.modules["comfy.samplers"].sampler_object(name)


def applied(nodes: Any, patcher: stand_in.Patcher, schedule: ttune.Schedule) -> stand_in.Patcher:
    return nodes["TtuneApplySchedule"].execute(patcher, schedule)[0]


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


CLOSE = 1e-5  # sigmas are float32 in ComfyUI


# ---- ttune's own sampler -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp_2m", "dpm_solver_3", "unipc", "ddpm", "dpmpp_2m_sde"])
@pytest.mark.parametrize("kind", ["eps", "v", "flow", "edm"])
def test_the_sampler_is_ttunes_own_loop(nodes: Any, kind: str, sampler: str) -> None:
    patcher, seeds = host(kind), importlib.import_module("comfyui.sampler").seeds_of
    schedule = tuned(NOISES[kind], sampler, 4, t_start=0.8 * NOISES[kind].t_max)
    drawn = seeds(11, 3) if schedule.tableau().stochastic else None
    assert relative(theirs(nodes, patcher, schedule, seed=11), ours(kind, patcher, schedule, seeds=drawn)) < CLOSE


@pytest.mark.parametrize("together", [lambda i: True, lambda i: False, lambda i: i % 2 == 0], ids=["together", "apart", "in turn"])
def test_however_the_conditionings_are_called(nodes: Any, together: Any) -> None:
    patcher, schedule = host("eps"), tuned(VP, "heun", 4)
    assert relative(theirs(nodes, patcher, schedule, together=together), ours("eps", patcher, schedule)) < CLOSE


def test_zero_terminal_snr_starts_where_alpha_is_zero(nodes: Any) -> None:
    for sampler in ("ddim", "dpmpp_2m"):
        patcher, schedule = host("zero"), tuned(ZERO, sampler, 4, "trailing")
        assert schedule.alphas[0] == 0
        assert relative(theirs(nodes, patcher, schedule), ours("zero", patcher, schedule)) < CLOSE
    epsilon = stand_in.Patcher(
        patcher.model, {"model_sampling": stand_in.model_sampling(stand_in.ModelSamplingDiscrete, stand_in.EPS, table(ZERO))}
    )
    with pytest.raises(ValueError, match="must predict 'v_prediction' or 'sample', this one 'epsilon'"):
        theirs(nodes, epsilon, schedule)


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_image_to_image_and_two_stages(nodes: Any, kind: str) -> None:
    patcher, schedule = host(kind), tuned(NOISES[kind], "dpmpp_2m", 4, t_start=0.9 * NOISES[kind].t_max)
    sigmas = nodes["TtuneScheduleSigmas"].execute(schedule)[0]
    for part, low in ((schedule, sigmas), (schedule.part(2), sigmas[2:])):
        state = float(part.alphas[0]) * LATENT + float(part.sigmas[0]) * X_T
        assert (
            relative(theirs(nodes, patcher, schedule, sigmas=low, latent=LATENT), ours(kind, patcher, part, state, from_state=True)) < CLOSE
        )
    half = theirs(nodes, patcher, schedule, sigmas=sigmas[:3])
    whole = theirs(nodes, patcher, schedule, EMPTY, sigmas=sigmas[2:], latent=half)
    first = ours(kind, patcher, schedule.part(0, 2))
    assert relative(whole, ours(kind, patcher, schedule.part(2), first, from_state=True)) < CLOSE
    # An empty latent in the middle is an image like any other.
    part = schedule.part(2)
    gray = theirs(nodes, patcher, schedule, sigmas=sigmas[2:])
    assert relative(gray, ours(kind, patcher, part, float(part.sigmas[0]) * X_T, from_state=True)) < CLOSE


def test_two_stages_that_meet_at_the_smallest_time(nodes: Any) -> None:
    patcher, schedule = host("eps"), ttune.Schedule(VP, "euler", np.array([900.0, 400.0, 0.0, -1.0]))
    sigmas = nodes["TtuneScheduleSigmas"].execute(schedule)[0]
    half = theirs(nodes, patcher, schedule, sigmas=sigmas[:3])
    whole = theirs(nodes, patcher, schedule, EMPTY, sigmas=sigmas[2:], latent=half)
    assert relative(whole, ours("eps", patcher, schedule)) < CLOSE


def test_a_mask_protects_and_its_noise_is_the_hosts(nodes: Any) -> None:
    patcher, schedule = host("eps"), tuned(VP, "dpmpp_2m", 4)
    mask = torch.ones(1, 1, 6, 6, dtype=X_T.dtype)
    mask[..., 3:] = 0
    network = patcher.model.network
    base = ttune.Denoiser(lambda x, t, y: network(x, t, y), VP, guidance=ttune.ClassifierFree(CFG, {"y": 0}))

    def masked(x: Tensor, tau: Tensor, *, position: float, y: Tensor) -> Tensor:
        noised = float(VP.alpha(position)) * LATENT + float(VP.sigma(position)) * X_T
        return mask * base(mask * x + (1 - mask) * noised, position, tau, y=y) + (1 - mask) * LATENT

    expected = ttune.Denoiser(Preconditioned([masked]), VP, "sample")
    state = float(schedule.alphas[0]) * LATENT + float(schedule.sigmas[0]) * X_T
    mine = ttune.sample(expected, schedule, state, conditions={"y": Y}, from_state=True)
    made = theirs(nodes, patcher, schedule, latent=LATENT, mask=mask)
    assert relative(made, mine) < CLOSE
    assert torch.equal(made[..., 3:], LATENT[..., 3:].expand_as(made[..., 3:]))


def test_what_a_schedule_says_beside_its_times(nodes: Any) -> None:
    patcher, schedule = host("eps"), tuned(VP, "dpmpp_2m", 4)
    coefficients = 0.02 * np.cos(np.arange(12.0)).reshape(4, 3)
    coefficients[0, 2] = 0
    corrected = schedule.replace(coefficients=coefficients, network_times=schedule.network_times)
    assert relative(theirs(nodes, patcher, corrected), ours("eps", patcher, corrected)) < CLOSE
    shifted = schedule.replace(shift=ttune.Shift(100.0, 50.0), network_times=schedule.network_times)
    assert relative(theirs(nodes, patcher, shifted), ours("eps", patcher, shifted)) < CLOSE
    for how in ("recompute", "keep"):
        clipped = tuned(VP, "ddim", 4).replace(model={"clip_sample": 1.0, "clip_epsilon": how})
        assert relative(theirs(nodes, patcher, clipped), ours("eps", patcher, clipped, clip_sample=1.0, clip_epsilon=how)) < CLOSE
    scales, guider = [2.0, 3.0, 4.0, 1.5], stand_in.CFGGuider(patcher, Y, 7.0)
    each = schedule.replace(model={"guidance_scale": scales})
    assert relative(theirs(nodes, patcher, each, guider=guider), ours("eps", patcher, each, scale=scales)) < CLOSE
    assert guider.cfg == 7.0


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_a_sample_that_ends_at_the_smallest_time(nodes: Any, kind: str) -> None:
    patcher, schedule = host(kind), tuned(NOISES[kind], "euler", 4, "linspace", final="min")
    assert relative(theirs(nodes, patcher, schedule), ours(kind, patcher, schedule)) < CLOSE


def test_noise_is_of_the_workflows_seed(nodes: Any) -> None:
    patcher, schedule = host("eps"), tuned(VP, "ddpm", 3)
    made = theirs(nodes, patcher, schedule, seed=2**64 - 1)
    assert torch.equal(made, theirs(nodes, patcher, schedule, seed=2**64 - 1))
    assert not torch.allclose(made, theirs(nodes, patcher, schedule, seed=1))
    seeds_of = importlib.import_module("comfyui.sampler").seeds_of
    assert torch.equal(seeds_of(4, 9)[:3], seeds_of(4, 3))
    assert not set(seeds_of(4, 9).tolist()) & set(seeds_of(5, 9).tolist())


def test_progress_preview_and_interruption(nodes: Any) -> None:
    patcher, schedule, shown = host("eps"), tuned(VP, "heun", 3), []
    theirs(nodes, patcher, schedule, callback=lambda step, D, x, total: shown.append((step, tuple(D.shape), total)))
    assert [step for step, *_ in shown] == [0, 1, 1, 2, 2]
    assert all(shape == tuple(X_T.shape) and total == 3 for _, shape, total in shown)

    def interrupt(step: int, *_: Any) -> None:
        if step == 1:
            raise KeyboardInterrupt

    guider, before = stand_in.CFGGuider(patcher, Y, CFG), dict(patcher.model.model_sampling.__dict__)
    with pytest.raises(KeyboardInterrupt):
        theirs(nodes, patcher, schedule, guider=guider, callback=interrupt)
    assert patcher.model.model_sampling.__dict__ == before
    assert guider.cfg == CFG
    assert relative(theirs(nodes, patcher, schedule), ours("eps", patcher, schedule)) < CLOSE


def test_memory_that_runs_out_is_comfyuis_business(nodes: Any) -> None:
    class Full(stand_in.CFGGuider):
        def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):  # no halves, which would have the conditionings of the first rows
        theirs(nodes, host("eps"), tuned(VP, "euler", 3), guider=Full(host("eps"), Y, CFG))


def test_sigmas_of_no_step_and_of_another_schedule(nodes: Any) -> None:
    patcher, schedule = host("eps"), tuned(VP, "dpmpp_2m", 4)
    sigmas = nodes["TtuneScheduleSigmas"].execute(schedule)[0]
    assert torch.equal(theirs(nodes, patcher, schedule, EMPTY, sigmas=sigmas[-1:], latent=LATENT), LATENT)
    for wrong in (sigmas.flip(0), sigmas[::2], sigmas * 1.001, torch.tensor([10.0, 3.0, 1.0, 0.0])):
        for model, sampler in ((patcher, None), (applied(nodes, patcher, schedule), own("dpmpp_2m"))):
            with pytest.raises(ValueError, match=r"sigmas must be the schedule's.*connect 'ttune: sigmas of schedule'"):
                theirs(nodes, model, schedule, sigmas=wrong, sampler=sampler)
    heun = tuned(VP, "heun", 4)
    with pytest.raises(ValueError, match="steps 2 to 4 of 4 only: part is defined for samplers with one evaluation a step"):
        theirs(nodes, patcher, heun, sigmas=nodes["TtuneScheduleSigmas"].execute(heun)[0][2:])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"variants": (1, 0, 0, 0)}, "variants of the network"),
        ({"model": {"threshold": "DynamicThreshold(...)"}}, "a threshold"),
        ({"model": {"switch_at": [500.0]}}, "several networks"),
        ({"sampler": "ddpm", "options": {"variance": "learned_range"}}, "a learned variance"),
    ],
)
def test_what_only_ttune_can_run_is_refused_at_the_node(nodes: Any, change: dict[str, Any], what: str) -> None:
    schedule = tuned(VP, "ddim", 4).replace(**change)
    for node in (nodes["TtuneScheduleSampler"].execute, lambda s: applied(nodes, host("eps"), s)):
        with pytest.raises(ValueError, match=f"schedule must do without {what}.*use ttune.sample"):
            node(schedule)


# ---- ComfyUI's own samplers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sampler"),
    [
        ("eps", "euler"),
        ("eps", "ddim"),
        ("eps", "heun"),
        ("eps", "kdpm_2"),
        ("eps", "dpmpp_2m"),
        ("v", "heun"),
        ("flow", "euler"),
        ("flow", "heun"),
        ("edm", "dpmpp_2m"),
    ],
)
@pytest.mark.parametrize("share", [1.0, 0.9])  # from the largest time, and from below it
def test_comfyuis_samplers_with_a_schedule(nodes: Any, kind: str, sampler: str, share: float) -> None:
    patcher, schedule = host(kind), tuned(NOISES[kind], sampler, 4, "linspace", t_start=share * NOISES[kind].t_max)
    name = {"kdpm_2": "dpm_2"}.get(sampler, sampler)
    before = theirs(nodes, patcher, schedule, sampler=own(name))
    model = applied(nodes, patcher, schedule)
    made = theirs(nodes, model, schedule, sampler=own(name))
    assert relative(made, ours(kind, patcher, schedule)) < CLOSE
    # Without the node everything is as ever, bit for bit.
    assert torch.equal(theirs(nodes, patcher, schedule, sampler=own(name)), before)
    assert not torch.allclose(before, made, atol=1e-3)
    assert "timestep" not in patcher.model.model_sampling.__dict__
    assert not patcher.wrappers


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_comfyuis_samplers_on_a_part_and_from_an_image(nodes: Any, kind: str) -> None:
    patcher, schedule = host(kind), tuned(NOISES[kind], "euler", 4, t_start=0.9 * NOISES[kind].t_max)
    model, sigmas, part = applied(nodes, patcher, schedule), nodes["TtuneScheduleSigmas"].execute(schedule)[0], schedule.part(2)
    state = float(part.alphas[0]) * LATENT + float(part.sigmas[0]) * X_T
    made = theirs(nodes, model, schedule, sampler=own("euler"), sigmas=sigmas[2:], latent=LATENT)
    assert relative(made, ours(kind, patcher, part, state, from_state=True)) < CLOSE
    half = theirs(nodes, model, schedule, sampler=own("euler"), sigmas=sigmas[:3])
    whole = theirs(nodes, model, schedule, EMPTY, sampler=own("euler"), sigmas=sigmas[2:], latent=half)
    assert relative(whole, ours(kind, patcher, schedule)) < CLOSE  # Euler's halves are the whole


@pytest.mark.parametrize(
    ("kind", "schedule", "what"),
    [
        ("flow", lambda: tuned(FLOW, "dpmpp_2m", 4, "linspace"), "dpmpp_2m on a flow model, where ComfyUI's is another solver"),
        ("flow", lambda: tuned(FLOW, "kdpm_2", 4, "linspace"), "kdpm_2 on a flow model"),
        ("zero", lambda: tuned(ZERO, "ddim", 4, "trailing"), "a start at alpha = 0"),
        ("eps", lambda: tuned(VP, "euler", 4, final="min"), "an end at the smallest trained time"),
        ("flow", lambda: tuned(FLOW, "euler", 4, "linspace", final="min"), "an end at the smallest trained time"),
        ("eps", lambda: tuned(VP, "ddim", 4, eta=1.0), "options, eta or lower_order_final"),
        ("eps", lambda: tuned(VP, "dpmpp_2m", 4).replace(coefficients=np.zeros((4, 3))), "tuned coefficients"),
        ("eps", lambda: tuned(VP, "euler", 4).replace(shift=ttune.Shift(100.0, 50.0)), "which needs the state"),
        ("eps", lambda: tuned(VP, "euler", 4).replace(model={"clip_sample": 1.0}), "clip_sample"),
        ("eps", lambda: tuned(VP, "euler", 4).replace(model={"guidance_scale": [1.0, 2.0, 3.0, 4.0]}), "a guidance scale per evaluation"),
    ],
)
def test_what_comfyuis_samplers_do_otherwise_is_refused(nodes: Any, kind: str, schedule: Any, what: str) -> None:
    patcher, made = host(kind), schedule()
    model = applied(nodes, patcher, made)
    with pytest.raises(ValueError, match=f"schedule must do without .*{what}.*use 'ttune: sampler of schedule'"):
        theirs(nodes, model, made, sampler=own({"kdpm_2": "dpm_2"}.get(made.sampler, made.sampler)))
    assert not patcher.model.network.passed
    assert torch.isfinite(theirs(nodes, model, made)).all()  # ttune's own sampler can


def test_another_sampler_than_the_schedules_is_refused(nodes: Any) -> None:
    patcher, schedule = host("eps"), tuned(VP, "euler", 4)
    model = applied(nodes, patcher, schedule)
    for name in ("dpmpp_2m", "lcm"):
        with pytest.raises(ValueError, match=f"sampler must be euler, the schedule is for 'euler', got {name}"):
            theirs(nodes, model, schedule, sampler=own(name))
    assert not patcher.model.network.passed
    churned = stand_in.KSAMPLER(own("euler").sampler_function, {"s_churn": 1.0, "s_noise": 1.0})
    with pytest.raises(ValueError, match=r"sampler must be plain euler, got the options \{'s_churn': 1.0\}"):
        theirs(nodes, model, schedule, sampler=churned)
    plain = stand_in.KSAMPLER(own("euler").sampler_function, {"s_churn": 0.0, "s_noise": 1.0})
    assert relative(theirs(nodes, model, schedule, sampler=plain), ours("eps", patcher, schedule)) < CLOSE
    deis = tuned(VP, "deis", 4)
    with pytest.raises(ValueError, match="to run in ComfyUI's samplers, got 'deis'; use 'ttune: sampler of schedule'"):
        theirs(nodes, applied(nodes, patcher, deis), deis, sampler=own("euler"))


def test_both_nodes_in_one_workflow(nodes: Any) -> None:
    """As workflows of earlier versions have them: the sampler node was ComfyUI's own sampler then."""
    patcher, schedule = host("eps"), tuned(VP, "dpmpp_2m", 4, t_start=800.0)
    model = applied(nodes, patcher, schedule)
    assert torch.equal(theirs(nodes, model, schedule), theirs(nodes, patcher, schedule))
    for other in (tuned(VP, "dpmpp_2m", 3), schedule.replace(model={"clip_sample": 1.0})):
        with pytest.raises(ValueError, match="sampler and model must have the same schedule"):
            theirs(nodes, model, other)
    with pytest.raises(ValueError, match="model must have one schedule, got one that has a schedule already"):
        applied(nodes, model, schedule)


def test_caches_of_other_nodes_and_conditionings_that_begin_later(nodes: Any) -> None:
    schedule = tuned(VP, "euler", 5)
    for model_of in (lambda p: (p, None), lambda p: (applied(nodes, p, schedule), own("euler"))):
        patcher, last = host("eps"), {}

        def cached(executor: Any, x: Tensor, sigma: Tensor, *rest: Any, last: dict[str, Any] = last) -> Tensor:
            last["calls"] = last.get("calls", 0) + 1
            if last["calls"] in (2, 3):
                return last["D"]
            last["D"] = executor(x, sigma, *rest)
            return last["D"]

        patcher.add_wrapper_with_key("predict_noise", "cache", cached)
        model, sampler = model_of(patcher)
        theirs(nodes, model, schedule, sampler=sampler)
        assert last["calls"] == 5
        np.testing.assert_allclose(patcher.model.network.passed, schedule.network_times[[0, 3, 4]], rtol=1e-6)

        class Later(stand_in.CFGGuider):
            def predict_noise(self, x: Tensor, sigma: Tensor, *rest: Any) -> Tensor:
                return torch.zeros_like(x) if float(sigma[0]) > 5 else super().predict_noise(x, sigma, *rest)

        patcher = host("eps")
        model, sampler = model_of(patcher)
        assert torch.isfinite(theirs(nodes, model, schedule, sampler=sampler, guider=Later(model, Y, 1.0))).all()
        assert 0 < len(patcher.model.network.passed) < 5


def test_the_time_is_the_models_own_between_evaluations(nodes: Any) -> None:
    patcher, schedule, asked = host("eps"), tuned(VP, "euler", 3), []
    sampling = patcher.model.model_sampling
    mask = torch.ones(1, 1, 6, 6, dtype=X_T.dtype)
    original = type(sampling).timestep
    sampling.__class__ = type("Watched", (type(sampling),), {"timestep": lambda self, s: asked.append(original(self, s)) or asked[-1]})
    for model, sampler in ((patcher, None), (applied(nodes, patcher, schedule), own("euler"))):
        asked.clear()
        theirs(nodes, model, schedule, sampler=sampler, mask=mask, latent=LATENT)
        times = [int(t[0]) for t in asked[1:]]  # after the check of the model
        np.testing.assert_array_equal(times, np.round(schedule.times[:-1]))


def test_a_node_behind_that_replaces_model_sampling(nodes: Any) -> None:
    patcher, schedule = host("eps"), tuned(VP, "euler", 4)
    model = applied(nodes, patcher, schedule)
    model.add_object_patch("model_sampling", stand_in.model_sampling(stand_in.ModelSamplingDiscrete, stand_in.EPS, table(VP)))
    assert relative(theirs(nodes, model, schedule, sampler=own("euler")), ours("eps", patcher, schedule)) < CLOSE
    other = stand_in.model_sampling(stand_in.ModelSamplingDiscrete, stand_in.EPS, table(NoiseSchedule.linear()))
    model.add_object_patch("model_sampling", other)
    with pytest.raises(ValueError, match="schedule must have the model's noise"):
        theirs(nodes, model, schedule, sampler=own("euler"))


@pytest.mark.parametrize("without", [("PREDICT_NOISE",), ("SAMPLER_SAMPLE",)])
def test_other_versions(nodes: Any, without: tuple[str, ...]) -> None:
    patcher, schedule = host("eps"), tuned(VP, "euler", 4)
    with stand_in.comfy(without):
        assert relative(theirs(nodes, patcher, schedule), ours("eps", patcher, schedule)) < CLOSE
        if "SAMPLER_SAMPLE" in without:
            with pytest.raises(RuntimeError, match=r"need ComfyUI 0\.3\.52 .*update ComfyUI"):
                applied(nodes, patcher, schedule)
        else:
            made = theirs(nodes, applied(nodes, patcher, schedule), schedule, sampler=own("euler"))
            assert relative(made, ours("eps", patcher, schedule)) < CLOSE


# ---- what does not fit -------------------------------------------------------------------------------------


def of(times: type, prediction: type, *args: Any) -> Any:
    return lambda: stand_in.Patcher(stand_in.Model(Small(), stand_in.model_sampling(times, prediction, *args)))


class Cosmos(stand_in.EPS):
    def calculate_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x / (1 + sigma.reshape(-1, 1, 1, 1))


class Distilled(stand_in.ModelSamplingDiscrete):
    def timestep(self, sigma: Tensor) -> Tensor:
        return super().timestep(sigma) * 20 + 19


class Cascade(stand_in.ModelSamplingDiscrete):
    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma.atan()


@pytest.mark.parametrize(
    ("patcher", "schedule", "message"),
    [
        (lambda: host("eps"), lambda: tuned(NoiseSchedule.linear(), "euler", 4), "schedule must have the model's noise"),
        (lambda: host("eps"), lambda: tuned(FLOW, "euler", 4, "linspace"), "schedule is for flow times, which this model .* does not have"),
        (lambda: host("eps"), lambda: tuned(EDM, "euler", 4), "schedule is for edm times, which this model"),
        (lambda: host("flow"), lambda: tuned(EDM, "euler", 4), "schedule is for edm times, which this model"),
        (lambda: host("flow"), lambda: tuned(VP, "euler", 4), "schedule is for discrete times, which this model"),
        (of(stand_in.ModelSamplingDiscrete, stand_in.EPS, table(VP)[::20]), lambda: tuned(VP, "euler", 4), "a model of 50 training steps"),
        (of(Distilled, stand_in.EPS, table(VP)), lambda: tuned(VP, "euler", 4), "model must number its times from 0 to 999"),
        (of(Cascade, stand_in.EPS, table(VP)), lambda: tuned(EDM, "euler", 4), "schedule is for edm times, which this model"),
        (of(stand_in.ModelSamplingContinuousEDM, Cosmos, 0.002, 80.0), lambda: tuned(EDM, "euler", 4), "schedule is for edm times"),
        (
            of(stand_in.ModelSamplingContinuousEDM, stand_in.V_PREDICTION, 0.002, 14.0),
            lambda: tuned(EDM, "euler", 4),
            "schedule's sigmas must lie in the model's range, 0.002 to 14, got .* to 80",
        ),
    ],
)
def test_another_model_is_refused_before_its_network_runs(nodes: Any, patcher: Any, schedule: Any, message: str) -> None:
    made = patcher()
    with pytest.raises(ValueError, match=message):
        theirs(nodes, made, schedule())
    with pytest.raises(ValueError, match=message):
        applied(nodes, made, schedule())
    assert not made.model.network.passed


class Other(stand_in.CFGGuider):
    """A guider with a rule of its own, as DualCFGGuider has."""

    def predict_noise(self, *args: Any) -> Tensor:
        return super().predict_noise(*args)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"prediction_type": "v_prediction"}, "predicts 'v_prediction', this one predicts 'epsilon'"),
        ({"guidance_scale": 7.5}, "cfg must be 7.5, the guidance scale that the schedule was tuned at, got 3"),
        ({"guidance_scale": None}, "cfg must be 1,"),
        ({"guidance_scale": 3.0, "guidance_rescale": 0.7}, "tuned with guidance_rescale 0.7"),
        ({"guidance_scale": 3.0, "guidance": "classifier"}, "tuned with guidance 'classifier'"),
        ({"guidance_scale": "a function: scale"}, "guidance_scale a function: scale, which a workflow does not have"),
    ],
)
def test_what_the_schedule_was_tuned_for_is_compared(nodes: Any, tmp_path: Path, model: dict[str, Any], message: str) -> None:
    patcher, schedule = host("eps"), tuned(VP, "euler", 4).replace(model=model)
    with pytest.raises(ValueError, match=message):
        theirs(nodes, patcher, schedule)
    with pytest.raises(ValueError, match=message):
        theirs(nodes, applied(nodes, patcher, schedule), schedule, sampler=own("euler"))
    assert not patcher.model.network.passed
    schedule.save(tmp_path / "ttune.json")
    anyway = nodes["TtuneLoadSchedule"].execute(str(tmp_path / "ttune.json"), check_model=False)[0]
    assert relative(theirs(nodes, patcher, anyway), ours("eps", patcher, anyway)) < CLOSE


def test_what_fits_and_guiders_of_another_rule(nodes: Any) -> None:
    patcher, schedule = (
        host("eps"),
        tuned(VP, "euler", 4).replace(model={"prediction_type": "epsilon", "guidance_scale": 3.001, "name": "x"}),
    )
    assert relative(theirs(nodes, patcher, schedule), ours("eps", patcher, schedule)) < CLOSE  # cfg has two decimals
    with pytest.raises(ValueError, match="this workflow guides by Other; use SamplerCustom, CFGGuider or BasicGuider"):
        theirs(nodes, patcher, schedule, guider=Other(patcher, Y, CFG))
    untuned = schedule.replace(model={})
    assert relative(theirs(nodes, patcher, untuned, guider=Other(patcher, Y, CFG)), ours("eps", patcher, untuned)) < CLOSE


def test_guidance_that_is_an_input_of_the_network(nodes: Any) -> None:
    patcher, schedule = host("eps"), tuned(VP, "euler", 4).replace(model={"guidance_scale": 3.5, "guidance": "input"})
    for conditionings, passes in (([{"guidance": 3.5}], True), ([{"guidance": 4.0}], False), ([{}], False), ([], False)):
        guider = stand_in.CFGGuider(patcher, Y, 1.0)
        guider.conds = {"positive": conditionings}  # type: ignore[attr-defined]
        if passes:
            assert relative(theirs(nodes, patcher, schedule, guider=guider), ours("eps", patcher, schedule, scale=None)) < CLOSE
        else:
            with pytest.raises(ValueError, match=r"guidance of the conditioning must be 3\.5.*set it by FluxGuidance"):
                theirs(nodes, patcher, schedule, guider=guider)
    guider.conds, guider.cfg = {"positive": [{"guidance": 3.5}]}, 3.5  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="cfg must be 1"):
        theirs(nodes, patcher, schedule, guider=guider)


def test_a_node_that_wraps_the_sampler_is_refused(nodes: Any) -> None:
    patcher, schedule = host("eps"), tuned(VP, "euler", 4)
    inner = nodes["TtuneScheduleSampler"].execute(schedule)[0]
    wrapping = stand_in.KSAMPLER(lambda model, x, sigmas, **rest: inner.sampler_function(lambda *a, **k: model(*a, **k), x, sigmas, **rest))
    with pytest.raises(ValueError, match="connect it to SamplerCustom directly"):
        theirs(nodes, patcher, schedule, sampler=wrapping)


def test_guidance_that_another_node_changes_is_said(nodes: Any) -> None:
    patcher, schedule = host("eps"), tuned(VP, "euler", 4).replace(model={"guidance_scale": CFG})
    check = importlib.import_module("comfyui.host").check_guidance
    with pytest.warns(UserWarning, match=r"another node changes the guidance \(sampler_cfg_function\)"):
        check(stand_in.CFGGuider(patcher, Y, CFG), schedule, {"sampler_cfg_function": abs})


# ---- nodes -------------------------------------------------------------------------------------------------


def test_a_file_is_looked_at_when_the_prompt_is_queued(nodes: Any, tmp_path: Path) -> None:
    load, path = nodes["TtuneLoadSchedule"], tmp_path / "ttune.json"
    assert "missing.json" in load.validate_inputs(str(tmp_path / "missing.json"), 0)
    path.write_text("{}")
    assert isinstance(load.validate_inputs(str(path), 0), str)
    schedule = tuned(VP, "euler", 4)
    schedule.save(path)
    assert load.validate_inputs(str(path), 0) is True
    assert "steps" in load.validate_inputs(str(path), 7)
    assert load.validate_inputs(None, 0) is True  # another node says it, later
    assert "this is a folder" in load.validate_inputs(str(tmp_path), 0)
    loaded, summary = load.execute(str(path)).args
    assert loaded == schedule
    assert "euler" in summary
    assert nodes["TtuneScheduleSigmas"].execute(loaded)[0].dtype == torch.float32


def test_the_list_of_files_is_that_of_comfyuis_models(nodes: Any, tmp_path: Path) -> None:
    load, folder, schedule = nodes["TtuneLoadSchedule"], tmp_path / "models" / "ttune", tuned(VP, "euler", 4)
    files = importlib.import_module("comfyui.files")
    assert load.GET_SCHEMA().inputs[0].settings["options"] == []
    first, second = (files.new_path("sd15") for _ in range(2))
    assert first == second == folder / "sd15.json"
    schedule.save(first)
    (folder / "notes.txt").write_text("no schedule")
    assert files.new_path("sd15") == folder / "sd15_2.json"
    assert load.GET_SCHEMA().inputs[0].settings["options"] == ["sd15.json"]
    assert load.validate_inputs("sd15.json", 0) is True
    assert load.execute("sd15.json")[0] == schedule
    before = load.fingerprint_inputs("sd15.json", steps=0)
    os.utime(first, (1, 1))
    assert load.fingerprint_inputs("sd15.json", steps=0) != before
    for wrong in ("", "a/b", "..", ".hidden"):
        with pytest.raises(ValueError, match="name must be that of a file, without folders"):
            files.new_path(wrong)


def test_every_node_says_what_comfyui_asks(nodes: Any) -> None:
    earlier = {"TtuneLoadSchedule", "TtuneScheduleSigmas", "TtuneScheduleSampler", "TtuneApplySchedule"}  # saved workflows
    assert earlier < set(nodes)
    for node in nodes.values():
        schema = node.GET_SCHEMA()
        assert schema.category
        assert schema.description
        for socket in schema.inputs + schema.outputs:
            assert socket.settings.get("tooltip") or socket.settings.get("display_name") == "schedule", (schema.node_id, socket.id)
        names = [socket.id for socket in schema.inputs]
        assert len(set(names)) == len(names)
        inspect.signature(node.execute).bind(**dict.fromkeys(names))


def test_the_cfg_of_a_schedule(nodes: Any) -> None:
    cfg_of, schedule = importlib.import_module("comfyui.host").cfg_of, tuned(VP, "euler", 4)
    for model, cfg in (
        ({"guidance_scale": 7.5}, 7.5),
        ({"guidance_scale": None}, 1.0),
        ({"guidance_scale": [2.0, 3.0, 4.0, 1.5]}, 2.0),
        ({"guidance_scale": 3.5, "guidance": "input"}, 1.0),
    ):
        assert cfg_of(schedule.replace(model=model)) == cfg
    with pytest.raises(ValueError, match="cfg must be given, got 0"):
        cfg_of(schedule)
    with pytest.raises(ValueError, match="cfg must be a number, and the schedule was tuned at guidance_scale a function: scale"):
        cfg_of(schedule.replace(model={"guidance_scale": "a function: scale"}))


def test_denoise_leaves_the_last_steps(nodes: Any) -> None:
    sigmas_of, schedule = importlib.import_module("comfyui.nodes").sigmas_of, tuned(VP, "euler", 5)
    whole = sigmas_of(schedule)
    for denoise, left in ((1.0, 5), (0.6, 3), (0.5, 2), (0.1, 0), (0.0, 0)):
        assert torch.equal(sigmas_of(schedule, denoise), whole[5 - left :])


def test_files_of_times_alone_are_in_comfyuis_lists_of_schedulers(nodes: Any, caplog: pytest.LogCaptureFixture) -> None:
    files, scheduler, samplers = (importlib.import_module(name) for name in ("comfyui.files", "comfyui.scheduler", "comfy.samplers"))
    alone, more = ttune.Schedule.build(VP, "euler", 4, "log_snr"), tuned(VP, "euler", 4)
    for schedule, name in ((alone, "alone"), (more, "more")):
        schedule.save(files.new_path(name))
    files.new_path("broken").write_text("{}")
    for _ in range(2):
        scheduler.register()
    assert samplers.SCHEDULER_NAMES == list(samplers.SCHEDULER_HANDLERS) == ["ttune: alone"]
    assert "broken.json is in none of the lists" in caplog.text
    handler, sampling = samplers.SCHEDULER_HANDLERS["ttune: alone"], host("eps").model.model_sampling
    assert torch.equal(handler(sampling, 4), nodes["TtuneScheduleSigmas"].execute(alone)[0])
    with pytest.raises(ValueError, match="steps"):
        handler(sampling, 5)
    with pytest.raises(ValueError, match="schedule is for discrete times"):
        handler(host("flow").model.model_sampling, 4)
    more.save(files.path_of("alone.json"))
    with pytest.raises(ValueError, match=r"network times of alone\.json were tuned too"):
        handler(sampling, 4)


@pytest.mark.parametrize("name", ["sample", "tune"])
def test_the_example_workflows_are_of_these_nodes(nodes: Any, name: str) -> None:
    """Every link joins an output and an input that name it, of one type; every widget of a node of ours has a value."""
    saved = json.loads((ROOT / "integrations" / "comfyui" / "example_workflows" / f"{name}.json").read_text())
    by_number = {node["id"]: node for node in saved["nodes"]}
    for number, start, output, end, entry, kind in saved["links"]:
        assert number in by_number[start]["outputs"][output]["links"]
        assert by_number[end]["inputs"][entry]["link"] == number
        assert by_number[start]["outputs"][output]["type"] == by_number[end]["inputs"][entry]["type"] == kind
    ours = [node for node in saved["nodes"] if node["type"] in nodes]
    assert ours
    for node in ours:
        inputs = nodes[node["type"]].GET_SCHEMA().inputs
        sockets = [
            (socket.id, socket.io_type) for socket in inputs if socket.io_type in ("MODEL", "CONDITIONING", "LATENT", "TTUNE_SCHEDULE")
        ]
        assert [(entry["name"], entry["type"]) for entry in node["inputs"]] == sockets
        assert all(entry["link"] for entry in node["inputs"])
        seeds = sum(bool(socket.settings.get("control_after_generate")) for socket in inputs)  # the list beside a seed is a widget too
        assert len(node["widgets_values"]) == len(inputs) - len(sockets) + seeds


def test_installing_leaves_torch_alone(tmp_path: Path) -> None:
    folder = ROOT / "integrations" / "comfyui"
    lines = (folder / "requirements.txt").read_text().splitlines()
    needed = [line for line in lines if line and not line.startswith("#")]
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["dependencies"] == needed
    assert project["project"]["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert project["tool"]["comfy"]["DisplayName"]
    known, found = set(), [Requirement(line).name for line in needed]
    while found:
        name = found.pop()
        if name not in known:
            known.add(name)
            also = map(Requirement, importlib.metadata.requires(name) or [])
            found += [r.name for r in also if r.marker is None or r.marker.evaluate({"extra": ""})]
    assert not known & {"torch", "torchvision", "torchaudio", "numpy", "ttune"}

    spec = importlib.util.spec_from_file_location("comfyui_install", folder / "install.py")
    assert spec is not None
    assert spec.loader is not None
    install = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(install)
    assert install.command(folder)[3:] == ["install", "--no-deps", str(ROOT)]
    assert install.command(tmp_path / "custom_nodes" / "ttune")[3:] == ["install", "--no-deps", "ttune"]
    assert [install.torch_is_too_old(v) for v in ("2.7.1+cu128", "2.10.0", "2.11.0", "2.13.0+cpu", "3.0")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_the_check_tells_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("comfyui_check", ROOT / "integrations" / "comfyui" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    check = sys.modules["comfyui_check"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    assert check.report(("equal", lambda: (X_T, X_T)))
    assert not check.report(("one percent", lambda: (X_T, 1.01 * X_T)))
    assert not check.report(("broken", lambda: 1 / 0))
    assert check.report(("refused", lambda: int("x"), "invalid literal"))
    assert not check.report(("refused in other words", lambda: int("x"), "cfg must be"))
    assert not check.report(("not refused", lambda: 1, "cfg must be"))
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["pass", "FAIL", "FAIL", "pass", "FAIL", "FAIL"]


def test_the_package_imports_nothing_of_it() -> None:
    for file in (ROOT / "ttune").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            assert not any(name.split(".")[0] in ("comfy", "integrations") for name in names), file
