"""The loop of slots and bound tensors gives, bit for bit, what a plain loop over named registers gives."""

from __future__ import annotations

import copy
import pickle
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import ttune
from ttune import SAMPLERS, Classifier, ClassifierFree, Denoiser, DynamicThreshold, NoiseSchedule, Schedule, Stitched, Variants
from ttune.samplers.folding import START_DRAW
from ttune.sampling import sample as sampling
from ttune.sampling.plan import Plan, Registers
from ttune.sampling.sample import seed_tensor, start_state

NOISE = NoiseSchedule.linear()
SEEDS = [3, 2**40, -7]
LABELS = torch.tensor([1.0, 2.0, 3.0])
X_T = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@torch.no_grad()
def reference(denoiser: Denoiser, schedule: Schedule, x_T: Tensor, conditions: dict[str, Any]) -> Tensor:
    """A dictionary of registers, an evaluation and an update at a time; conditions and times are prepared anew for each."""
    plan, seeds = Plan.make(denoiser, schedule, x_T.device), seed_tensor(SEEDS, x_T)
    registers: Registers = {"x": start_state(schedule, x_T)}
    if plan.start is not None:
        registers = plan.start(registers, (), seeds, START_DRAW)
    for i in range(len(plan.steps)):
        outputs = plan.outputs(denoiser, i, registers["x"].clone(), conditions)
        registers = plan.advance(i, registers, outputs, seeds)
    return registers["x"]


def network(x: Tensor, tau: Tensor, label: Tensor) -> Tensor:
    return torch.tanh(x * torch.cos(tau / 300)[:, None, None].to(x.dtype) + 0.1 * label[:, None, None].to(x.dtype))


def faint(x: Tensor, tau: Tensor, label: Tensor) -> Tensor:
    return 0.5 * network(x, tau, label)


def log_prob(x: Tensor, tau: Tensor, label: Tensor) -> Tensor:
    return -((x.mean((1, 2)) - label) ** 2) * tau / 1000


class Sum:
    """A user's own guidance: two calls, of which it returns one more output than it weighs."""

    scale = 2.0

    def scale_at(self, index: int, point: Any) -> float:
        return self.scale

    def idle(self, scale: float) -> bool:
        return False

    def weights(self, q: float, scale: float, point: Any) -> tuple[float, ...]:
        return q * scale, q * (1 - scale)

    def outputs(self, network: Any, x: Tensor, tau: Tensor, conditions: Any, scale: float) -> list[Tensor]:
        return [network(x, tau, conditions), network(x, tau, {"label": 0 * conditions["label"]}).clone(), torch.full_like(x, torch.nan)]

    def cost(self, scale: float) -> int:
        return 2

    def settings(self) -> dict[str, Any]:
        return {}

    def check_length(self, evaluations: int) -> None:
        return None


NULL = {"label": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"clip_sample": 0.8},
    "epsilon is not recomputed": {"clip_sample": 0.8, "clip_epsilon": "keep"},
    "v": {"prediction_type": "v_prediction"},
    "x_0": {"prediction_type": "sample"},
    "threshold": {"threshold": DynamicThreshold()},
    "guided": {"guidance": ClassifierFree(2.0, NULL)},
    "guided, clipped": {"guidance": ClassifierFree(2.0, NULL), "clip_sample": 0.8},
    "guided, threshold": {"guidance": ClassifierFree(2.0, NULL), "threshold": DynamicThreshold()},
    "two calls": {"guidance": ClassifierFree(2.0, NULL, batched=False)},
    "interval": {"guidance": ClassifierFree(2.0, NULL, interval=(0.5, 5.0))},
    "rescaled": {"guidance": ClassifierFree(2.0, NULL, rescale=0.7)},
    "a function": {"guidance": ClassifierFree(lambda point: 1 + point.sigma, NULL)},
    "idle": {"guidance": ClassifierFree(1.0, NULL)},
    "classifier": {"guidance": Classifier(log_prob, 0.5)},
    "own": {"guidance": Sum()},
    "stitched": {"network": Stitched([network, faint], [400.0])},
}


