"""``ttune.tune`` as a whole: the held-out promise, interruption and resume, what it refuses, black boxes."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ttune
from tests.oracles import Gaussian, mixture, standard_normal
from ttune import NoiseSchedule, Schedule, TimeTuner, TuneResult
from ttune.tuning import LD3, DyWeight, Evolution, GeneralizedSolver, OptimalSteps, Shifted, TuneArguments

NOISE = NoiseSchedule.linear()
START = Schedule.build(NOISE, "ddim", 4, "linspace")
X_T = standard_normal((24, 2))
DATA = standard_normal((20, 2), 7) * 0.5

METHODS: dict[str, dict[str, Any]] = {
    "endpoint": {"method": "endpoint", "search_starts": False, "iterations": 4},
    "endpoint, several starts": {"method": "endpoint", "iterations": 3},
    "trajectory": {"method": "trajectory"},
    "local": {"method": "local"},
    "optimal_steps": {"method": "optimal_steps"},
    "optimal_steps, rolled": {"method": OptimalSteps("rolled", candidates=8)},
    "ays": {"method": "ays"},
    "shifted": {"method": Shifted(windows=(0.05, 0.2), cutoffs=(0.3, 0.6))},
    "timetuner": {"method": TimeTuner(iterations=4, lr=1e-2), "data": DATA},
    "evolution": {"method": Evolution(population=12, mutations=5, crossovers=4, rounds=3)},
    "evolution, CMA-ES": {"method": Evolution("cma", population=6, rounds=4)},
    "gs": {"method": GeneralizedSolver(iterations=3, batch=4)},
    "ld3": {"method": LD3(iterations=6, batch=4, radius=0.1)},
    "dyweight": {"method": DyWeight(iterations=3, batch=4)},
    "timetuner, re-rolled": {"method": TimeTuner(iterations=4, lr=1e-2, reroll=True), "data": DATA},
}


BACKWARD = {"timetuner", "gs", "dyweight", "ld3"}  # methods that differentiate the network


def teacher() -> Schedule:
    return Schedule.build(NOISE, "dpmpp_2m", 24, "log_snr")


def tune(denoiser: ttune.Denoiser | None = None, start: Schedule = START, **options: Any) -> TuneResult:
    settings: dict[str, Any] = {
        "x_T": X_T,
        "teacher": teacher(),
        "progress": False,
        "batch_size": 8,
        "search_starts": False,
        "iterations": 3,
    }
    return ttune.tune(denoiser or mixture(NOISE).denoiser(), start, **(settings | options))


# ------------------------------------------------------------------------------------------------------------ the promise


def test_what_is_returned_is_better_where_it_was_not_tuned() -> None:
    result = tune(iterations=10)
    assert result.improved
    held_out = X_T[18:]  # the last quarter
    denoiser = mixture(NOISE).denoiser()
    target = ttune.sample(denoiser, teacher(), held_out)

    def rmse(schedule: Schedule) -> float:
        return float((ttune.sample(mixture(NOISE).denoiser(), schedule, held_out) - target).square().mean().sqrt())

    assert result.validation["n"] == 6
    assert result.validation["rmse_start"] == pytest.approx(rmse(START), rel=1e-9)
    assert result.validation["rmse"] == pytest.approx(rmse(result.schedule.replace(model={})), rel=1e-9)
    assert result.validation["rmse"] < result.validation["rmse_start"]
    assert result.validation["frechet"] <= result.validation["frechet_start"]
    assert result.schedule.tuned["method"] == "endpoint"


def test_a_start_that_is_the_teacher_is_returned_itself() -> None:
    for start in (START, teacher()):
        result = tune(start=start, teacher=start)
        assert result.schedule is start
        assert not result.improved
        assert result.validation["chosen"] == "start"
        assert result.summary()


def test_what_is_worse_on_held_out_points_is_not_returned() -> None:
    """Held-out x_T on which only the start is right: the teacher of the held-out ones is the start itself."""
    target = ttune.sample(mixture(NOISE).denoiser(), START, X_T)

    def split_teacher(x_T: Tensor) -> Tensor:
        rows = [int((x == X_T).all(1).nonzero()[0]) for x in x_T]
        return torch.stack([target[i] + (0.01 if i >= 18 else 0.5) for i in rows])

    result = tune(teacher=split_teacher)
    assert result.history["given"][-1] < result.history["given"][0]  # better on the tuning x_T
    assert result.schedule is START
    assert not result.improved
    assert "the RMSE is not lower than that of the start" in result.validation["refused"][0]
    assert "returned instead: the start" in result.summary()
    kept = tune(teacher=split_teacher, fallback=False)
    assert kept.improved
    assert kept.validation["ratio"] > 1


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_never_worse(name: str, sampler: str) -> None:
    result = tune(start=START.replace(sampler=sampler), **METHODS[name])
    assert result.validation["rmse"] <= result.validation["rmse_start"]
    assert result.validation["frechet"] <= result.validation["frechet_start"]
    assert result.improved == (result.schedule != START.replace(sampler=sampler))
    assert isinstance(result.summary(), str)


def test_a_tuned_schedule_can_be_saved_and_used(tmp_path: Path) -> None:
    result = tune()
    result.schedule.save(tmp_path / "t.json")
    loaded = Schedule.load(tmp_path / "t.json", noise=NOISE, sampler="ddim")
    assert loaded == result.schedule
    x = ttune.sample(mixture(NOISE).denoiser(), loaded, X_T)
    assert torch.equal(x, ttune.sample(mixture(NOISE).denoiser(), result.schedule, X_T))
    guided = ttune.Denoiser(mixture(NOISE), NOISE, clip_sample=1.0)
    with pytest.raises(ValueError, match=r"tuned for another denoiser: clip_sample is 1.0, the schedule was tuned for None"):
        ttune.sample(guided, loaded, X_T)


# ------------------------------------------------------------------------------------------------- interruption and resume


class Interrupting:
    """A network that is interrupted at its n-th call."""

    def __init__(self, network: Callable[..., Tensor], at: float = math.inf) -> None:
        self.network, self.at, self.calls = network, at, 0

    def __call__(self, x: Tensor, tau: Tensor) -> Tensor:
        self.calls += 1
        if self.calls >= self.at:
            raise KeyboardInterrupt
        return self.network(x, tau)


def same(a: TuneResult, b: TuneResult) -> None:
    assert a.schedule.times.tobytes() == b.schedule.times.tobytes()
    assert a.schedule.network_times.tobytes() == b.schedule.network_times.tobytes()
    assert (a.improved, a.validation, a.history, a.teacher) == (b.improved, b.validation, b.history, b.teacher)
    assert {k: v for k, v in a.cost.items() if k != "seconds"} == {k: v for k, v in b.cost.items() if k != "seconds"}


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_ends_where_an_uninterrupted_one_ends(name: str, tmp_path: Path) -> None:
    counting = Interrupting(mixture(NOISE))
    whole = tune(ttune.Denoiser(counting, NOISE), **METHODS[name])
    assert sum(v for k, v in whole.cost.items() if k != "seconds") > 0
    for k, fraction in enumerate((0.02, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97, 1.0)):
        at = max(1, int(fraction * counting.calls))
        checkpoint = tmp_path / f"{k}.json"
        with pytest.raises(KeyboardInterrupt):
            tune(ttune.Denoiser(Interrupting(mixture(NOISE), at), NOISE), checkpoint=checkpoint, **METHODS[name])
        if not checkpoint.exists():
            assert at <= 24 * 3  # before the first piece, the teacher's three chunks, was finished there is nothing to resume
            continue
        resumed = Interrupting(mixture(NOISE))
        same(tune(ttune.Denoiser(resumed, NOISE), checkpoint=checkpoint, resume=True, **METHODS[name]), whole)
        if fraction == 1.0:
            assert resumed.calls < 0.5 * counting.calls  # it did not start from scratch


def test_a_run_interrupted_again_and_again(tmp_path: Path) -> None:
    counting = Interrupting(mixture(NOISE))
    whole = tune(ttune.Denoiser(counting, NOISE))
    for _ in range(60):
        try:
            result = tune(ttune.Denoiser(Interrupting(mixture(NOISE), 500), NOISE), checkpoint=tmp_path / "c", resume=True)
        except KeyboardInterrupt:
            continue
        same(result, whole)
        return
    raise AssertionError("it does not get ahead")


def test_a_finished_run_resumed_says_the_same(tmp_path: Path) -> None:
    first = tune(checkpoint=tmp_path / "c")
    same(tune(checkpoint=tmp_path / "c", resume=True), first)


CHANGES: dict[str, dict[str, Any]] = {
    "iterations": {"iterations": 5},
    "tune": {"tune": ("times",)},
    "fix_start": {"fix_start": True},
    "search_starts": {"search_starts": True},
    "batch_size": {"batch_size": 7},
    "seed": {"seed": 1},
    "x_T": {"x_T": X_T * 1.01},
    "teacher": {"teacher": Schedule.build(NOISE, "dpmpp_2m", 24, "linspace")},
    "start": {"start": Schedule.build(NOISE, "ddim", 4, "quadratic")},
    "method": {"method": "trajectory"},
    "model": {"denoiser": ttune.Denoiser(mixture(NOISE), NOISE, clip_sample=3.0)},
}


@pytest.mark.parametrize("setting", CHANGES)
def test_a_changed_setting_is_refused_by_name(setting: str, tmp_path: Path) -> None:
    tune(checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match=rf"checkpoint: .*/c belongs to another run: {setting} was .*, is "):
        tune(checkpoint=tmp_path / "c", resume=True, **CHANGES[setting])


def test_a_changed_model_is_forgiven_where_it_is_asked_for(tmp_path: Path) -> None:
    first = tune(checkpoint=tmp_path / "c", check_model=False)
    same(tune(checkpoint=tmp_path / "c", resume=True), first)
    other = ttune.Denoiser(mixture(NOISE), NOISE, name="other")
    with pytest.raises(ValueError, match="belongs to another run: model was"):
        tune(other, checkpoint=tmp_path / "c", resume=True)
    assert tune(other, checkpoint=tmp_path / "c", resume=True, check_model=False).schedule == first.schedule


def test_changed_data_and_timetuner_settings_are_refused(tmp_path: Path) -> None:
    tune(checkpoint=tmp_path / "c", **METHODS["timetuner"])
    for setting, changes in (("data", {"data": DATA * 2}), ("timetuner", {"method": TimeTuner(iterations=5, lr=1e-2)})):
        with pytest.raises(ValueError, match=f"belongs to another run: {setting} was"):
            tune(checkpoint=tmp_path / "c", resume=True, **(METHODS["timetuner"] | changes))


def test_changed_conditions_are_refused(tmp_path: Path) -> None:
    network = mixture(NOISE)
    denoiser = ttune.Denoiser(lambda x, tau, scale: network(x, tau) * scale[:, None], NOISE)
    tune(denoiser, checkpoint=tmp_path / "c", conditions={"scale": torch.ones(24)})
    with pytest.raises(ValueError, match="belongs to another run: conditions was"):
        tune(denoiser, checkpoint=tmp_path / "c", resume=True, conditions={"scale": torch.full((24,), 0.9)})


def test_an_earlier_run_is_not_overwritten(tmp_path: Path) -> None:
    tune(checkpoint=tmp_path / "c")
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(FileExistsError, match=r"checkpoint: .*/c holds an earlier run; resume it \(resume=True, --resume\) or remove it"):
        tune(checkpoint=tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == before
    with pytest.raises(ValueError, match="resume needs a checkpoint"):
        tune(resume=True)


DAMAGED = [b"", b"{}", b"[1, 2]", b'{"fingerprint": {}}', b'{"fingerprint": 1, "pieces": 2}', b"\xff\xfe", b'{"a": "\xff"}']


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_journal_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint: .*/c is not a ttune journal"):
        tune(checkpoint=tmp_path / "c", resume=True)


def test_a_truncated_or_nested_journal_is_refused(tmp_path: Path) -> None:
    tune(checkpoint=tmp_path / "c")
    whole = (tmp_path / "c").read_bytes()
    for length in range(0, len(whole), 211):
        (tmp_path / "c").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is not a ttune journal"):
            tune(checkpoint=tmp_path / "c", resume=True)
    (tmp_path / "c").write_bytes(b'{"fingerprint": ' + b'{"a":' * 100_000)
    with pytest.raises(ValueError, match="is not a ttune journal"):
        tune(checkpoint=tmp_path / "c", resume=True)
    with (tmp_path / "c").open("ab") as file:
        file.truncate(10**9)
    with pytest.raises(ValueError, match=r"checkpoint: .*a journal has at most 64000000 bytes, this one has 1000000000"):
        tune(checkpoint=tmp_path / "c", resume=True)


def test_a_damaged_tensor_is_refused_and_a_lost_one_made_again(tmp_path: Path) -> None:
    first = tune(checkpoint=tmp_path / "c")
    file = tmp_path / "c.teacher_tuning.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"teacher_tuning\.safetensors is not as it was written"):
        tune(checkpoint=tmp_path / "c", resume=True)
    file.unlink()
    again = tune(checkpoint=tmp_path / "c", resume=True)
    assert again.schedule == first.schedule


def test_the_journal_is_json(tmp_path: Path) -> None:
    tune(checkpoint=tmp_path / "c")
    content = json.loads((tmp_path / "c").read_text())
    assert content["fingerprint"]["method"] == "endpoint"
    assert content["pieces"]["ledger"]["evaluations"]["tuning"] > 0


# ------------------------------------------------------------------------------------------------------------- accounting


@pytest.mark.parametrize("name", METHODS)
def test_every_evaluation_is_accounted_for(name: str) -> None:
    """The ledger's total is what the network saw; only a backward, which counts 2, is more."""
    seen = backwards = 0
    network = mixture(NOISE)

    def counted(x: Tensor, tau: Tensor) -> Tensor:
        nonlocal seen
        seen += len(x)
        output = network(x, tau)
        if output.requires_grad:
            output.register_hook(backward)
        return output

    def backward(cotangent: Tensor) -> None:
        nonlocal backwards
        backwards += 2 * len(cotangent)

    # In backward passes of two samples: a network that may be compiled is shown a single one twice.
    pairs = {"batch_size": 32} if BACKWARD & set(name.split(",")) else {}
    result = tune(ttune.Denoiser(counted, NOISE), **METHODS[name], **pairs)
    total = sum(v for k, v in result.cost.items() if k != "seconds")
    assert total == seen + backwards
    assert (backwards > 0) == bool(BACKWARD & set(name.split(",")))
    assert result.cost["teacher"] == 24 * 24
    assert result.cost["seconds"] >= 0
    assert set(result.cost) <= {"probe", "teacher", "grids", "tuning", "validation", "seconds"}


