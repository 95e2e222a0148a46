"""Shifted time steps: the network is passed the time of each sample's own variance. float64, exact levels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ttune
import ttune.numpy
from tests.oracles import Gaussian, mixture
from ttune import NoiseSchedule, Schedule, Shift
from ttune.sampling.per_sample_time import Shifting
from ttune.sampling.plan import Plan

NOISE = NoiseSchedule.linear()
POSITIONS = np.array([999.0, 700.0, 400.0, 150.0, -1.0])
SHIFT = Shift(window=60.0, cutoff=200.0, data_variance=0.25)


def schedule(noise: NoiseSchedule = NOISE, shift: Shift | None = SHIFT, sampler: str = "ddim", **options: Any) -> Schedule:
    times = POSITIONS if noise == NOISE else np.append(POSITIONS[:-1] / 999 * noise.t_max, noise.t_clean)
    return Schedule(noise, sampler, times, shift=shift, **options)


def of_variance(*variances: float, n: int = 50) -> Tensor:
    """(B, n) with exactly these variances over the elements, and means that are to be ignored."""
    x = torch.randn(len(variances), n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
    return x * torch.tensor(variances, dtype=torch.float64).sqrt()[:, None] + torch.arange(len(variances))[:, None]


def level(noise: NoiseSchedule, t: float, data_variance: float) -> float:
    return float(noise.alpha(t) ** 2 * data_variance + noise.sigma(t) ** 2)


def passed(shifted: Schedule, i: int, x: Tensor, **options: Any) -> list[float]:
    shifting = Shifting.make(shifted, "cpu", **options)
    assert shifting is not None
    return shifting(i, x).tolist()


@pytest.mark.parametrize("data_variance", [0.0, 0.25, 2.0])
def test_the_network_is_passed_the_time_that_its_variance_belongs_to(data_variance: float) -> None:
    shifted = schedule(shift=Shift(60.0, 200.0, data_variance))
    wanted = [671.0, 700.0, 700.4, 729.9]
    x = of_variance(*(level(NOISE, t, data_variance) for t in wanted))
    np.testing.assert_allclose(passed(shifted, 1, x), wanted, atol=0.01)


def test_where_the_variance_is_right_nothing_changes_exactly() -> None:
    """Bit for bit, but for the rounding of the state's own variance."""
    x = of_variance(level(NOISE, 400.0, 0.25))
    assert passed(schedule(), 2, x)[0] == pytest.approx(400.0, abs=1e-9)


def test_beyond_the_window_its_ends_are_passed() -> None:
    x = of_variance(1e-6, 50.0)
    assert passed(schedule(), 1, x) == [670.0, 730.0]
    assert passed(schedule(shift=Shift(1000.0, 10.0, 0.25)), 1, x) == [200.0, 999.0]  # the trained range ends there


def test_the_first_and_those_below_the_cutoff_get_the_schedule() -> None:
    x = of_variance(0.1, 3.0)
    assert passed(schedule(), 0, x) == [999.0, 999.0]
    assert passed(schedule(), 3, x) == [150.0, 150.0]
    assert passed(schedule().part(1), 0, x) == passed(schedule(), 1, x)  # a part's first evaluation is not the first


def test_a_tuned_network_times_is_shifted_by_as_much() -> None:
    tuned = schedule().replace(network_times=[990.0, 720.0, 390.0, 100.0])
    x = of_variance(level(NOISE, 690.0, 0.25), 50.0)
    np.testing.assert_allclose(passed(tuned, 1, x), [710.0, 750.0], atol=0.01)


def test_whole_times_where_the_network_knows_no_others() -> None:
    x = of_variance(level(NOISE, 690.3, 0.25))
    assert passed(schedule(), 1, x, whole=True) == [690.0]


@pytest.mark.parametrize("noise", [NoiseSchedule.edm(), NoiseSchedule.ve(), NoiseSchedule.continuous_vp(), NoiseSchedule.flow()])
def test_other_noise_schedules(noise: NoiseSchedule) -> None:
    v = 0.0 if noise == NoiseSchedule.flow() else 0.25
    shifted = schedule(noise, Shift(0.1 * noise.t_max, 0.2 * noise.t_max, v))
    t = float(shifted.times[1])
    x = of_variance(*(level(noise, s, v) for s in (0.98 * t, t, 1.03 * t)))
    np.testing.assert_allclose(passed(shifted, 1, x), [0.98 * t, t, 1.03 * t], rtol=1e-3)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "heun"])
def test_the_loop_tells_every_sample_its_own_time(sampler: str) -> None:
    """Against the same loop, with network times computed by hand from the states that it went through."""
    network, shifted = mixture(NOISE), schedule(sampler=sampler)
    x_T = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    seen: list[Tensor] = []

    def recording(x: Tensor, tau: Tensor) -> Tensor:
        seen.append(tau)
        return network(x, tau)

    x_0 = ttune.sample(ttune.Denoiser(recording, NOISE), shifted, x_T)
    x, network_times = {"x": x_T}, []
    denoiser = network.denoiser()
    plan = Plan.make(denoiser, shifted.replace(shift=None))
    for i, t in enumerate(shifted.tableau().times):
        v = x["x"].var(1)
        tau = torch.full((6,), float(t), dtype=torch.float64)
        if i > 0 and t > 200:
            times = np.linspace(t - 30, t + 30, 6001)
            tau = torch.tensor([times[np.abs(NOISE.alpha(times) ** 2 * 0.25 + NOISE.sigma(times) ** 2 - float(w)).argmin()] for w in v])
        network_times.append(tau)
        x = plan.advance(i, x, plan.outputs(denoiser, i, x["x"], {}, tau))
    torch.testing.assert_close(torch.stack(seen), torch.stack(network_times), rtol=0, atol=0.02)
    torch.testing.assert_close(x_0, x["x"], rtol=0, atol=2e-3)
    assert len({round(t, 6) for t in seen[1].tolist()}) > 1
    # An explicit network_times is passed instead.
    plain = ttune.sample(denoiser, shifted.replace(shift=None), x_T)
    torch.testing.assert_close(ttune.sample(denoiser, shifted, x_T, network_times=torch.tensor(shifted.network_times)), plain)