def cases(sampler: str) -> Iterator[tuple[str, Denoiser, Schedule]]:
    schedules = [Schedule.build(NOISE, sampler, 4, "log_snr")]
    if sampler == "ddim":
        schedules += [Schedule.build(NOISE, sampler, 4, eta=0.5), schedules[0].replace(shift=ttune.Shift(30.0, 100.0))]
    for name, settings in SETTINGS.items():
        for schedule in schedules:
            yield name, Denoiser(**({"network": network, "noise": NOISE} | settings)), schedule


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_bits_as_a_plain_loop(sampler: str) -> None:
    for name, denoiser, schedule in cases(sampler):
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16) if name in ("plain", "guided") else (torch.float32,):
            x_T, before = X_T.to(dtype), denoiser.evaluations
            expected = reference(denoiser, schedule, x_T, {"label": LABELS})
            counted = denoiser.evaluations - before
            for _ in range(3):  # a network is trusted from its third call on
                found = ttune.sample(denoiser, schedule, x_T, conditions={"label": LABELS}, seeds=SEEDS)
                assert torch.equal(found, expected), (name, dtype)
                assert found.dtype == dtype
            assert denoiser.evaluations == before + 4 * counted
            assert denoiser.spent == pytest.approx(denoiser.evaluations)


def test_learned_variances_and_variants() -> None:
    def learned(x: Tensor, tau: Tensor, label: Tensor) -> Tensor:
        return torch.cat([network(x, tau, label), torch.sin(5 * x)], 1)

    ddpm = Schedule.build(NOISE, "ddpm", 4, options={"variance": "learned_range"})
    mixed = Schedule.build(NOISE, "dpmpp_2m", 4).replace(variants=(0, 1, 1, 0))
    for guidance in (None, ClassifierFree(2.0, NULL), ClassifierFree(2.0, NULL, batched=False)):
        for denoiser, schedule in (
            (Denoiser(learned, NOISE, guidance=guidance, learned_variance=True, clip_sample=0.8), ddpm),
            (Denoiser(Variants([network, faint], [1, 0.5]), NOISE, guidance=guidance), mixed),
        ):
            expected = reference(denoiser, schedule, X_T, {"label": LABELS})
            counted = denoiser.evaluations, denoiser.spent
            for n in (2, 3):
                assert torch.equal(ttune.sample(denoiser, schedule, X_T, conditions={"label": LABELS}, seeds=SEEDS), expected)
                assert (denoiser.evaluations, denoiser.spent) == (n * counted[0], pytest.approx(n * counted[1]))


# --------------------------------------------------------------------------------------------------------- memory


def ddim(steps: int = 5) -> Schedule:
    return Schedule.build(NOISE, "ddim", steps, "trailing")


def addresses(network: Any, **more: Any) -> list[int]:
    """Where the states are that a network sees, from the second run on."""
    seen: list[int] = []

    def spy(x: Tensor, tau: Tensor) -> Tensor:
        seen.append(x.data_ptr())
        return network(x, tau)

    denoiser, x_T = Denoiser(spy, NOISE), torch.randn(1, 64)
    expected = ttune.sample(denoiser, ddim(), x_T)
    seen.clear()
    assert torch.equal(ttune.sample(denoiser, ddim(), x_T, **more), expected)
    assert seen[0] == x_T.data_ptr()
    return seen[1:]


def test_memory_without_references_is_used_again() -> None:
    assert len(set(addresses(lambda x, tau: 0.1 * x))) == 1


