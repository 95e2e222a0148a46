from __future__ import annotations

import math
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ttune
from tests.oracles import Gaussian, mixture, outputs_from, standard_normal
from ttune import ClassifierFree, Denoiser, NoiseSchedule, Schedule
from ttune.network.conditions import joined
from ttune.network.denoiser import PREDICTION_TYPES, select
from ttune.tuning.problem import on_device

NOISE = NoiseSchedule.linear()
NOISES = {"linear": NOISE, "continuous_vp": NoiseSchedule.continuous_vp(), "edm": NoiseSchedule.edm(), "flow": NoiseSchedule.flow()}


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_consistent_outputs_give_the_same_x_0(prediction_type: str, noise: NoiseSchedule) -> None:
    x_0, eps = standard_normal((2, 3), 1), standard_normal((2, 3), 2)
    for t in np.linspace(noise.t_min, 0.99 * noise.t_max, 5):
        alpha, sigma = float(noise.alpha(t)), float(noise.sigma(t))
        x = alpha * x_0 + sigma * eps
        output = outputs_from(prediction_type, x_0, eps, alpha, sigma)
        denoiser = Denoiser(lambda x, tau, output=output: output, noise, prediction_type=prediction_type)
        torch.testing.assert_close(denoiser(x, t), x_0, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_consistent_networks_give_the_same_samples(noise: NoiseSchedule) -> None:
    x_T = standard_normal((3, 2)) * float(noise.sigma(noise.t_max))
    for sampler in ("ddim", "dpmpp_2m"):
        schedule = Schedule.build(noise, sampler, 4, "linspace", t_start=0.95 * noise.t_max)
        results = [ttune.sample(Gaussian(noise, 0.6, kind).denoiser(), schedule, x_T) for kind in PREDICTION_TYPES]
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], rtol=1e-8, atol=1e-8)


def test_v_prediction_at_pure_noise() -> None:
    """alpha = 0: x_0 can be read from v and from a flow, not from epsilon or the score."""
    noise = NoiseSchedule.flow()
    x_0, eps = standard_normal((2, 3), 1), standard_normal((2, 3), 2)
    for kind in ("v_prediction", "flow_prediction", "sample"):
        denoiser = Denoiser(lambda x, tau, kind=kind: outputs_from(kind, x_0, eps, 0.0, 1.0), noise, prediction_type=kind)
        torch.testing.assert_close(denoiser(eps, 1.0), x_0)
    for kind in ("epsilon", "score"):
        with pytest.raises(ValueError, match=f"prediction_type '{kind}' says nothing about x_0 where alpha = 0"):
            Denoiser(lambda x, tau: x, noise, prediction_type=kind)(eps, 1.0)


# ---------------------------------------------------------------------------------------------------------- network_times


def test_tau_reaches_only_the_network() -> None:
    seen: list[Tensor] = []
    network = mixture(NOISE)

    def spy(x: Tensor, tau: Tensor) -> Tensor:
        seen.append(tau)
        return network(x, tau)

    x, (t, tau) = standard_normal((3, 2)), (600.0, 123.456789012345)
    D = Denoiser(spy, NOISE)(x, t, tau)
    assert seen[0].tolist() == [tau] * 3  # float64, to the last bit
    eps = network(x, torch.full((3,), tau, dtype=torch.float64))
    torch.testing.assert_close(D, (x - float(NOISE.sigma(t)) * eps) / float(NOISE.alpha(t)), rtol=1e-12, atol=0)
    Denoiser(spy, NOISE)(x, t)
    assert seen[1].tolist() == [t] * 3


