"""The probe of a network's time table, and the search in whole numbers for those that need it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ttune
from tests.oracles import mixture, standard_normal
from ttune import ClassifierFree, NoiseSchedule, Schedule, zoo
from ttune.tuning import Teacher
from ttune.tuning.integer_times.coordinate_descent import between_rows, moved, rounded
from ttune.tuning.integer_times.probe import SAMPLES, SHARES, STEPS, probe_time_table
from ttune.zoo.unet import sinusoidal_embedding

NOISE = NoiseSchedule.linear()
START = Schedule.build(NOISE, "ddim", 4, "linspace")
X_T = standard_normal((24, 2))
Network = Callable[..., Tensor]


def odd_rows_off(x: Tensor, tau: Tensor, off: float = 25.0) -> Tensor:
    """The exact network, whose rows t and t + 1 are interpolated, every odd row being that of a time ``off`` rows away."""
    exact = mixture(NOISE)

    def row(t: Tensor) -> Tensor:
        return exact(x, (t + off * (t % 2)).clamp(max=999))

    below = tau.floor()
    return torch.lerp(row(below), row((below + 1).clamp(max=999)), (tau - below)[:, None])


def passed_as(cut: Callable[[Tensor], Tensor]) -> Network:
    exact = mixture(NOISE)
    return lambda x, tau: exact(x, cut(tau).to(x.dtype))


def bfloat16(x: Tensor, tau: Tensor) -> Tensor:
    return mixture(NOISE)(x, tau).bfloat16().to(x.dtype)


NETWORKS: dict[str, tuple[Network, str]] = {
    "smooth": (mixture(NOISE), "smooth"),
    "computes in bfloat16": (bfloat16, "smooth"),
    "says nothing of time": (lambda x, tau: 0.3 * x, "smooth"),
    "odd rows off the curve": (odd_rows_off, "rough"),
    "int(t)": (passed_as(torch.floor), "whole"),
    "round(t)": (passed_as(torch.round), "whole"),
    "time in bfloat16": (passed_as(lambda tau: tau.bfloat16()), "whole"),
}


def x_T_of(denoiser: ttune.Denoiser, shape: tuple[int, ...]) -> Tensor:
    return ttune.initial_noise(denoiser.noise, shape, range(SAMPLES))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_probe_tells_them_apart(name: str) -> None:
    network, kind = NETWORKS[name]
    denoiser = ttune.Denoiser(network, NOISE)
    table = probe_time_table(denoiser, X_T, {})
    assert table is not None
    assert (table.kind, table.smooth) == (kind, kind == "smooth")
    assert denoiser.evaluations == SAMPLES * (STEPS + 7 * len(SHARES))
    assert str(table)


@pytest.mark.parametrize("steps", [40, 100, 250, 4000])
def test_smooth_whatever_the_number_of_trained_times(steps: int) -> None:
    noise = NoiseSchedule.linear(steps, 0.1 / steps, min(20 / steps, 0.4))
    table = probe_time_table(mixture(noise).denoiser(), X_T, {})
    assert table is not None
    assert table.smooth, table


def test_where_there_is_nothing_to_probe() -> None:
    for noise in (NoiseSchedule.flow(), NoiseSchedule.edm(), NoiseSchedule.continuous_vp(), NoiseSchedule.linear(20, 0.01, 0.4)):
        denoiser = ttune.Denoiser(lambda x, tau: 0.1 * x, noise)
        assert probe_time_table(denoiser, X_T, {}) is None
        assert denoiser.evaluations == 0
    table = probe_time_table(ttune.Denoiser(lambda x, tau: 0.1 * x, NOISE, integer_time=True), X_T, {})
    assert table is not None
    assert table.kind == "whole"


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_every_prediction_type_and_guidance(prediction_type: str) -> None:
    from tests.oracles import Gaussian

    exact = Gaussian(NOISE, 0.6, prediction_type)
    for network, kind in ((exact, "smooth"), (lambda x, tau: exact(x, tau.floor()), "whole")):

        def conditional(x: Tensor, tau: Tensor, label: Tensor, network: Network = network) -> Tensor:
            assert len(label) == len(x)
            return network(x, tau)

        denoiser = ttune.Denoiser(conditional, NOISE, prediction_type, ClassifierFree(2.0, {"label": 0}))
        table = probe_time_table(denoiser, X_T, {"label": torch.arange(24)})
        assert table is not None
        assert table.kind == kind


def bundled(odd: float | None) -> ttune.Denoiser:
    """The bundled model; with its time embedding as a table of which the odd rows have noise of ``odd`` of the table's spread."""
    denoiser = zoo.load("fashion")
    network = denoiser.network
    assert isinstance(network, zoo.UNet)
    if odd is None:
        return denoiser
    with torch.no_grad():
        table = network.time_mlp(sinusoidal_embedding(torch.arange(1000.0), network.c_time))
    off = torch.randn(table.shape, generator=torch.Generator().manual_seed(0)) * table.std() * odd
    off[::2] = 0
    rows = nn.Embedding.from_pretrained(table + off)
    embed = _PassedRows(rows)
    network.time_mlp = nn.Sequential(embed)

    def remembering(x: Tensor, tau: Tensor, **conditions: Any) -> Tensor:
        embed.tau = tau
        return network(x, tau, **conditions)

    denoiser.network = remembering
    return denoiser


