"""LuChengTHU's DPM_Solver (the copy in the package stable-diffusion-sdkit), with a tuned schedule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import ttune
from tests.adapters.small import Small, noise_like, tuned
from ttune import NoiseSchedule

dpm = pytest.importorskip("ldm.models.diffusion.dpm_solver.dpm_solver", reason="stable-diffusion-sdkit is not installed (--no-deps)")

X_T = noise_like(3, 2, 6, 6)


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    """Its tables and grids are in torch's default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def discrete(steps: int = 1000) -> Any:
    noise = NoiseSchedule.linear(steps, 0.1 / steps, 20 / steps)
    return dpm.NoiseScheduleVP("discrete", alphas_cumprod=torch.from_numpy(noise.alpha(np.arange(float(steps))) ** 2))


CASES = [("dpmpp_2m", True, {}), ("dpmpp_3m", True, {}), ("dpm_solver_multistep", False, {"order": 2}), ("dpm_solver_1", False, {})]


@pytest.mark.parametrize("final", ["zero", "min"])
@pytest.mark.parametrize("kind", ["noise", "x_start", "v"])
@pytest.mark.parametrize(("sampler", "predict_x0", "options"), CASES, ids=[case[0] for case in CASES])
def test_it_gives_the_samples_of_our_loop(sampler: str, predict_x0: bool, options: dict[str, Any], kind: str, final: str) -> None:
    ns, network = discrete(), Small(scale=1000)
    denoiser = ttune.dpm_solver.denoiser(network, ns, kind)
    schedule = tuned(denoiser.noise, sampler, 6, "log_snr", final=final, options=options, t_start=950.0)
    mine = ttune.sample(denoiser, schedule, X_T)
    network.passed.clear()
    wrapped = ttune.dpm_solver.wrap(network, ns, schedule)
    solver = dpm.DPM_Solver(dpm.model_wrapper(wrapped, ns, model_type=kind), ns, predict_x0=predict_x0)
    with ttune.dpm_solver.apply(solver, schedule):
        theirs = solver.sample(X_T, **ttune.dpm_solver.arguments(schedule, ns))
    np.testing.assert_allclose(network.passed, schedule.network_times, rtol=1e-12)
    torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-5)
    assert "get_time_steps" not in solver.__dict__


def test_other_numbers_of_steps_and_continuous_time() -> None:
    for ns in (discrete(400), dpm.NoiseScheduleVP("linear")):
        network = Small(scale=1000 if ns.schedule == "discrete" else 1)
        denoiser = ttune.dpm_solver.denoiser(network, ns)
        schedule = tuned(denoiser.noise, "dpmpp_2m", 5, "log_snr", final="min")
        mine = ttune.sample(denoiser, schedule, X_T)
        solver = dpm.DPM_Solver(dpm.model_wrapper(ttune.dpm_solver.wrap(network, ns, schedule), ns), ns, predict_x0=True)
        with ttune.dpm_solver.apply(solver, schedule):
            theirs = solver.sample(X_T, **ttune.dpm_solver.arguments(schedule, ns))
        torch.testing.assert_close(theirs, mine, rtol=1e-6, atol=1e-6)


def sample_both(schedule: Any, denoiser: Any, network: Small, ns: Any, solver: dict[str, Any], wrapper: dict[str, Any], **call: Any) -> Any:
    """(the host's sample, ours); ``call`` replaces arguments of the host's ``sample``."""
    arguments = ttune.dpm_solver.arguments(schedule, ns) | call
    wrapped = ttune.dpm_solver.wrap(network, ns, schedule)
    made = dpm.DPM_Solver(dpm.model_wrapper(wrapped, ns, **wrapper), ns, **{"predict_x0": True, **solver})
    network.passed.clear()
    with ttune.dpm_solver.apply(made, schedule):
        theirs = made.sample(X_T, **arguments)
    return theirs, ttune.sample(denoiser, schedule, X_T)


@pytest.mark.parametrize("final", ["zero", "min"])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize(("sampler", "predict_x0", "options"), CASES[:3], ids=[case[0] for case in CASES[:3]])
def test_the_solver_type_is_that_of_the_schedule(
    sampler: str, predict_x0: bool, options: dict[str, Any], solver_type: str, final: str
) -> None:
    ns, network = discrete(), Small(scale=1000)
    denoiser = ttune.dpm_solver.denoiser(network, ns)
    schedule = tuned(denoiser.noise, sampler, 6, final=final, options={**options, "solver_type": solver_type})
    theirs, mine = sample_both(schedule, denoiser, network, ns, {"predict_x0": predict_x0}, {})
    torch.testing.assert_close(theirs, mine, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [6, 9, 10, 12, 14, 15])