def test_a_network_time_per_sample_and_per_frame() -> None:
    seen: list[Tensor] = []

    def spy(x: Tensor, tau: Tensor) -> Tensor:
        seen.append(tau)
        return x

    denoiser = Denoiser(spy, NOISE)
    for tau in (torch.tensor([1.0, 2.0, 3.0]), torch.arange(12.0).reshape(3, 4)):
        denoiser(standard_normal((3, 4)), 500.0, tau)
        assert torch.equal(seen.pop(), tau.double())


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.float16, torch.float32)],
)
def test_the_dtype_of_tau(dtype: torch.dtype, expected: torch.dtype) -> None:
    """Half types cannot hold a time: bfloat16 rounds 731.3 to 732."""
    seen: list[Tensor] = []

    def spy(x: Tensor, tau: Tensor) -> Tensor:
        seen.append(tau)
        return x

    x = torch.ones(2, 3, dtype=dtype)
    assert Denoiser(spy, NOISE)(x, 731.3).dtype == dtype
    assert seen[0].dtype == expected
    assert seen[0][0].item() == pytest.approx(731.3, rel=1e-7)
    out = ttune.sample(Denoiser(spy, NOISE), Schedule.build(NOISE, "dpmpp_2m", 3, "linspace"), x)
    assert out.dtype == dtype


def test_the_state_keeps_its_dtype_whatever_the_network_returns() -> None:
    """Autocast returns bfloat16 for a float32 state."""
    x = torch.ones(2, 3)
    schedule = Schedule.build(NOISE, "dpmpp_2m", 3, "linspace")
    assert ttune.sample(Denoiser(lambda x, tau: 0.5 * x.bfloat16(), NOISE), schedule, x).dtype == torch.float32


def test_tau_may_carry_a_gradient() -> None:
    tau = torch.tensor(300.0, dtype=torch.float64, requires_grad=True)
    mixture(NOISE).denoiser()(standard_normal((2, 2)), 400.0, tau).sum().backward()
    assert tau.grad is not None
    assert tau.grad.abs() > 0


# -------------------------------------------------------------------------------------------------------------- guidance


def labelled(x: Tensor, tau: Tensor, label: Tensor) -> Tensor:
    return torch.tanh(x + label[:, None].to(x.dtype) / 3) * (tau[:, None] / 1000)


def test_guidance_in_one_call_is_guidance_in_two() -> None:
    calls: list[int] = []

    def network(x: Tensor, tau: Tensor, label: Tensor) -> Tensor:
        calls.append(len(x))
        return labelled(x, tau, label)

    x, label, t = standard_normal((4, 3)), torch.tensor([1, 2, 3, 4]), 400.0
    for scale in (0.0, 0.5, 3.0, -1.0):
        guided = Denoiser(network, NOISE, guidance=ClassifierFree(scale, {"label": 0}))
        D = guided(x, t, label=label)
        tau = torch.full((4,), t, dtype=torch.float64)
        eps = scale * labelled(x, tau, label) + (1 - scale) * labelled(x, tau, torch.zeros(4))
        torch.testing.assert_close(D, (x - float(NOISE.sigma(t)) * eps) / float(NOISE.alpha(t)), rtol=1e-10, atol=1e-10)
        assert calls == [8]
        assert guided.evaluations == 8
        calls.clear()
        schedule = Schedule.build(NOISE, "ddim", 3, "linspace")
        plain = Denoiser(lambda x, tau, scale=scale: scale * labelled(x, tau, label) + (1 - scale) * labelled(x, tau, 0 * label), NOISE)
        a = ttune.sample(guided, schedule, x, conditions={"label": label})
        torch.testing.assert_close(a, ttune.sample(plain, schedule, x), rtol=1e-9, atol=1e-9)
        calls.clear()


def test_scale_1_needs_no_second_half() -> None:
    x, label = standard_normal((4, 3)), torch.tensor([1, 2, 3, 4])
    guided = Denoiser(labelled, NOISE, guidance=ClassifierFree(1.0, {"label": 0}))
    assert torch.equal(guided(x, 400.0, label=label), Denoiser(labelled, NOISE)(x, 400.0, label=label))
    assert guided.evaluations == 4


