"""What the user's network raises says how ttune called it, and what to do; names that are misspelt say what was meant."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ttune
from tests.oracles import mixture, standard_normal
from ttune import ClassifierFree, Denoiser, NoiseSchedule, Schedule, zoo
from ttune.cli.main import main

NOISE = NoiseSchedule.linear()
SCHEDULE = Schedule.build(NOISE, "ddim", 2)
CONV = nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False)


def plain(x: Tensor, tau: Tensor) -> Tensor:
    return CONV(x)


def labelled(x: Tensor, tau: Tensor, y: Tensor) -> Tensor:
    return CONV(x) + y.float()[:, None, None, None]


def of_whole_times(x: Tensor, tau: Tensor) -> Tensor:
    return CONV(x) + nn.functional.embedding(tau, torch.zeros(1000, 3))[:, :, None, None]


def halving(x: Tensor, tau: Tensor) -> Tensor:
    small = nn.functional.avg_pool2d(x, 2)
    return torch.cat([x, nn.functional.interpolate(small, scale_factor=2.0)], 1)[:, :3]


META = nn.Linear(8, 8, device="meta").requires_grad_(False)
HALF = nn.Conv2d(3, 3, 3, padding=1).half().requires_grad_(False)
X = torch.zeros(2, 3, 8, 8)
MISTAKES: dict[str, tuple[Callable[..., Any], Tensor, dict[str, Any], str]] = {
    "channels": (plain, torch.zeros(2, 4, 8, 8), {}, "takes 3 channels and was given 4"),
    "batch in sample_shape": (plain, torch.zeros(2, 2, 3, 8, 8), {}, "sample_shape is without the batch"),
    "no batch": (plain, torch.zeros(8, 8), {}, "with the batch first"),
    "odd size": (halving, torch.zeros(2, 3, 9, 9), {}, "divisible by 2"),
    "half": (lambda x, tau: HALF(x), X, {}, r"x_T in the network's dtype"),
    "whole times": (of_whole_times, X, {}, "tau.long.*integer_time=True"),
    "missing": (labelled, X, {}, r"needs y: give conditions={'y': ...}"),
    "misspelt": (labelled, X, {"y": torch.zeros(2), "yy": torch.zeros(2)}, r"no argument 'yy', it has \['y'\].*did you mean 'y'"),
    "other device": (lambda x, tau: META(x), X, {}, "the network is on meta and x on cpu"),
    "a large label": (lambda x, tau: torch.zeros(3)[torch.tensor([7])], X, {}, "beyond the network's table"),
}


def note_of(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error))


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_the_ten_commonest_mistakes_get_a_hint(mistake: tuple[Callable[..., Any], Tensor, dict[str, Any], str]) -> None:
    network, x_T, conditions, hint = mistake
    with pytest.raises(Exception) as caught:  # noqa: PT011
        ttune.sample(Denoiser(network, NOISE), SCHEDULE, x_T, conditions=conditions)
    note = note_of(caught.value)
    assert f"ttune called network(x {tuple(x_T.shape)} float32 cpu, tau ({len(x_T)},) float32 cpu; conditions: " in note
    assert "at evaluation 0 (t = 500)" in note
    assert re.search(f"Hint: .*{hint}", note), note
    assert note.count("ttune called") == 1


def test_the_evaluation_and_the_conditions_are_named() -> None:
    def fails_late(x: Tensor, tau: Tensor, y: Tensor) -> Tensor:
        if float(tau[0]) < 400:
            raise RuntimeError("own words")
        return x

    denoiser = Denoiser(fails_late, NOISE, guidance=ClassifierFree(2.0, {"y": 0}), sample_shape=(3,))
    condition = {"y": torch.ones(2, dtype=torch.long)}
    calls: dict[str, Callable[[], Any]] = {
        "sample": lambda: ttune.sample(denoiser, SCHEDULE, torch.zeros(2, 3), conditions=condition),
        "CompiledSampler": lambda: ttune.CompiledSampler(denoiser, SCHEDULE, compile=False)(torch.zeros(2, 3), conditions=condition),
        "tune": lambda: ttune.tune(
            denoiser,
            SCHEDULE,
            samples=4,
            validation_samples=4,
            conditions=lambda seeds: {"y": torch.ones(len(seeds), dtype=torch.long)},
            progress=False,
        ),
    }
    for name, call in calls.items():
        with pytest.raises(RuntimeError, match="own words") as caught:
            call()
        assert "y: (" in note_of(caught.value), name
        assert ("at evaluation 1 (t = 0)" in note_of(caught.value)) == (name != "tune")


def test_what_a_network_returns_is_explained() -> None:
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(TypeError, match=r"got tuple; .*as lambda x, tau, \*\*conditions: network\(x, tau, \*\*conditions\)\[0\]"):
        ttune.sample(Denoiser(lambda x, tau: (x,), NOISE), SCHEDULE, x)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match=r"must return the shape of x.*learned_variance=True"):
        ttune.sample(Denoiser(lambda x, tau: torch.cat([x, x], 1), NOISE), SCHEDULE, x)
    with pytest.raises(ValueError, match="must return a tensor on the device of x, cpu, got meta"):
        ttune.sample(Denoiser(lambda x, tau: x.to("meta"), NOISE), SCHEDULE, x)


def test_misspelt_names_say_what_was_meant(tmp_path: Path) -> None:
    for call, meant in (
        (lambda: Schedule.build(NOISE, "dpmpp2m", 3), "dpmpp_2m"),
        (lambda: Schedule.build(NOISE, "ddim", 3, "lispace"), "linspace"),
        (lambda: Denoiser(plain, NOISE, "epsilons"), "epsilon"),
        (lambda: ttune.tune(Denoiser(plain, NOISE), SCHEDULE, method="endpiont", sample_shape=(3, 8, 8)), "endpoint"),
        (lambda: ttune.tune(Denoiser(plain, NOISE), SCHEDULE, tune="time", sample_shape=(3, 8, 8)), "times"),
        (lambda: ttune.use_backend("cpuu").__enter__(), "cpu"),
        (lambda: ttune.zoo.load("fashon"), "fashion"),
    ):
        with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
            call()
    SCHEDULE.save(tmp_path / "ttune.json")
    with pytest.raises(
        FileNotFoundError, match=rf"tune.json: a schedule file was not found \(looked in {tmp_path}\); did you mean 'ttune.json'"
    ):
        Schedule.load(tmp_path / "tune.json")


def test_common_names_of_prediction_types() -> None:
    for alias, name in (("eps", "epsilon"), ("v", "v_prediction"), ("x0", "sample"), ("flow", "flow_prediction")):
        assert Denoiser(plain, NOISE, alias).prediction_type == name


def test_one_name_to_tune_and_a_path_as_schedule(tmp_path: Path) -> None:
    x_T, file = standard_normal((16, 2)), tmp_path / "start.json"
    denoiser = mixture(NOISE).denoiser()
    Schedule.build(NOISE, "ddim", 3).save(file)
    for path in (file, str(file)):
        expected = ttune.sample(denoiser, Schedule.load(file), x_T)
        torch.testing.assert_close(ttune.sample(denoiser, path, x_T), expected)
        torch.testing.assert_close(ttune.CompiledSampler(denoiser, path, compile=False)(x_T), expected)
    result = ttune.tune(denoiser, file, tune="times", x_T=x_T, iterations=1, search_starts=False, progress=False, fallback=False)
    assert result.schedule.tuned["tune"] == ["times"]
    with pytest.raises(TypeError, match=r"schedule must be a ttune\.Schedule or the path"):
        ttune.sample(denoiser, 3, x_T)  # type: ignore[arg-type]


class Mlp(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2).to(dtype).requires_grad_(False)
        self.seen: set[torch.dtype] = set()

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        self.seen.add(x.dtype)
        return self.layer(x) * 0.01 + x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("around", [lambda net: net, lambda net: lambda x, tau: net(x, tau)], ids=["module", "function"])
def test_a_network_of_another_precision_is_tuned_in_its_own(dtype: torch.dtype, around: Callable[[nn.Module], Any]) -> None:
    net = Mlp(dtype)
    denoiser = Denoiser(around(net), NOISE, sample_shape=(2,))
    schedule = Schedule.build(NOISE, "ddim", 3)
    result = ttune.tune(
        denoiser,
        schedule,
        samples=8,
        validation_samples=8,
        iterations=1,
        search_starts=False,
        teacher=Schedule.build(NOISE, "ddim", 8),
        progress=False,
    )
    assert result.summary()
    assert ttune.tuning.starting_points.drawn_points(denoiser, torch.arange(3))[0].dtype == dtype


def test_a_half_network_that_converts_itself_keeps_states_of_float32() -> None:
    net = nn.Linear(2, 2).half().requires_grad_(False)
    denoiser = Denoiser(lambda x, tau: net(x.half()).float(), NOISE, sample_shape=(2,))
    assert ttune.tuning.starting_points.drawn_points(denoiser, torch.arange(3))[0].dtype == torch.float32


def test_samples_that_are_not_finite_warn_of_the_evaluation() -> None:
    denoiser = Denoiser(lambda x, tau: x / (tau[0] > 100), NOISE)
    with pytest.warns(UserWarning, match=r"x_0 is not finite: at evaluation 2 of 0 to 3 .*network's output is not finite"):
        x_0 = ttune.sample(denoiser, Schedule.build(NOISE, "ddim", 4, [900.0, 500.0, 50.0, 20.0, -1.0]), torch.ones(2, 3))
    assert not torch.isfinite(x_0).all()
    assert denoiser.evaluations == 8


def test_one_step_of_leading_warns() -> None:
    with pytest.warns(UserWarning, match="'leading' with 1 step starts at t = 0.*trailing"):
        Schedule.build(NOISE, "ddim", 1)


def ttune_fails(*words: str) -> str:
    """What the command line ends with."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        main(list(words))
    return f"{err.getvalue()}{end.value.code}"