def test_a_lower_final_order_is_the_same_in_all_versions_or_refused(steps: int) -> None:
    ns, network = discrete(), Small(scale=1000)
    denoiser = ttune.dpm_solver.denoiser(network, ns)
    schedule = tuned(denoiser.noise, "dpmpp_2m", steps, final="min", lower_order_final=True)
    if steps >= 10:  # the newest version of the host keeps its order there, older ones do from 15 on
        with pytest.raises(ValueError, match=r"lowers its order otherwise from 10 steps on .* build one with lower_order_final=False"):
            ttune.dpm_solver.arguments(schedule, ns)
        schedule = schedule.replace(lower_order_final=False)
    theirs, mine = sample_both(schedule, denoiser, network, ns, {}, {})
    torch.testing.assert_close(theirs, mine, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        ({"order": 3}, "order must be 2"),
        ({"method": "singlestep"}, "method must be multistep"),
        ({"solver_type": "taylor"}, "solver_type must be dpm_solver"),
        ({"denoise_to_zero": False}, "denoise_to_zero must be True"),
        ({"lower_order_final": True}, "lower_order_final must be False"),
        ({"t_end": 0.3}, r"t_end must be 0\.01\d+, .* got 0\.3"),
        ({"t_end": None}, "t_end must be"),
        ({"t_start": 0.7}, "t_start must be 1"),
    ],
)
def test_other_arguments_are_refused_before_the_first_call(call: dict[str, Any], match: str) -> None:
    ns, network = discrete(), Small(scale=1000)
    denoiser = ttune.dpm_solver.denoiser(network, ns)
    schedule = tuned(denoiser.noise, "dpmpp_2m", 5)
    with pytest.raises(ValueError, match=match):
        sample_both(schedule, denoiser, network, ns, {}, {}, **call)
    assert network.passed == []
    for harmless in ({"t_start": None}, {"skip_type": "logSNR"}):
        theirs, mine = sample_both(schedule, denoiser, network, ns, {}, {}, **harmless)
        torch.testing.assert_close(theirs, mine, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("sampler", "solver", "wrapper", "settings", "match"),
    [
        ("dpmpp_2m", {"predict_x0": False}, {}, {}, r"algorithm_type='dpmsolver\+\+', in older versions predict_x0=True"),
        ("dpm_solver_multistep", {}, {}, {}, "algorithm_type='dpmsolver', in older versions predict_x0=False"),
        ("dpmpp_2m", {"thresholding": True}, {}, {}, "must correct x_0 as the schedule's denoiser did"),
        ("dpmpp_2m", {}, {}, {"clip_sample": 1.0}, r"must correct x_0 as .* \(clip_sample=1\.0"),
        ("dpm_solver_multistep", {"predict_x0": False}, {}, {"clip_sample": 1.0}, "only algorithm_type='dpmsolver"),
        ("dpmpp_2m", {}, {"model_type": "v"}, {}, "prediction_type 'epsilon', this solver has 'v_prediction'"),
        ("dpmpp_2m", {}, {}, {"guidance": ttune.ClassifierFree(3.0, {"cond": 0})}, r"guidance_scale 3\.0, this solver has None"),
        ("dpmpp_2m", {}, {}, {"guidance": ttune.ClassifierFree(0.0, {"cond": 0})}, r"guidance_scale 0\.0, this solver has None"),
    ],
)
def test_a_solver_that_steps_otherwise_is_refused(
    sampler: str, solver: dict[str, Any], wrapper: dict[str, Any], settings: dict[str, Any], match: str
) -> None:
    ns, network = discrete(), Small(scale=1000)
    denoiser = ttune.dpm_solver.denoiser(network, ns, **settings)
    schedule = tuned(denoiser.noise, sampler, 5).replace(model=denoiser.identity())
    with pytest.raises(ValueError, match=match):
        sample_both(schedule, denoiser, network, ns, solver, wrapper)
    assert network.passed == []


