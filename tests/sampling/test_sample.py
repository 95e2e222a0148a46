from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ttune
from tests.oracles import Gaussian, mixture, standard_normal
from ttune import SAMPLERS, Denoiser, NoiseSchedule, Schedule, initial_noise
from ttune.sampling.plan import Plan
from ttune.sampling.sample import start_state

NOISE = NoiseSchedule.linear()
SEEDS = torch.tensor([0, 1, 5, 2**40, -3, 7, 123456789])


def stochastic() -> dict[str, Schedule]:
    """Every sampler that can add noise, with the options that make it do so."""
    found = {"ddim, eta 0.5": Schedule.build(NOISE, "ddim", 4, eta=0.5)}
    for name, builder in SAMPLERS.items():
        accepted = inspect.signature(builder).parameters
        options = {key: value for key, value in {"eta": 1.0, "s_churn": 2.0, "s_noise": 1.1}.items() if key in accepted}
        schedule = Schedule.build(NOISE, name, 4, eta=1.0 if name == "ddim" else 0.0, options=options)
        if schedule.tableau().stochastic:
            found[name] = schedule
    return found


STOCHASTIC = stochastic()


def elementwise(x: Tensor, tau: Tensor) -> Tensor:
    """A network whose arithmetic cannot depend on the batch."""
    return x * (tau / 1000).reshape(-1, *[1] * (x.ndim - 1)) * 0.9


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_noise_is_the_same_for_any_batch(name: str, dtype: torch.dtype) -> None:
    denoiser = ttune.Denoiser(elementwise, NOISE, clip_sample=1.0)
    shape, schedule = (3, 5), STOCHASTIC[name]
    x_T = initial_noise(NOISE, shape, SEEDS).to(dtype)
    whole = ttune.sample(denoiser, schedule, x_T, seeds=SEEDS)
    for split in ([1] * 7, [3, 4], [6, 1]):
        parts = [ttune.sample(denoiser, schedule, x, seeds=s) for x, s in zip(x_T.split(split), SEEDS.split(split), strict=True)]
        assert torch.equal(torch.cat(parts), whole)
    order = torch.tensor([6, 0, 3, 2, 5, 4, 1])
    assert torch.equal(ttune.sample(denoiser, schedule, x_T[order], seeds=SEEDS[order]), whole[order])
    strided = x_T.transpose(1, 2).contiguous().transpose(1, 2)  # another memory layout
    assert torch.equal(ttune.sample(denoiser, schedule, strided, seeds=SEEDS), whole)
    assert not torch.equal(ttune.sample(denoiser, schedule, x_T, seeds=SEEDS + 1), whole)
    assert torch.equal(ttune.sample(denoiser, schedule, x_T, seeds=SEEDS.tolist()), whole)