def test_conditions_that_guidance_leaves_alone_go_to_both_halves() -> None:
    def network(x: Tensor, tau: Tensor, label: Tensor, mask: Tensor, strength: float, table: Tensor) -> Tensor:
        assert len(x) == len(tau) == len(label) == len(mask) == 8
        assert len(table) == 3
        assert torch.equal(mask[:4], mask[4:])
        assert torch.equal(label[4:], torch.full((4,), 9))
        return strength * mask * labelled(x, tau, label)

    x, mask = standard_normal((4, 3)), standard_normal((4, 3), 5)
    guided = Denoiser(network, NOISE, guidance=ClassifierFree(2.0, {"label": 9}))
    guided(x, 400.0, label=torch.arange(4), mask=mask, strength=0.5, table=torch.ones(3))


def test_null_conditions_may_be_tensors() -> None:
    seen: list[Tensor] = []

    def network(x: Tensor, tau: Tensor, text: Tensor) -> Tensor:
        seen.append(text)
        return x

    null = torch.arange(5.0)
    Denoiser(network, NOISE, guidance=ClassifierFree(2.0, {"text": null}))(standard_normal((2, 3)), 1.0, text=torch.ones(2, 7, 5))
    assert seen[0].shape == (4, 7, 5)
    assert torch.equal(seen[0][3, 6], null)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({}, r"conditions must give \['label'\] for classifier-free guidance, got \[\]"),
        ({"label": torch.tensor([1, 2])}, r"conditions\['label'\] must have one row per sample, 4, got shape \(2,\)"),
        ({"label": 3}, r"conditions\['label'\] must have one row per sample, 4, got shape \(\)"),
    ],
)
def test_missing_conditions_are_named(conditions: dict[str, object], message: str) -> None:
    guided = Denoiser(labelled, NOISE, guidance=ClassifierFree(2.0, {"label": 0}))
    with pytest.raises(ValueError, match=message):
        guided(standard_normal((4, 3)), 400.0, **conditions)


# -------------------------------------------------------------------------------------------------------------- clipping


def clipped_by_hand(network: nn.Module | object, sampler: str, schedule: Schedule, x: Tensor, clip: float, recompute: bool) -> Tensor:
    """A straight loop: predict, clamp, step."""
    t, a, s = schedule.times, schedule.alphas, schedule.sigmas
    lam = NOISE.half_log_snr(t)
    D_prev = None
    for i in range(schedule.steps):
        eps = network(x, torch.full((len(x),), schedule.network_times[i], dtype=x.dtype))  # type: ignore[operator]
        D = ((x - s[i] * eps) / a[i]).clamp(-clip, clip)
        if sampler == "ddim":
            x = a[i + 1] * D + s[i + 1] * ((x - a[i] * D) / s[i] if recompute else eps)
            continue
        if s[i + 1] == 0:
            return D
        used = D
        if D_prev is not None:
            w = (lam[i + 1] - lam[i]) / (lam[i] - lam[i - 1]) / 2
            used = (1 + w) * D - w * D_prev
        x = s[i + 1] / s[i] * x - a[i + 1] * math.expm1(lam[i] - lam[i + 1]) * used
        D_prev = D
    return x


@pytest.mark.parametrize("clip_epsilon", ["recompute", "keep"])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_clipping(sampler: str, clip_epsilon: str) -> None:
    network = mixture(NOISE)
    x_T, clip = 1.5 * standard_normal((6, 2)), 0.6
    for final in ("zero", "min"):
        schedule = Schedule.build(NOISE, sampler, 5, "linspace", final=final)
        denoiser = Denoiser(network, NOISE, clip_sample=clip, clip_epsilon=clip_epsilon)
        x = ttune.sample(denoiser, schedule, x_T)
        expected = clipped_by_hand(network, sampler, schedule, x_T, clip, clip_epsilon == "recompute")
        torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(x, ttune.sample(network.denoiser(), schedule, x_T))
        if final == "zero":
            assert float(x.abs().max()) == pytest.approx(clip, rel=1e-12)