def test_the_command_line_says_what_was_meant(tmp_path: Path) -> None:
    out = str(tmp_path / "x.png")
    assert "--sampler dpmpp2m; did you mean 'dpmpp_2m'?" in ttune_fails("sample", "--out", out, "--sampler", "dpmpp2m")
    assert "command smaple; did you mean 'sample'?" in ttune_fails("smaple", "--out", out)
    assert "got 'fashio'; did you mean 'fashion'?" in ttune_fails("sample", "--out", out, "--model", "fashio")


def of_another_name() -> Denoiser:
    return dataclasses.replace(zoo.load("fashion"), name="other")


def test_no_check_model_on_the_command_line(tmp_path: Path) -> None:
    """Refused before anything is sampled; with the flag it goes on."""
    file, out = tmp_path / "ttune.json", tmp_path / "x.npz"
    fashion = zoo.load("fashion")
    dataclasses.replace(Schedule.build(fashion.noise, "ddim", 1, "trailing"), model=fashion.identity()).save(file)
    model = f"{__name__}:of_another_name"
    for command in (["sample", "--schedule", str(file), "--out", str(out), "--samples", "1"], ["evaluate", str(file), "--samples", "2"]):
        message = ttune_fails(*command, "--model", model)
        assert "name is 'other', the schedule was tuned for 'fashion'. Pass --model" in message
        assert "--no-check-model" in message
    main(["sample", "--schedule", str(file), "--out", str(out), "--samples", "1", "--model", model, "--no-check-model"])
    assert out.exists()