HELD: list[Any] = []
HOLDERS = {
    "itself": lambda x: x,
    "a view": lambda x: x[:, :2],
    "a detached one": lambda x: x.detach(),
    "an array": lambda x: x.numpy(),
    "a weak reference": weakref.ref,
    "its storage": lambda x: x.untyped_storage(),
    "a capsule": torch.to_dlpack,
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_memory_that_a_network_holds_is_left_alone(hold: Any) -> None:
    def network(x: Tensor, tau: Tensor) -> Tensor:
        HELD.append((hold(x), x.clone()))
        return 0.1 * x

    HELD.clear()
    assert len(set(addresses(network))) > 1
    for held, copy_ in HELD:
        value = held() if isinstance(held, weakref.ref) else held
        if isinstance(value, Tensor):
            assert torch.equal(value, copy_[:, : value.shape[1]])
    HELD.clear()


def test_states_that_a_graph_of_autograd_holds_are_left_alone() -> None:
    """In C++, where Python's counter does not see them."""
    weight, graphs = torch.ones(64, requires_grad=True), []

    def network(x: Tensor, tau: Tensor) -> Tensor:
        with torch.enable_grad():
            graphs.append((0.1 * weight * x, x.clone()))
        return graphs[-1][0].detach().clone()

    addresses(network)
    for out, x in graphs:
        (gradient,) = torch.autograd.grad(out.sum(), weight)
        torch.testing.assert_close(gradient, 0.1 * x[0])


def test_states_that_a_callback_holds_and_the_first_one_are_left_alone() -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    x_T = torch.randn(2, 5)
    before = x_T.clone()
    denoiser = Denoiser(lambda x, tau: 0.1 * x, NOISE)
    for _ in range(3):
        ttune.sample(denoiser, Schedule.build(NOISE, "dpmpp_2m", 5), x_T, callback=lambda i, t, x: seen.append((x, x.clone())))
    assert all(torch.equal(x, copy_) for x, copy_ in seen)
    assert torch.equal(x_T, before)


# ------------------------------------------------------------------------------------------------------- programs


def test_several_programs_are_remembered_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    make: Any = Plan.make
    monkeypatch.setattr(Plan, "make", staticmethod(lambda *arguments: made.append(arguments) or make(*arguments)))
    denoiser, schedules = Denoiser(lambda x, tau: 0.1 * x, NOISE), [ddim(steps) for steps in range(1, 5)]
    for _ in range(3):
        for schedule in schedules:
            for batch in (1, 2):
                ttune.sample(denoiser, schedule, torch.randn(batch, 3))
    assert len(made) == 8 == sampling.PROGRAMS
    ttune.sample(denoiser, ddim(9), torch.randn(1, 3))
    assert len(denoiser.programs) == 8
    ttune.sample(denoiser, schedules[3], torch.randn(2, 3))
    assert len(made) == 9
    ttune.sample(denoiser, schedules[0], torch.randn(1, 3))
    assert len(made) == 10


def test_copies_and_pickles_have_no_programs() -> None:
    denoiser = Denoiser(network, NOISE)
    ttune.sample(denoiser, ddim(), X_T, conditions={"label": LABELS})
    for other in (copy.copy(denoiser), copy.deepcopy(denoiser), pickle.loads(pickle.dumps(denoiser))):
        assert denoiser.programs
        assert not other.programs
        other.clip_sample = 0.1
        found = ttune.sample(other, ddim(), X_T, conditions={"label": LABELS})
        assert torch.equal(found, reference(Denoiser(network, NOISE, clip_sample=0.1), ddim(), X_T, {"label": LABELS}))


def test_threads_share_programs() -> None:
    denoiser, schedules = Denoiser(network, NOISE), [ddim(steps) for steps in range(2, 12)]
    expected = [ttune.sample(Denoiser(network, NOISE), schedule, X_T, conditions={"label": LABELS}) for schedule in schedules]
    wrong: list[int] = []

    def work() -> None:
        for _ in range(3):
            for i, schedule in enumerate(schedules):
                found = ttune.sample(denoiser, schedule, X_T, conditions={"label": LABELS})
                wrong.extend([i] if not torch.equal(found, expected[i]) else [])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_network_that_writes_into_its_time_later_than_at_its_first_call() -> None:
    """The program's times are restored, and the network is given copies from then on."""
    calls: list[int] = []

    def late(x: Tensor, tau: Tensor) -> Tensor:
        calls.append(1)
        out = 0.1 * x * torch.cos(tau / 300)[:, None]
        if len(calls) > 2:
            tau.zero_()
        return out

    denoiser, x_T = Denoiser(late, NOISE), torch.randn(2, 3)
    expected = ttune.sample(Denoiser(lambda x, tau: 0.1 * x * torch.cos(tau / 300)[:, None], NOISE), ddim(), x_T)
    schedule = ddim()
    for _ in range(3):
        assert torch.equal(ttune.sample(denoiser, schedule, x_T), expected)


def test_a_network_that_writes_into_its_conditions_later_is_refused() -> None:
    calls: list[int] = []

    def late(x: Tensor, tau: Tensor, label: Tensor) -> Tensor:
        calls.append(1)
        return 0.1 * x + (label if len(calls) < 4 else label.mul_(2))[:, None]

    with pytest.raises(RuntimeError, match="network changed its input in place, which it did not do at its first call"):
        ttune.sample(Denoiser(late, NOISE), ddim(), torch.zeros(3, 2), conditions={"label": LABELS.clone()})


@pytest.mark.filterwarnings("ignore:out of memory")
def test_memory_that_runs_out_in_the_middle() -> None:
    """The call is made again, in halves, and so are those after it; other errors are raised, with a note."""
    sizes: list[int] = []

    def full(x: Tensor, tau: Tensor, label: Tensor) -> Tensor:
        sizes.append(len(x))
        if len(sizes) > 3 and len(x) > 3:
            raise torch.OutOfMemoryError("no room")
        return network(x, tau, label)

    denoiser = Denoiser(full, NOISE, guidance=ClassifierFree(2.0, NULL))
    expected = ttune.sample(Denoiser(network, NOISE, guidance=ClassifierFree(2.0, NULL)), ddim(), X_T, conditions={"label": LABELS})
    assert torch.equal(ttune.sample(denoiser, ddim(), X_T, conditions={"label": LABELS}), expected)
    assert sizes == [6, 6, 6, 6, 3, 3, 3, 3]
    assert denoiser.evaluations == 30
    assert denoiser.call_batches.most == 3