class _PassedRows(nn.Module):
    def __init__(self, rows: nn.Embedding) -> None:
        super().__init__()
        self.rows, self.tau = rows, torch.zeros(0)

    def forward(self, _sinusoid: Tensor) -> Tensor:
        return ttune.ops.embedding_lookup(self.rows.weight, self.tau)


@pytest.mark.parametrize(("odd", "smooth"), [(None, True), (0.0, True), (0.1, False), (0.3, False)])
def test_the_bundled_model_is_smooth_and_with_bad_rows_it_is_not(odd: float | None, smooth: bool) -> None:
    denoiser = bundled(odd)
    table = probe_time_table(denoiser, x_T_of(denoiser, (1, 28, 28)), {"class_label": torch.arange(SAMPLES)})
    assert table is not None
    assert table.smooth == smooth, table
    if odd is None:
        assert table.row < 0.002  # far below the threshold of .01


# ------------------------------------------------------------------------------------------------------- whole numbers


def test_between_rows_interpolates_and_counts_two_calls() -> None:
    cut = ttune.Denoiser(passed_as(torch.floor), NOISE, integer_time=True)
    relaxed = between_rows(cut)
    x, t = X_T[:6], torch.tensor([3.0, 3.25, 500.5, 999.0, 0.0, 998.75], dtype=torch.float64)
    exact = mixture(NOISE)
    below, above = exact(x, t.floor()), exact(x, t.ceil())
    (output,) = relaxed.outputs(x, t)
    torch.testing.assert_close(output, torch.lerp(below, above, (t % 1)[:, None]))
    assert relaxed.evaluations == 12
    relaxed.outputs(x, 7.0)
    assert relaxed.evaluations == 18  # one call where nothing lies between
    assert cut.evaluations == 0
    leaf = t.clone().requires_grad_()
    (output,) = relaxed.outputs(x, leaf)
    assert torch.autograd.grad(output.sum(), leaf)[0].abs().sum() > 0


def test_moves_stay_in_range_and_take_the_network_time_along() -> None:
    start = Schedule.build(NOISE, "ddim", 3, "leading")  # 666, 333, 0, clean
    start = start.replace(network_times=start.network_times + np.array([10.0, 0, 3]))
    up = moved(start, "times", 1, 8)
    assert up is not None
    assert up.times.tolist() == [666, 341, 0, -1]
    assert up.network_times.tolist() == [676, 341, 3]
    shifted = moved(start, "network_times", 0, -4)
    assert shifted is not None
    assert shifted.network_times.tolist() == [672, 333, 3]
    assert moved(start, "times", 2, -2) is None  # onto or beyond the clean end
    assert moved(start, "network_times", 2, -4) is None
    assert moved(start, "times", 0, 400) is None
    apart, together = (
        rounded(start.replace(times=start.times + np.array([0.3, 0, 0, 0])), free=True),
        rounded(start, free=False),
    )
    assert apart is not None
    assert apart.times[0] == 666.3
    assert together is not None
    assert together.network_times.tolist() == start.network_times.tolist()
    crowded = Schedule(NOISE, "ddim", np.array([10.2, 9.9, 0.0]))
    assert rounded(crowded, free=False) is None


def tune(denoiser: ttune.Denoiser, **options: Any) -> ttune.TuneResult:
    settings: dict[str, Any] = {
        "x_T": X_T,
        "teacher": Schedule.build(NOISE, "dpmpp_2m", 20, "leading"),
        "progress": False,
        "batch_size": 8,
        "search_starts": False,
        "iterations": 6,
    }
    start = options.pop("start", Schedule.build(NOISE, "ddim", 4, "leading"))
    return ttune.tune(denoiser, start, **(settings | options))