@given(cuts=st.lists(st.integers(1, 6), max_size=4), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_initial_noise_is_the_same_for_any_batch(cuts: list[int], dtype: torch.dtype) -> None:
    whole = initial_noise(NOISE, (2, 3), SEEDS, dtype)
    assert whole.shape == (7, 2, 3)
    assert whole.dtype == dtype
    parts = [initial_noise(NOISE, (2, 3), s, dtype) for s in torch.tensor_split(SEEDS, sorted(cuts)) if len(s)]
    assert torch.equal(torch.cat(parts), whole)


def test_initial_noise_is_not_the_noise_of_a_step() -> None:
    first = ttune.ops.philox_normal((6,), SEEDS, draw=0)
    assert not torch.equal(initial_noise(NOISE, (6,), SEEDS), first)


def test_initial_noise_has_the_deviation_of_the_largest_time() -> None:
    for noise, deviation in ((NOISE, 1.0), (NoiseSchedule.edm(), 80.0), (NoiseSchedule.flow(), 1.0), (NoiseSchedule.continuous_vp(), 1.0)):
        x = initial_noise(noise, (1000,), torch.arange(20), torch.float64)
        assert float(x.std()) == pytest.approx(deviation, rel=0.02)
        assert float(x.mean()) == pytest.approx(0, abs=0.03 * deviation)


def test_the_noise_of_the_steps_is_that_of_the_counter() -> None:
    """draw = step: what a user needs to reproduce a sample elsewhere."""
    schedule = STOCHASTIC["ddpm"]
    x = x_T = initial_noise(NOISE, (4,), SEEDS, torch.float64)
    denoiser = ttune.Denoiser(elementwise, NOISE)
    for i, stage in enumerate(schedule.tableau().stages):
        D = denoiser(x, stage.time, stage.time)
        eps = (x - stage.alpha * D) / stage.sigma
        fresh = ttune.ops.philox_normal((4,), SEEDS, draw=i, dtype=torch.float64)
        x = stage.update["D"] * D + stage.update.get("eps", 0.0) * eps + stage.update.get("noise", 0.0) * fresh
    torch.testing.assert_close(ttune.sample(denoiser, schedule, x_T, seeds=SEEDS), x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "seeds",
    [[1, 2**40, 3], (1, 2**40, 3), np.array([1, 2**40, 3]), np.array([3, 2**40, 1])[::-1], np.array([1, 2**40, 3], ">u8"),
     torch.tensor([1, 2**40, 3], dtype=torch.uint64), [torch.tensor(1), np.int64(2**40), 3]],
)  # fmt: skip
def test_whole_numbers_of_any_kind_are_seeds(seeds: Any) -> None:
    right = ttune.ops.philox_normal((2,), torch.tensor([1, 2**40, 3]), draw=-1)
    assert torch.equal(initial_noise(NOISE, (2,), seeds), right)
    assert torch.equal(ttune.ops.philox_normal((2,), seeds if isinstance(seeds, list) else [1, 2**40, 3], draw=-1), right)
    assert torch.equal(initial_noise(NOISE, (2,), range(3)), initial_noise(NOISE, (2,), torch.arange(3, dtype=torch.int8)))


@pytest.mark.parametrize(
    ("seeds", "error", "message"),
    [
        (torch.rand(3), TypeError, r"seeds must be integers, got a tensor of torch\.float32"),
        (torch.ones(3, dtype=torch.bool), TypeError, r"seeds must be integers, got a tensor of torch\.bool"),
        ([1, 0.5, 2], TypeError, "seeds must be integers, got 0.5 among them"),
        (np.array([1.0, 2.0, 3.0]), TypeError, r"seeds must be integers, got .*1\.0.* among them"),
        ([1, True, 2], TypeError, "seeds must be integers, got True among them"),
        (3, TypeError, "seeds must be a sequence of integers, got 3"),
        ([1, 2**63, 2], ValueError, rf"seeds must lie in \[-2\^63, 2\^63\), got {2**63} among them"),
        (np.array([1, 2**64 - 1, 2], np.uint64), ValueError, f"got {2**64 - 1} among them"),
        (torch.tensor([1, 2**63, 2], dtype=torch.uint64), ValueError, f"got {2**63} among them"),
    ],
)
def test_other_seeds_are_refused_and_not_cut_off(seeds: Any, error: type[Exception], message: str) -> None:
    x_T = standard_normal((3, 2))
    for refused in (
        lambda: initial_noise(NOISE, (2,), seeds),
        lambda: ttune.noised(STOCHASTIC["ddpm"], x_T, seeds),
        lambda: ttune.sample(mixture(NOISE).denoiser(), STOCHASTIC["ddpm"], x_T, seeds=seeds),
    ):
        with pytest.raises(error, match=message):
            refused()


def test_seeds() -> None:
    x_T, denoiser = standard_normal((3, 2)), mixture(NOISE).denoiser()
    schedule = STOCHASTIC["ddpm"]
    with pytest.raises(ValueError, match=r"seeds must hold one number per sample, shape \(3,\), got \(2,\)"):
        ttune.sample(denoiser, schedule, x_T, seeds=[1, 2])
    with pytest.raises(ValueError, match="seeds must hold one number per sample"):
        ttune.sample(denoiser, schedule, x_T, seeds=torch.zeros(3, 1, dtype=torch.int64))
    torch.manual_seed(0)
    first = ttune.sample(denoiser, schedule, x_T)
    assert not torch.equal(first, ttune.sample(denoiser, schedule, x_T))
    torch.manual_seed(0)
    assert torch.equal(first, ttune.sample(denoiser, schedule, x_T))
    deterministic = Schedule.build(NOISE, "ddim", 3)
    assert torch.equal(ttune.sample(denoiser, deterministic, x_T), ttune.sample(denoiser, deterministic, x_T, seeds=[4, 5, 6]))


# -------------------------------------------------------------------------------------------------------------- callback


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_callback_sees_every_step(sampler: str) -> None:
    schedule = Schedule.build(NOISE, sampler, 4, "linspace")
    seen: list[tuple[int, float, Tensor]] = []
    x_T = standard_normal((2, 2))
    x = ttune.sample(mixture(NOISE).denoiser(), schedule, x_T, seeds=[1, 2], callback=lambda *state: seen.append(state))
    times = schedule.tableau().times
    assert len(times) >= 4
    assert [(i, t) for i, t, _ in seen] == list(enumerate(times))
    assert torch.equal(seen[-1][2], x)
    assert len({tuple(state.flatten().tolist()) for _, _, state in seen}) == len(times)


def test_the_callback_can_replace_the_state() -> None:
    schedule = Schedule.build(NOISE, "ddim", 4, "linspace")
    denoiser = mixture(NOISE).denoiser()
    other = standard_normal((2, 2), 3)

    def replace(i: int, t: float, x: Tensor) -> Tensor | None:
        return other if i == 1 else None

    x = ttune.sample(denoiser, schedule, standard_normal((2, 2)), callback=replace)
    rest = Schedule.build(NOISE, "ddim", None, schedule.times[2:])
    torch.testing.assert_close(x, ttune.sample(denoiser, rest, other), rtol=1e-12, atol=0)
    last = ttune.sample(denoiser, schedule, other, callback=lambda i, t, x: torch.zeros_like(x) if i == 3 else None)
    assert not last.any()


# ------------------------------------------------------------------------------------------------------ the loop itself


def test_the_network_is_asked_once_a_step_and_passed_the_network_times() -> None:
    passed: list[float] = []
    network = mixture(NOISE)

    def spy(x: Tensor, tau: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        passed.append(float(tau[0]))
        return network(x, tau)

    for sampler in SAMPLERS:
        schedule = Schedule.build(NOISE, sampler, 5, "linspace")
        schedule = schedule.replace(network_times=schedule.network_times * 0.9 + 1 / 3)
        ttune.sample(ttune.Denoiser(spy, NOISE), schedule, standard_normal((2, 2)))
        assert passed == schedule.network_times.tolist()
        passed.clear()


def test_no_gradient_is_kept() -> None:
    x_T = standard_normal((2, 2)).requires_grad_()
    for sampler in SAMPLERS:
        assert not ttune.sample(mixture(NOISE).denoiser(), Schedule.build(NOISE, sampler, 3), x_T).requires_grad
    assert torch.is_grad_enabled()


def test_x_T_is_not_written_to() -> None:
    x_T = standard_normal((2, 2))
    before = x_T.clone()
    for sampler in SAMPLERS:
        ttune.sample(mixture(NOISE).denoiser(), Schedule.build(NOISE, sampler, 3), x_T)
    assert torch.equal(x_T, before)


def test_a_network_may_write_every_output_into_the_same_memory() -> None:
    """As CUDA graphs do. What a multistep sampler remembers must not change under it."""
    for kind in ("sample", "epsilon"):
        buffer = torch.empty(3, 2, dtype=torch.float64)
        network = Gaussian(NOISE, 0.5, kind)
        reusing = ttune.Denoiser(lambda x, tau, n=network, b=buffer: b.copy_(n(x, tau)), NOISE, prediction_type=kind)
        for sampler in ("ddim", "dpmpp_2m"):
            schedule = Schedule.build(NOISE, sampler, 5, "linspace")
            x_T = standard_normal((3, 2))
            kept = ttune.sample(reusing, schedule, x_T)
            buffer.zero_()
            torch.testing.assert_close(kept, ttune.sample(network.denoiser(), schedule, x_T), rtol=1e-12, atol=1e-12)


def test_x_0_networks_without_clipping() -> None:
    """The last step is the network's output itself; nothing is left to combine."""
    gaussian = Gaussian(NOISE, 0.5, "sample")
    for sampler in SAMPLERS:
        x = ttune.sample(gaussian.denoiser(), Schedule.build(NOISE, sampler, 3), x_T := standard_normal((3, 2)), seeds=[1, 2, 3])
        y = ttune.sample(Gaussian(NOISE, 0.5).denoiser(), Schedule.build(NOISE, sampler, 3), x_T, seeds=[1, 2, 3])
        torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-8)


def test_final_zero_and_min() -> None:
    """Ending at the smallest time leaves its noise in: 2M's first steps are the same, the end is that of the exact flow."""
    gaussian = Gaussian(NOISE, 0.6)
    x_T = standard_normal((4, 2))
    zero, least = (Schedule.build(NOISE, "dpmpp_2m", 200, "log_snr", final=final) for final in ("zero", "min"))
    assert (zero.times[-1], least.times[-1]) == (-1, 0)
    torch.testing.assert_close(ttune.sample(gaussian.denoiser(), zero, x_T), gaussian.flow()(x_T), rtol=1e-3, atol=0)
    torch.testing.assert_close(ttune.sample(gaussian.denoiser(), least, x_T), gaussian.flow(end=0.0)(x_T), rtol=1e-3, atol=0)
    # The same to first order only if the last step were to land elsewhere:
    assert gaussian.v(0.0) != pytest.approx(gaussian.v(-1.0), rel=1e-5)


def test_where_the_start_is_scaled() -> None:
    """x_T belongs to the largest time: for EDM it is scaled down to a smaller start, for VP it is used as it is."""
    edm, x_T = NoiseSchedule.edm(), 80 * standard_normal((2, 2))
    schedule = Schedule.build(edm, "euler", 3, "karras", t_start=20.0)
    torch.testing.assert_close(start_state(schedule, x_T), x_T / 4)
    seen: list[Tensor] = []

    def spy(x: Tensor, tau: Tensor) -> Tensor:
        seen.append(x)
        return x

    ttune.sample(ttune.Denoiser(spy, edm), schedule, x_T)
    torch.testing.assert_close(seen[0], x_T / 4)
    assert start_state(Schedule.build(NOISE, "ddim", 3, "linspace", t_start=500), x_T) is x_T
    flow = Schedule.build(NoiseSchedule.flow(), "euler", 3, "linspace", t_start=0.5)
    torch.testing.assert_close(start_state(flow, x_T), x_T / 2)


def test_conditions_reach_the_network() -> None:
    def network(x: Tensor, tau: Tensor, shift: Tensor, factor: float) -> Tensor:
        return factor * (x + shift[:, None])

    shift = torch.arange(3.0, dtype=torch.float64)
    schedule = Schedule.build(NOISE, "ddim", 2)
    x = ttune.sample(ttune.Denoiser(network, NOISE), schedule, standard_normal((3, 2)), conditions={"shift": shift, "factor": 0.5})
    y = ttune.sample(ttune.Denoiser(lambda x, tau: 0.5 * (x + shift[:, None]), NOISE), schedule, standard_normal((3, 2)))
    assert torch.equal(x, y)


@pytest.mark.parametrize("x_T", [torch.zeros(2, 3, dtype=torch.int64), np.zeros((2, 3)), torch.tensor(1.0)])
def test_a_wrong_start_is_named(x_T: object) -> None:
    with pytest.raises(TypeError, match=r"x_T must be a floating-point tensor \(B, ...\), got"):
        ttune.sample(mixture(NOISE).denoiser(), Schedule.build(NOISE, "ddim", 2), x_T)  # type: ignore[arg-type]


@pytest.mark.parametrize("call", [lambda *given: ttune.sample(*given, torch.zeros(1, 1, 2, 2)), ttune.tune])
def test_a_network_in_place_of_a_denoiser_is_named(call: Any) -> None:
    with pytest.raises(TypeError, match=r"denoiser must be a ttune.Denoiser, got Conv2d: write ttune.Denoiser\("):
        call(torch.nn.Conv2d(1, 1, 1), Schedule.build(NoiseSchedule.linear(), "ddim", 2))


def test_an_empty_batch() -> None:
    for sampler in SAMPLERS:
        assert ttune.sample(ttune.Denoiser(elementwise, NOISE), Schedule.build(NOISE, sampler, 3), torch.zeros(0, 2)).shape == (0, 2)


def test_backends_agree() -> None:
    x_T = standard_normal((5, 3, 4)).float()
    denoiser = ttune.Denoiser(elementwise, NOISE, clip_sample=0.8)
    available = [name for name, state in ttune.backends().items() if state["available"] and name in ("reference", "cpu")]
    for schedule in (*STOCHASTIC.values(), *(Schedule.build(NOISE, name, 5, "log_snr") for name in SAMPLERS)):
        results = [ttune.sample(denoiser, schedule, x_T, seeds=[1, 2, 3, 4, 5], backend=name) for name in available]
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-5)