def test_the_teachers_error_is_reported() -> None:
    result = tune(teacher=None)
    assert 0 < result.teacher["rmse_to_twice_the_steps"] < 0.01
    assert result.schedule.tuned["teacher"] == result.teacher
    assert "rmse_to_twice_the_steps" not in tune().teacher  # a given teacher is taken at its word


# -------------------------------------------------------------------------------------------------- points and conditions


def test_given_points_are_split_without_overlap_and_conditions_with_them() -> None:
    seen: dict[str, set[int]] = {"tuning": set(), "validation": set()}
    network = mixture(NOISE)
    tags = torch.arange(24)

    def tagged(x: Tensor, tau: Tensor, tag: Tensor, shared: float) -> Tensor:
        assert shared == 0.5
        assert len(tag) == len(x)
        where.update(tag.tolist())
        return network(x, tau)

    where = seen["tuning"]

    def teach(x_T: Tensor) -> Tensor:
        return x_T * 0.3

    denoiser = ttune.Denoiser(tagged, NOISE)
    tune(denoiser, teacher=teach, conditions={"tag": tags, "shared": 0.5}, fallback=False, iterations=1)
    assert where == set(range(24))
    # The tuning itself sees the first three quarters only.
    where.clear()

    def stop(*_: object) -> None:
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["ttune.tuning.tune"], "decide", stop)  # the package has the function under this name
        with pytest.raises(InterruptedError):
            tune(denoiser, teacher=teach, conditions={"tag": tags, "shared": 0.5}, iterations=1)
    assert where == set(range(18))