def test_the_prediction_is_clipped_too() -> None:
    x = 3 * standard_normal((5, 2))
    raw, clipped = Denoiser(mixture(NOISE), NOISE)(x, 300.0), Denoiser(mixture(NOISE), NOISE, clip_sample=0.5)(x, 300.0)
    assert torch.equal(clipped, raw.clamp(-0.5, 0.5))
    assert float(raw.abs().max()) > 0.5


# ---------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"network": 3}, TypeError, "network must be callable .*got int"),
        ({"noise": "linear"}, TypeError, "noise must be a ttune.NoiseSchedule, got str"),
        ({"prediction_type": "epsilom"}, ValueError, "prediction_type must be one of .*'epsilom'; did you mean 'epsilon'"),
        ({"guidance": 7.5}, TypeError, r"guidance must be ttune.ClassifierFree.*got 7.5: write guidance=ttune.ClassifierFree\(7.5, null="),
        ({"clip_sample": 0.0}, ValueError, "clip_sample must be a positive number or None, got 0.0"),
        ({"clip_sample": math.nan}, ValueError, "clip_sample must be a positive number or None, got nan"),
        ({"clip_epsilon": "drop"}, ValueError, "clip_epsilon must be 'recompute' or 'keep', got 'drop'"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Denoiser(**({"network": lambda x, t: x, "noise": NOISE} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_a_wrong_scale_is_named(scale: float) -> None:
    with pytest.raises(ValueError, match=f"scale must be a finite number, got {scale}"):
        ClassifierFree(scale, {})


def test_wrong_outputs_are_named() -> None:
    x, schedule = standard_normal((2, 3)), Schedule.build(NOISE, "ddim", 2)
    with pytest.raises(ValueError, match=r"network must return the shape of x, \(2, 3\), got \(2, 6\)"):  # a learned variance, say
        ttune.sample(Denoiser(lambda x, t: torch.cat([x, x], 1), NOISE), schedule, x)
    with pytest.raises(TypeError, match="network must return a tensor, got tuple; wrap it in a function"):
        ttune.sample(Denoiser(lambda x, t: (x,), NOISE), schedule, x)  # type: ignore[arg-type, return-value]


# -------------------------------------------------------------------------------------------------------------- identity


def test_differences_name_what_differs() -> None:
    layer = nn.Linear(2, 2)
    base = Denoiser(layer, NOISE, name="a", clip_sample=1.0)
    remembered = base.identity()
    assert base.differences(remembered) == []
    assert Denoiser(nn.Linear(2, 2), NOISE, name="a", clip_sample=1.0).differences(remembered) == []  # other weights, same shapes
    for other, word in (
        (Denoiser(layer, NOISE, prediction_type="sample", name="a", clip_sample=1.0), "prediction_type is 'sample', .*tuned for 'epsilon'"),
        (Denoiser(layer, NOISE, name="b", clip_sample=1.0), "name is 'b'"),
        (Denoiser(layer, NOISE, name="a"), "clip_sample is None"),
        (Denoiser(layer, NOISE, name="a", clip_sample=1.0, clip_epsilon="keep"), "clip_epsilon is 'keep'"),
        (Denoiser(layer, NOISE, name="a", clip_sample=1.0, guidance=ClassifierFree(2.0, {})), "guidance_scale is 2.0"),
        (Denoiser(nn.Linear(2, 3), NOISE, name="a", clip_sample=1.0), "parameter_shapes is another"),
    ):
        (difference,) = other.differences(remembered)
        schedule = Schedule.build(NOISE, "ddim", 2).replace(model=remembered)
        with pytest.raises(ValueError, match=f"schedule: it was tuned for another denoiser: {word}"):
            ttune.sample(other, schedule, standard_normal((1, 2)))
        assert difference
    assert Denoiser(lambda x, t: x, NOISE, clip_sample=1.0).differences(remembered) == []  # a function states neither name nor shapes


def test_a_compiled_network_is_the_same_network() -> None:
    layer = nn.Linear(2, 2)
    compiled = torch.compile(layer)  # compiled on the first call, which never comes
    assert Denoiser(compiled, NOISE).identity() == Denoiser(layer, NOISE).identity()


def test_another_noise_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="its noise schedule is not the denoiser's"):
        ttune.sample(Denoiser(lambda x, t: x, NOISE), Schedule.build(NoiseSchedule.cosine(), "ddim", 2), standard_normal((1, 2)))


def test_networks_of_whole_times() -> None:
    denoiser = Denoiser(mixture(NOISE), NOISE, integer_time=True)
    schedule, x_T = Schedule.build(NOISE, "ddim", 3, "quadratic", t_start=900.5), standard_normal((2, 2))
    with pytest.raises(ValueError, match=r"whole times only \(integer_time=True\), the network_times are \[900.5, .*with_integer_times"):
        ttune.sample(denoiser, schedule, x_T)
    assert torch.isfinite(ttune.sample(denoiser, schedule.with_integer_times(), x_T)).all()


def test_evaluations_are_counted() -> None:
    denoiser = mixture(NOISE).denoiser()
    ttune.sample(denoiser, Schedule.build(NOISE, "ddim", 7), standard_normal((5, 2)))
    assert denoiser.evaluations == 35


def test_rows_of_conditions_within_conditions() -> None:
    pair = namedtuple("pair", "scale tokens")
    rows, shared, number = torch.arange(4.0), torch.arange(3.0), 7

    found = select({"control": {"image": rows, "scales": [rows, shared]}, "text": pair(number, (rows,)), "shared": shared}, slice(1, 3), 4)
    assert found["control"]["image"].tolist() == [1, 2]
    assert [part.tolist() for part in found["control"]["scales"]] == [[1, 2], [0, 1, 2]]
    assert isinstance(found["text"], pair)
    assert found["text"].scale == 7
    assert found["text"].tokens[0].tolist() == [1, 2]
    assert found["shared"] is shared


@pytest.mark.filterwarnings("ignore:out of memory")
@pytest.mark.parametrize("said", ["CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "MPS backend out of memory (x MiB)"])
def test_a_halved_call_has_half_of_all_conditions(said: str) -> None:
    def network(x: Tensor, tau: Tensor, control: dict[str, list[Tensor]]) -> Tensor:
        if len(x) > 2:
            raise RuntimeError(f"an error: {said} when calling something")
        return x * control["gains"][0].view(-1, 1)

    x, gains = torch.ones(5, 2), torch.arange(5.0)
    with torch.no_grad():
        (output,) = ttune.Denoiser(network, NoiseSchedule.linear()).outputs(x, 3.0, {"control": {"gains": [gains]}})
    assert torch.equal(output, gains.view(-1, 1) * x)


def test_conditions_within_conditions_are_cut_joined_and_moved_alike() -> None:
    pair = namedtuple("pair", "a b")
    conditions = {
        "control": {"image": torch.arange(6).view(3, 2), "weight": 0.5},
        "many": [torch.arange(3), torch.ones(())],
        "two": pair(1, 2),
    }
    parts = [select(conditions, slice(0, 2), 3), select(conditions, slice(2, 3), 3)]
    assert parts[0]["control"]["image"].tolist() == [[0, 1], [2, 3]]
    whole = {name: joined([part[name] for part in parts], [2, 1]) for name in conditions}
    assert whole["control"]["image"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert whole["many"][0].tolist() == [0, 1, 2]
    assert (whole["control"]["weight"], whole["many"][1], whole["two"]) == (0.5, torch.ones(()), pair(1, 2))
    there = on_device(conditions, torch.device("meta"))
    assert there["control"]["image"].is_meta
    assert there["many"][0].is_meta

    class More(dict):  # of a kind that knows more than what it holds
        pass

    assert select({"c": (more := More(x=torch.ones(3)))}, slice(0, 1), 3)["c"] is more
