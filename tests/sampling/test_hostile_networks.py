"""Networks that own their memory, write into what they are given, or answer in another dtype give what a polite one gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import ttune
from ttune import ClassifierFree, CompiledSampler, Denoiser, NoiseSchedule, Schedule
from ttune.evaluation.features.extractor import FeatureExtractor
from ttune.evaluation.images.decoded import pictures_of
from ttune.evaluation.judge import CandidateMetrics
from ttune.network.dynamic_batch import any_batch
from ttune.numpy.plan import Plan
from ttune.tuning import Evolution, Teacher, TimeTuner
from ttune.tuning.integer_times.coordinate_descent import between_rows

NOISE = NoiseSchedule.continuous_vp()
X_T = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
GAIN = torch.tensor([1.0, 0.9, 1.1, 1.2])
SEEDS = [1, 2, 2**63 - 1, -(2**63)]
Network = Callable[..., Tensor]


def polite(x: Tensor, tau: Tensor, extra: Any = None) -> Tensor:
    out = 0.1 * x * torch.sin(3 * tau.to(x.dtype))[:, None] + 0.02 * torch.tanh(x)
    return out if extra is None else out * extra["gain"].to(x.dtype)[:, None]


def spoil(*values: Any) -> None:
    for value in pytree.tree_leaves(values):
        if isinstance(value, Tensor):
            value.fill_(777)


def static() -> Network:
    """The same memory at every call without gradients, as CUDA graphs and bound outputs have."""
    buffers: dict[Any, Tensor] = {}

    def network(x: Tensor, tau: Tensor, extra: Any = None) -> Tensor:
        found = polite(x, tau, extra)
        return found if torch.is_grad_enabled() else buffers.setdefault(tuple(x.shape), torch.empty_like(found)).copy_(found)

    return network


def in_place() -> Network:
    def network(x: Tensor, tau: Tensor, extra: Any = None) -> Tensor:
        found = polite(x.clone(), tau.clone(), None if extra is None else {"gain": extra["gain"].clone()})
        spoil(x, tau, extra)
        return found

    return network


def returns_its_input() -> Network:
    def network(x: Tensor, tau: Tensor, extra: Any = None) -> Tensor:
        return x.copy_(polite(x.clone(), tau, extra))

    return network


def through_numpy() -> Network:
    """Writes where torch does not count."""

    def network(x: Tensor, tau: Tensor, extra: Any = None) -> Tensor:
        found = polite(x, tau, extra)
        if not torch.is_grad_enabled():
            found, array = found.clone(), x.numpy()
            array[:] = 777
        return found

    return network


def doubled() -> Network:
    return lambda x, tau, extra=None: polite(x, tau, extra).double()


def everything() -> Network:
    memory = static()

    def network(x: Tensor, tau: Tensor, extra: Any = None) -> Tensor:
        found = memory(x.clone(), tau.clone(), None if extra is None else {"gain": extra["gain"].clone()})
        spoil(x, tau, extra)
        return found.double() if torch.is_grad_enabled() else found

    return network


HOSTILE = {f.__name__: f for f in (static, in_place, returns_its_input, through_numpy, doubled, everything)}


def given() -> dict[str, Any]:
    return {"extra": {"gain": GAIN.clone(), "word": "kept"}}


@pytest.fixture(params=HOSTILE)
def network(request: pytest.FixtureRequest) -> Network:
    return HOSTILE[request.param]()


def denoisers(network: Network, settings: dict[str, Any]) -> list[Denoiser]:
    return [Denoiser(f, NOISE, **settings) for f in (network, polite)]


NULL = {"extra": {"gain": 0.5}}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "guided": {"guidance": ClassifierFree(2.0, NULL), "clip_sample": 1.0},
    "two calls": {"guidance": ClassifierFree(2.0, NULL, batched=False)},
    "threshold": {"threshold": ttune.DynamicThreshold()},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "unipc", "ddpm", "dpm_solver_3"])
def test_sampling(network: Network, sampler: str, settings: dict[str, Any]) -> None:
    schedule = Schedule.build(NOISE, sampler, 4, "log_snr")
    hostile, plain = denoisers(network, settings)
    expected = ttune.sample(plain, schedule, X_T, conditions=given(), seeds=SEEDS)
    x_T, conditions = X_T.clone(), given()
    network_times = torch.from_numpy(schedule.network_times.copy())
    for _ in range(2):
        assert torch.equal(ttune.sample(hostile, schedule, x_T, conditions=conditions, seeds=SEEDS, network_times=network_times), expected)
        found = CompiledSampler(hostile, schedule, compile=False)(x_T, conditions=conditions, seeds=SEEDS)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(x_T, X_T)
    assert torch.equal(conditions["extra"]["gain"], GAIN)
    assert torch.equal(network_times, torch.from_numpy(schedule.network_times.copy()))
    with torch.inference_mode():
        assert torch.equal(ttune.sample(hostile, schedule, x_T + 0, conditions=given(), seeds=SEEDS), expected)


@pytest.mark.filterwarnings("ignore:out of memory")
def test_a_call_in_parts(network: Network) -> None:
    def small(x: Tensor, tau: Tensor, extra: Any = None) -> Tensor:
        if len(x) > 1:
            spoil(x)
            raise torch.OutOfMemoryError("no room")
        return network(x, tau, extra)

    schedule = Schedule.build(NOISE, "dpmpp_2m", 4, "log_snr")
    found, expected = (ttune.sample(Denoiser(f, NOISE), schedule, X_T.clone(), conditions=given()) for f in (small, polite))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_a_network_of_whole_times_that_is_asked_between_them(network: Network) -> None:
    hostile, plain = (between_rows(denoiser) for denoiser in denoisers(network, {"integer_time": True}))
    tau = torch.tensor([0.25, 1.5, 2.0, 3.75])
    with torch.no_grad():
        expected = plain.outputs(X_T, tau, given())[0]
        for _ in range(2):
            torch.testing.assert_close(hostile.outputs(X_T.clone(), tau, given())[0], expected)


def test_a_network_that_writes_later_is_refused() -> None:
    calls: list[int] = []

    def late(x: Tensor, tau: Tensor) -> Tensor:
        calls.append(1)
        return 0.1 * x if len(calls) < 3 else x.mul_(0.1)

    with pytest.raises(RuntimeError, match="network changed its input in place, which it did not do at its first call"):
        ttune.sample(Denoiser(late, NOISE), Schedule.build(NOISE, "ddim", 4, "log_snr"), X_T)


def test_a_network_that_changes_a_dict_among_its_conditions() -> None:
    def network(x: Tensor, tau: Tensor, extra: Any) -> Tensor:
        found = polite(x, tau, extra)
        extra["gain"] = 2 * extra["gain"]
        return found

    schedule = Schedule.build(NOISE, "ddim", 4, "log_snr")
    conditions, denoiser = given(), Denoiser(network, NOISE)
    expected = ttune.sample(Denoiser(polite, NOISE), schedule, X_T, conditions=given())
    for _ in range(2):
        assert torch.equal(ttune.sample(denoiser, schedule, X_T, conditions=conditions), expected)
    assert torch.equal(conditions["extra"]["gain"], GAIN)


def test_a_network_that_may_be_compiled_is_found_out_at_a_batch_of_one() -> None:
    """There a tuning shows it the sample twice, in memory of its own."""
    import torch._dynamo

    schedule = Schedule.build(NOISE, "dpmpp_2m", 4, "log_snr")
    for network in (everything(), returns_its_input()):
        denoiser = any_batch(Denoiser(network, NOISE))
        for n in (1, 4):
            part = {"extra": {"gain": GAIN[:n].clone()}}
            expected = ttune.sample(Denoiser(polite, NOISE), schedule, X_T[:n], conditions=part)
            torch.testing.assert_close(ttune.sample(denoiser, schedule, X_T[:n], conditions=part), expected)


def test_an_output_that_is_the_state() -> None:
    """A network that returns its argument itself, beside one that returns a copy."""
    schedule = Schedule.build(NOISE, "dpmpp_2m", 4, "log_snr")
    found, expected = (ttune.sample(Denoiser(f, NOISE), schedule, X_T) for f in (lambda x, tau: x, lambda x, tau: x.clone()))
    assert torch.equal(found, expected)
    tuned = [
        tune(f, method="endpoint", optimizer="differences", conditions=None).schedule for f in (lambda x, tau: x, lambda x, tau: x.clone())
    ]
    assert tuned[0] == tuned[1]


def tune(network: Network, **more: Any) -> ttune.TuneResult:
    """A small tuning, to the end of which every number counts."""
    schedule = more.pop("schedule", Schedule.build(NOISE, "dpmpp_2m", 3, "log_snr"))
    settings: dict[str, Any] = {
        "sample_shape": (6,), "samples": 8, "validation_samples": 8, "batch_size": 4, "fallback": False, "progress": False,
        "conditions": lambda seeds: {"extra": {"gain": 1 + 0.1 * (seeds % 3).float()}},
        "teacher": Schedule.build(NOISE, "dpmpp_2m", 8, "log_snr"),
    }  # fmt: skip
    if more.get("method", "endpoint") == "endpoint":
        settings |= {"iterations": 2, "search_starts": False}
    return ttune.tune(Denoiser(network, schedule.noise), schedule, **(settings | more))


METHODS: dict[str, dict[str, Any]] = {
    **{name: {"optimizer": name} for name in ("differences", "broyden", "backpropagation")},
    "coefficients": {"tune": ("network_times", "coefficients"), "optimizer": "auto"},
    "own": {"optimizer": "differences", "residual": lambda x: x[:, :4].clone()},
    "trajectory": {"method": "trajectory"},
    "local": {"method": "local"},
    "optimal_steps": {"method": "optimal_steps"},
    "shifted": {"method": "shifted"},
    "evolution": {"method": Evolution(population=4, rounds=1, mutations=1, crossovers=1)},
    "timetuner": {"method": TimeTuner(iterations=2), "data": (X_T, {"extra": {"gain": GAIN}})},
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_tuning(method: dict[str, Any]) -> None:
    found, expected = tune(everything(), **method), tune(polite, **method)
    assert found.schedule == expected.schedule
    assert found.validation["rmse"] == pytest.approx(expected.validation["rmse"])


def test_the_probe_of_a_time_table() -> None:
    schedule = Schedule.build(NoiseSchedule.linear(), "ddim", 3, "log_snr")

    def slow(network: Network) -> Network:
        return lambda x, tau, extra=None: network(x, tau.div_(1000), extra)

    found, expected = (tune(slow(f), schedule=schedule, teacher=schedule, iterations=1) for f in (everything(), polite))
    assert found.time_table == expected.time_table
    assert found.schedule == expected.schedule


def test_teachers_and_features_that_own_their_memory() -> None:
    buffer = torch.empty(4, 6)

    def arrive(x_T: Tensor, t: float = 0.0) -> Tensor:
        out = buffer.copy_(0.2 * x_T)
        spoil(x_T)
        return out

    def features(x: Tensor) -> Tensor:
        out = buffer[:, :3].copy_(x[:, :3])
        spoil(x)
        return out

    hostile = tune(everything(), teacher=arrive, features=features)
    plain = tune(polite, teacher=lambda x_T, t=0.0: 0.2 * x_T, features=lambda x: x[:, :3].clone())
    assert hostile.schedule == plain.schedule
    assert hostile.validation["frechet"] == pytest.approx(plain.validation["frechet"])
    remembering = Teacher(arrive, remember=True)
    first = remembering.endpoint(Denoiser(polite, NOISE), X_T, {}).clone()
    remembering.endpoint(Denoiser(polite, NOISE), 2 * X_T, {})
    assert torch.equal(remembering.endpoint(Denoiser(polite, NOISE), X_T, {}), first)


def test_evaluating(network: Network) -> None:
    schedule = Schedule.build(NOISE, "dpmpp_2m", 3, "log_snr")
    buffer = torch.empty(2, 1, 2, 3)

    def decode(x: Tensor) -> Tensor:
        out = buffer[: len(x)].copy_(x.view(-1, 1, 2, 3))
        spoil(x)
        return out

    memory = torch.empty(2, 6, dtype=torch.float64)
    extractor = FeatureExtractor("own", lambda x: memory[: len(x)].copy_(x.flatten(1)), batch=2)
    rows = []
    for denoiser in denoisers(network, {"decode": decode}):
        judge = CandidateMetrics(denoiser, X_T.clone(), given(), extractor, None, batch_size=2, progress=False)
        x = judge.samples(schedule)
        pictures = [pictures_of(denoiser, part) for part in x.split(2)]
        assert torch.equal(torch.cat(pictures).flatten(1), x)
        rows.append((x, extractor(torch.cat(pictures))))
    torch.testing.assert_close(rows[0][0], rows[1][0])
    torch.testing.assert_close(rows[0][1], rows[1][1])


def test_a_network_of_arrays() -> None:
    """From ``ttune.from_numpy``, and in a loop of one's own with ``ttune.numpy``."""
    schedule, buffer = Schedule.build(NOISE, "dpmpp_2m", 4, "log_snr"), np.empty((4, 6))

    def function(x: Any, tau: Any, extra: Any = None) -> Any:
        found = polite(
            torch.from_numpy(x).clone(), torch.from_numpy(tau).clone(), extra and {"gain": torch.from_numpy(extra["gain"]).clone()}
        )
        for array in (x, tau, *([] if extra is None else [extra["gain"]])):
            array[:] = 777
        buffer[:] = found.numpy()
        return buffer

    conditions = given()
    found = ttune.sample(Denoiser(ttune.from_numpy(function), NOISE), schedule, X_T, conditions=conditions)
    assert torch.equal(found, ttune.sample(Denoiser(polite, NOISE), schedule, X_T, conditions=given()))
    assert torch.equal(conditions["extra"]["gain"], GAIN)

    def double(x: Any, tau: float) -> Any:
        buffer[:] = polite(torch.from_numpy(x), torch.full((4,), tau)).numpy()
        return buffer

    plan, x_T = Plan.make(schedule), X_T.numpy().copy()
    registers = plan.start(x_T)
    for step in plan.steps:
        registers = step(registers, [double(registers["x"], step.network_times)])
    assert registers["x"].dtype == np.float32
    np.testing.assert_allclose(registers["x"], ttune.sample(Denoiser(polite, NOISE), schedule, X_T).numpy(), rtol=1e-5, atol=1e-6)
    plan.start(x_T)["x"][:] = 777
    assert np.array_equal(x_T, X_T.numpy())