def test_drawn_points_are_disjoint_and_reproducible() -> None:
    def points(seed: int) -> Tensor:
        seen: list[Tensor] = []

        def teach(x_T: Tensor) -> Tensor:
            seen.append(x_T)
            return x_T * 0.1

        network = mixture(NOISE)
        denoiser = ttune.Denoiser(lambda x, tau: network(x.double(), tau.double()).to(x.dtype), NOISE)
        tune(denoiser, x_T=None, sample_shape=(2,), samples=10, validation_samples=6, teacher=teach, seed=seed, iterations=1)
        return torch.cat(seen)

    first, again, other = points(0), points(0), points(1)
    assert first.shape == (16, 2)
    assert torch.equal(first, again)
    assert len({tuple(x.tolist()) for x in torch.cat([first, other])}) == 32


def test_conditions_as_a_function_of_the_seeds() -> None:
    network = mixture(NOISE)
    seen: list[Tensor] = []

    def labels(seeds: Tensor) -> dict[str, Tensor]:
        seen.append(seeds)
        return {"label": seeds % 10}

    denoiser = ttune.Denoiser(lambda x, tau, label: network(x.double(), tau.double()).to(x.dtype) + 0.01 * label[:, None], NOISE)
    tune(denoiser, x_T=None, sample_shape=(2,), samples=8, validation_samples=4, conditions=labels, iterations=1)
    assert [len(s) for s in seen] == [8, 4]
    assert not set(seen[0].tolist()) & set(seen[1].tolist())