@pytest.mark.parametrize("name", ["odd rows off the curve", "int(t)"])
@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("method", ["endpoint", "trajectory"])
def test_such_networks_are_tuned_in_whole_numbers(name: str, declared: bool, method: str) -> None:
    seen = 0
    network = NETWORKS[name][0]

    def whole_only(x: Tensor, tau: Tensor) -> Tensor:
        nonlocal seen
        seen += len(x)
        assert not declared or (tau % 1 == 0).all(), "passed a time between two rows"
        return network(x, tau)

    denoiser = ttune.Denoiser(whole_only, NOISE, integer_time=declared)
    result = tune(denoiser, method=method)
    assert result.time_table is not None
    assert result.time_table["kind"] == ("whole" if declared else NETWORKS[name][1])
    assert result.improved
    assert (result.schedule.network_times % 1 == 0).all()
    assert result.schedule.tuned["time_table"] == result.time_table
    assert "time table: " in result.summary()
    assert result.cost["whole times"] > 0
    assert ("probe" in result.cost) != declared
    assert sum(v for k, v in result.cost.items() if k != "seconds") == seen
    history = result.history["whole times"]
    assert all(b <= a for a, b in pairwise(history))
    images = ttune.sample(denoiser, result.schedule, X_T)  # refuses fractional times where integer_time is declared
    assert torch.isfinite(images).all()


def test_whole_numbers_are_better_than_rounding_the_continuous_solution() -> None:
    """On rows of which every second is off the curve, where rounding lands by chance."""
    result = tune(ttune.Denoiser(odd_rows_off, NOISE), iterations=10)
    history = result.history["whole times"]
    assert history[-1] < 0.9 * history[0]
    even = np.mod(result.schedule.network_times, 2) == 0
    assert even.mean() >= 0.5


def test_the_default_teacher_is_on_whole_times_then() -> None:
    passed: list[Tensor] = []
    exact = mixture(NOISE)

    def network(x: Tensor, tau: Tensor) -> Tensor:
        passed.append(tau)
        return exact(x, tau)

    result = tune(ttune.Denoiser(network, NOISE, integer_time=True), teacher=None, iterations=1)
    assert (torch.cat(passed) % 1 == 0).all()
    assert 0 < result.teacher["rmse_to_twice_the_steps"] < 0.02


def test_budgets_share_a_teacher_on_whole_times() -> None:
    denoiser = ttune.Denoiser(passed_as(torch.floor), NOISE, integer_time=True)
    schedules = [Schedule.build(NOISE, "ddim", steps, "leading") for steps in (2, 3)]
    results = ttune.tune_budgets(denoiser, schedules, x_T=X_T[:8], iterations=1, search_starts=False, progress=False)
    assert results[2].teacher == results[3].teacher
    assert "teacher" not in {k for k, v in results[3].cost.items() if v > 8 * 256}  # only the check against twice the steps
    teacher = Teacher(Schedule.build(NOISE, "dpmpp_2m", 128, "log_snr"), remember=True)
    assert teacher.on_whole_times() is teacher.on_whole_times()
    assert isinstance(teacher.on_whole_times().source, Schedule)
    tuned = Teacher(START.replace(network_times=START.network_times * 0.99))
    assert tuned.on_whole_times() is tuned


def test_an_interrupted_search_in_whole_numbers_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    calls, limit = 0, 10**9

    def network(x: Tensor, tau: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls >= limit:
            raise KeyboardInterrupt
        return odd_rows_off(x, tau)

    short: dict[str, Any] = {"x_T": X_T[:8], "start": Schedule.build(NOISE, "ddim", 2, "leading"), "iterations": 2}
    whole = tune(ttune.Denoiser(network, NOISE), **short)
    total = calls
    for k, share in enumerate((0.01, 0.6, 0.9)):
        calls, limit = 0, int(share * total)
        with pytest.raises(KeyboardInterrupt):
            tune(ttune.Denoiser(network, NOISE), **short, checkpoint=tmp_path / str(k))
        calls, limit = 0, 10**9
        again = tune(ttune.Denoiser(network, NOISE), **short, checkpoint=tmp_path / str(k), resume=True)
        assert again.schedule == whole.schedule
        assert again.history == whole.history
        assert {k: v for k, v in again.cost.items() if k != "seconds"} == {k: v for k, v in whole.cost.items() if k != "seconds"}


def test_methods_that_make_whole_times_themselves_are_left_alone() -> None:
    result = tune(ttune.Denoiser(passed_as(torch.floor), NOISE, integer_time=True), method="optimal_steps", fallback=False)
    assert "whole times" not in result.cost
    assert (result.schedule.network_times % 1 == 0).all()


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpm_solver_2", "unipc"])
def test_other_samplers_in_whole_numbers(sampler: str) -> None:
    start = Schedule.build(NOISE, sampler, 4, "leading").with_integer_times()
    result = tune(ttune.Denoiser(passed_as(torch.floor), NOISE, integer_time=True), start=start, iterations=3)
    assert result.validation["rmse"] <= result.validation["rmse_start"]
    assert (result.schedule.network_times % 1 == 0).all()