def test_callbacks_are_checked_and_may_own_their_memory() -> None:
    schedule, denoiser = Schedule.build(NOISE, "heun", 4, "log_snr"), Denoiser(polite, NOISE)
    for made, match in (
        (lambda x: x.double(), r"in torch.float32 on cpu, got torch.float64 on cpu"),
        (lambda x: x[:1], r"of shape \(4, 6\)"),
    ):
        with pytest.raises(ValueError, match=f"callback must return None or a state {match}"):
            ttune.sample(denoiser, schedule, X_T, callback=lambda i, t, x, made=made: made(x))
    with pytest.raises(TypeError, match="callback must return None or a state, got int"):
        ttune.sample(denoiser, schedule, X_T, callback=lambda i, t, x: 3)  # pyright: ignore[reportArgumentType]
    buffer = torch.empty_like(X_T)
    found = ttune.sample(denoiser, schedule, X_T, callback=lambda i, t, x: buffer.copy_(0.9 * x))
    assert torch.equal(found, ttune.sample(denoiser, schedule, X_T, callback=lambda i, t, x: 0.9 * x))


@pytest.mark.parametrize("seed", [5000, -(2**29)])
def test_every_seed_that_is_accepted_is_used(seed: int) -> None:
    assert tune(polite, optimizer="backpropagation", seed=seed).history
    tune(polite, method=METHODS["evolution"]["method"], seed=seed)
    ttune.conditions_from({"y": [1, 2]}, seed=seed * 2**40)


def test_a_half_network_can_be_tuned_by_gradients_and_the_refusal_says_why() -> None:
    half = X_T.repeat(4, 1).half() * torch.linspace(0.5, 1.5, 16)[:, None].half()
    assert tune(polite, optimizer="backpropagation", x_T=half, sample_shape=None, conditions=None).history

    def arrays(x: Tensor, tau: Tensor, extra: Any) -> Tensor:
        return torch.from_numpy(polite(x, tau, extra).numpy())

    with pytest.raises(ValueError, match="differentiable in its state and its time, and here RuntimeError: Can't call numpy"):
        tune(arrays, optimizer="backpropagation")