# ------------------------------------------------------------------------------------------------------ black boxes, errors


def test_a_numpy_function_can_be_tuned() -> None:
    """No torch inside, no gradients: an ONNX session in a function, say."""
    alpha, sigma = NOISE.alpha(np.arange(1000)), NOISE.sigma(np.arange(1000))

    def black_box(x: np.ndarray, tau: np.ndarray) -> np.ndarray:
        a, s = (np.interp(tau, np.arange(1000), c)[:, None] for c in (alpha, sigma))
        return (s * x / (0.36 * a**2 + s**2)).astype(np.float32)

    denoiser = ttune.Denoiser(lambda x, tau: torch.from_numpy(black_box(x.numpy(), tau.numpy())), NOISE)
    result = tune(denoiser, x_T=X_T.float(), iterations=10)
    assert result.improved
    assert result.validation["ratio"] < 0.2
    tune(denoiser, x_T=X_T.float(), method="trajectory")


@pytest.mark.parametrize("at", [162, 185, 212, 239])
def test_nan_stops_the_run_and_says_where(at: int) -> None:
    """Once, in the Jacobian or in a trial: never taken for a step that is merely not better."""
    network = mixture(NOISE)
    calls = 0

    def breaks(x: Tensor, tau: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return network(x, tau) * (math.nan if calls == at else 1)

    with pytest.raises(FloatingPointError, match="the network returned NaN or infinity on the way through ddim, 4 steps"):
        tune(ttune.Denoiser(breaks, NOISE))
    calls = 0
    with pytest.raises(FloatingPointError, match=r"the network returned NaN or infinity at step \d \(t = .*\) of ddim, 4 steps"):
        tune(ttune.Denoiser(breaks, NOISE), method=TimeTuner(iterations=30), data=DATA)


def test_timetuner_needs_gradients_and_says_so() -> None:
    network = mixture(NOISE)
    with pytest.raises(ValueError, match="needs a network that is differentiable in its time; tune this one by 'endpoint'"):
        tune(ttune.Denoiser(lambda x, tau: network(x.detach(), tau.detach()), NOISE), **METHODS["timetuner"])
    with pytest.raises(FloatingPointError, match="the teacher, or the network on its way, returned NaN or infinity"):
        tune(teacher=lambda x_T: x_T / 0)


@pytest.mark.parametrize("name", METHODS)
def test_a_network_of_nan_is_not_tuned(name: str) -> None:
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        tune(ttune.Denoiser(lambda x, tau: x * math.nan, NOISE), **METHODS[name])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "magic"}, ValueError, "method must be one of .*'magic'"),
        ({"tune": ("everything",)}, ValueError, "tune must be one of"),
        ({"tune": ()}, ValueError, "tune must be one of"),
        ({"iterations": 0}, ValueError, "iterations must be at least 1, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"validation_samples": 1}, ValueError, "validation_samples must be at least 2, got 1"),
        ({"x_T": X_T[:7]}, ValueError, "x_T must hold at least 8 samples, .*got 7"),
        ({"x_T": X_T * math.nan}, ValueError, "x_T must be finite"),
        ({"x_T": None}, ValueError, "x_T or sample_shape must be given"),
        ({"method": "timetuner"}, ValueError, "data must be given for method 'timetuner'"),
        ({"method": "timetuner", "data": torch.arange(4)}, ValueError, "data must be floating-point images"),
        ({"conditions": lambda seeds: {}}, TypeError, "conditions must be a mapping .*when x_T is given"),
        ({"teacher": 3}, TypeError, "teacher must be a Schedule or a callable .*got int"),
        ({"teacher": lambda x: x[:1]}, ValueError, r"teacher must return the shape of x_T, \(8, 2\), got \(1, 2\)"),
        ({"start": Schedule.build(NOISE, "ddim", 4, eta=0.5)}, ValueError, "tuning needs a deterministic sampler, got 'ddim' with eta=0.5"),
        ({"start": Schedule.build(NOISE, "ddpm", 4)}, ValueError, "tuning needs a deterministic sampler, got 'ddpm'"),
        ({"start": Schedule.build(NoiseSchedule.cosine(), "ddim", 4)}, ValueError, "noise schedule is not the denoiser's"),
        ({"denoiser": ttune.Denoiser(mixture(NOISE), NOISE, integer_time=True)}, ValueError, "integer_time=True"),
        (
            {"denoiser": ttune.Denoiser(lambda x, t: x[:, :1], NOISE)},
            ValueError,
            r"network must return the shape of x, \(8, 2\), got \(8, 1\)",
        ),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tune(**options)


def test_a_multistep_schedule_of_one_step() -> None:
    for sampler in ("ddim", "dpmpp_2m"):
        result = tune(
            Gaussian(NOISE).denoiser(), Schedule.build(NOISE, sampler, 1, "linspace"), teacher=Gaussian(NOISE).flow(), iterations=20
        )
        assert result.validation["rmse"] < 1e-5


def test_a_model_of_few_training_steps() -> None:
    """The default teacher may have more steps than the model was trained on."""
    noise = NoiseSchedule.linear(40, 2e-3, 0.4)
    result = tune(mixture(noise).denoiser(), Schedule.build(noise, "ddim", 4, "linspace"), teacher=None, iterations=2)
    assert result.teacher["steps"] == 128


def test_a_user_teacher_that_knows_only_the_end_cannot_follow_a_trajectory() -> None:
    with pytest.raises(TypeError):
        tune(teacher=lambda x_T: x_T * 0.1, method="trajectory")


def test_the_keywords_are_the_fields_of_its_arguments() -> None:
    """As ``help``, editors and the command line show them: one name, default and description for each."""
    keywords = list(inspect.signature(ttune.tune).parameters.values())[2:]
    assert [(k.name, k.default) for k in keywords] == [(f.name, f.default) for f in dataclasses.fields(TuneArguments)]
    assert all(f"\n    {k.name}: " in str(ttune.tune.__doc__) for k in keywords)
    with pytest.raises(TypeError, match=r"^tune\(\) got an unexpected keyword argument 'sampels'; did you mean 'samples'\?"):
        tune(sampels=8)


def test_another_function_is_no_resume(tmp_path: Path) -> None:
    """Functions have no weights to compare: their output is looked at, and rounding is no other function."""
    options: dict[str, Any] = {"x_T": standard_normal((24, 2)), "method": "trajectory", "progress": False, "checkpoint": tmp_path / "c"}
    options["teacher"] = Schedule.build(NOISE, "dpmpp_2m", 16, "log_snr")
    start = Schedule.build(NOISE, "ddim", 3, "quadratic")

    def run(scale: float, resume: bool) -> ttune.TuneResult:
        network = mixture(NOISE).denoiser().network
        return ttune.tune(ttune.Denoiser(lambda x, tau: scale * network(x, tau), NOISE), start, resume=resume, **options)

    first = run(1.0, resume=False)
    with pytest.raises(ValueError, match="resume: the network is another function than that of the checkpoint"):
        run(0.98, resume=True)
    assert run(1.0 + 1e-6, resume=True).schedule.settings() == first.schedule.settings()