def test_dynamic_thresholding_is_ours() -> None:
    ns, network = discrete(), Small(scale=1000)
    denoiser = ttune.dpm_solver.denoiser(network, ns, threshold=ttune.DynamicThreshold(0.995))
    schedule = tuned(denoiser.noise, "dpmpp_2m", 5).replace(model=denoiser.identity())
    theirs, mine = sample_both(schedule, denoiser, network, ns, {"thresholding": True}, {})
    torch.testing.assert_close(theirs, mine, rtol=1e-9, atol=1e-9)
    assert (mine - ttune.sample(ttune.dpm_solver.denoiser(network, ns), schedule.replace(model={}), X_T)).abs().max() > 1e-2
    with pytest.raises(ValueError, match="must correct x_0 as"):
        sample_both(schedule, denoiser, network, ns, {"thresholding": True, "max_val": 2.0}, {})


def test_guidance_by_the_host_and_float32() -> None:
    torch.set_default_dtype(torch.float32)
    ns, network = discrete(), Small(scale=1000, dtype=torch.float32)
    ns = dpm.NoiseScheduleVP("discrete", alphas_cumprod=torch.exp(2 * ns.log_alpha_array.reshape(-1)).float())
    denoiser = ttune.dpm_solver.denoiser(lambda x, t, cond: network(x, t, cond), ns, guidance=ttune.ClassifierFree(3.0, {"cond": 0}))
    schedule, labels = tuned(denoiser.noise, "dpmpp_2m", 5), torch.tensor([1, 2, 3])
    mine = ttune.sample(denoiser, schedule, X_T.float(), conditions={"cond": labels})
    guidance = {"condition": labels, "unconditional_condition": torch.zeros_like(labels), "guidance_scale": 3.0}
    wrapped = ttune.dpm_solver.wrap(network, ns, schedule)
    solver = dpm.DPM_Solver(dpm.model_wrapper(wrapped, ns, guidance_type="classifier-free", **guidance), ns, predict_x0=True)
    with ttune.dpm_solver.apply(solver, schedule):
        theirs = solver.sample(X_T.float(), **ttune.dpm_solver.arguments(schedule, ns))
    # Its alphas come from tables of float32 through logarithms.
    assert (mine - theirs).abs().max() / theirs.abs().max() < 1e-5


def test_the_solver_is_the_same_before_and_after() -> None:
    ns, network = discrete(), Small(scale=1000)
    schedule = tuned(ttune.dpm_solver.noise(ns), "dpmpp_2m", 5)
    solver = dpm.DPM_Solver(dpm.model_wrapper(network, ns), ns, predict_x0=True)
    before = solver.sample(X_T, steps=5, order=2, method="multistep")
    with ttune.dpm_solver.apply(solver, schedule):
        pass
    assert torch.equal(solver.sample(X_T, steps=5, order=2, method="multistep"), before)


def test_what_does_not_fit_is_refused() -> None:
    ns, network = discrete(), Small(scale=1000)
    noise = ttune.dpm_solver.noise(ns)
    with pytest.raises(ValueError, match="the multistep solvers of DPM_Solver, got 'heun'"):
        ttune.dpm_solver.arguments(tuned(noise, "heun", 3), ns)
    with pytest.raises(ValueError, match="at least 4 steps for a solver of order 3, got 3"):
        ttune.dpm_solver.arguments(tuned(noise, "dpmpp_3m", 3), ns)
    with pytest.raises(ValueError, match="lowers its order otherwise"):
        ttune.dpm_solver.arguments(tuned(noise, "dpmpp_2m", 20, lower_order_final=True), ns)
    with pytest.raises(ValueError, match="its noise schedule is not the host's"):
        ttune.dpm_solver.wrap(network, ns, tuned(NoiseSchedule.cosine(), "dpmpp_2m", 4))
    with pytest.raises(ValueError, match="must be 'discrete' or 'linear', got 'cosine'"):
        ttune.dpm_solver.noise(dpm.NoiseScheduleVP("cosine"))
    schedule = tuned(noise, "dpmpp_2m", 5)
    wrapped = ttune.dpm_solver.wrap(network, ns, schedule)
    solver = dpm.DPM_Solver(dpm.model_wrapper(wrapped, ns), ns, predict_x0=True)
    with ttune.dpm_solver.apply(solver, schedule), pytest.raises(ValueError, match=r"steps must be 4, as in ttune\.dpm_solver\.arguments"):
        solver.sample(X_T, steps=7, order=2, method="multistep")
    with pytest.raises(ValueError, match="t_input must be"):  # its own grid
        solver.sample(X_T, steps=5, order=2, method="multistep", skip_type="time_quadratic")