def test_a_plan_is_folded_once_and_anew_where_anything_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    make: Any = Plan.make
    monkeypatch.setattr(Plan, "make", staticmethod(lambda *arguments: made.append(arguments) or make(*arguments)))
    denoiser, schedule, x_T = Denoiser(lambda x, tau: 0.1 * x, NOISE), Schedule.build(NOISE, "ddim", 3), torch.randn(2, 3)

    def folded() -> int:
        before = len(made)
        ttune.sample(denoiser, schedule, x_T)
        return len(made) - before

    assert (folded(), folded()) == (1, 0)
    plain = ttune.sample(denoiser, schedule, x_T)
    denoiser.clip_sample = 0.01
    assert (folded(), folded()) == (1, 0)
    assert not torch.equal(ttune.sample(denoiser, schedule, x_T), plain)
    denoiser.network = lambda x, tau: 0.2 * x
    assert (folded(), folded()) == (1, 0)
    schedule = Schedule.build(NOISE, "ddim", 4)
    assert (folded(), folded()) == (1, 0)
    denoiser.noise = NoiseSchedule.scaled_linear()
    with pytest.raises(ValueError, match="its noise schedule is not the denoiser's"):
        folded()


def test_a_scale_that_is_a_function_is_asked_at_every_sampling() -> None:
    scales = [1.0, 5.0]
    guidance = ttune.ClassifierFree(lambda point: scales[0], {"label": 0.0})
    denoiser = Denoiser(lambda x, tau, label: 0.1 * x + label[:, None], NOISE, guidance=guidance)
    schedule, x_T = Schedule.build(NOISE, "ddim", 3), torch.randn(2, 3)
    conditions = {"label": torch.ones(2)}
    first = ttune.sample(denoiser, schedule, x_T, conditions=conditions)
    scales.pop(0)
    assert not torch.allclose(ttune.sample(denoiser, schedule, x_T, conditions=conditions), first)