def test_samples_do_not_depend_on_their_batch() -> None:
    denoiser, x_T = mixture(NOISE).denoiser(), torch.randn(8, 2, dtype=torch.float64)
    together = ttune.sample(denoiser, schedule(), x_T)
    torch.testing.assert_close(torch.cat([ttune.sample(denoiser, schedule(), part) for part in x_T.split(3)]), together)


@pytest.mark.parametrize("compile", [False, True])
def test_a_compiled_loop_shifts_too(compile: bool) -> None:
    denoiser, x_T = Gaussian(NOISE, 0.5).denoiser(), torch.randn(4, 8, dtype=torch.float64)
    sampler = ttune.CompiledSampler(denoiser, schedule(), compile=compile)
    torch.testing.assert_close(sampler(x_T), ttune.sample(denoiser, schedule(), x_T))
    assert not torch.allclose(sampler(x_T), ttune.sample(denoiser, schedule(shift=None), x_T), atol=1e-6)


def test_half_precision_states() -> None:
    network = mixture(NOISE)
    denoiser = ttune.Denoiser(lambda x, tau: network(x.double(), tau.double()).to(x.dtype), NOISE)
    x = ttune.sample(denoiser, schedule(), torch.randn(4, 2).bfloat16())
    assert x.dtype == torch.bfloat16
    assert torch.isfinite(x).all()


# ----------------------------------------------------------------------------------------------- what a schedule does with it


def test_equality_settings_and_file(tmp_path: Path) -> None:
    shifted = schedule().replace(tuned={"method": "shifted"}, model={"name": "m"})
    plain = shifted.replace(shift=None)
    assert shifted != plain
    assert shifted == plain.replace(shift=Shift(60, 200, 0.25))
    assert shifted != plain.replace(shift=Shift(61, 200, 0.25))
    assert "shift" not in plain.settings()
    assert shifted.settings()["shift"] == {"window": 60.0, "cutoff": 200.0, "data_variance": 0.25}
    assert plain.tuned == {}  # another schedule than the one that was tuned
    assert "Shift(window=60.0" in str(shifted)
    shifted.save(tmp_path / "s.json")
    assert Schedule.load(tmp_path / "s.json") == shifted
    content = json.loads((tmp_path / "s.json").read_text())
    content["shift"]["window"] = 61.0
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the content was changed after it was written"):
        Schedule.load(tmp_path / "s.json")


def test_a_file_from_before_there_were_shifts_keeps_its_digest(tmp_path: Path) -> None:
    schedule(shift=None).save(tmp_path / "s.json")
    content = json.loads((tmp_path / "s.json").read_text())
    del content["shift"]
    (tmp_path / "s.json").write_text(json.dumps(content))
    assert Schedule.load(tmp_path / "s.json") == schedule(shift=None)


@pytest.mark.parametrize("value", [{"window": 0.0, "cutoff": 1.0}, {"window": 1.0}, {"window": 1.0, "cutoff": 1.0, "extra": 2.0}, {}])
def test_a_file_with_a_wrong_shift_is_refused(value: dict[str, float], tmp_path: Path) -> None:
    schedule().save(tmp_path / "s.json")
    content = json.loads((tmp_path / "s.json").read_text()) | {"shift": value, "digest": ""}
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"s\.json: .*"):
        Schedule.load(tmp_path / "s.json")


def test_new_steps_drop_it_and_a_part_keeps_it() -> None:
    assert schedule().replace(times=POSITIONS[1:]).shift is None
    assert schedule().replace(network_times=[999, 1, 1, 1]).shift == SHIFT
    assert schedule().part(1, 3).shift == SHIFT


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Shift(0.0, 1.0), ValueError, "shift: window must be positive, got 0.0"),
        (lambda: Shift(1.0, float("nan")), ValueError, "shift: cutoff must be a finite number, got nan"),
        (lambda: Shift("1", 1.0), ValueError, "shift: window must be a finite number, got '1'"),
        (lambda: Shift(1.0, 1.0, -0.1), ValueError, "shift: data_variance must not be negative, got -0.1"),
        (lambda: schedule(shift=60.0), TypeError, "shift must be a ttune.Shift or None, got float"),
        (lambda: schedule(shift=Shift(60.0, 200.0, 1.0)), ValueError, "must rise or fall throughout the window"),
        (lambda: schedule(NoiseSchedule.flow(), Shift(0.9, 0.1, 1.0)), ValueError, "a variance there belongs to several times"),
        (lambda: ttune.numpy.Plan.make(schedule()), ValueError, r"schedule must tell all samples the same time here, it has Shift\("),
        (lambda: ttune.freeze_time(torch.nn.Linear(2, 2), schedule()), ValueError, r"must have K fixed network times, it has Shift\("),
        (lambda: ttune.sample(Gaussian(NOISE).denoiser(), schedule(), torch.zeros(3, 1)), ValueError, "at least two elements"),
        (
            lambda: ttune.tune(Gaussian(NOISE).denoiser(), schedule(), x_T=torch.zeros(8, 2), progress=False),
            ValueError,
            r"schedule must pass all samples the same network times, got Shift\(",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_words(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
