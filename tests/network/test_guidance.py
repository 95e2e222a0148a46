"""Guidance and everything else that steers a prediction: against what one would write by hand."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ttune
from tests.oracles import standard_normal
from ttune import Classifier, ClassifierFree, CompiledSampler, Denoiser, DynamicThreshold, NoiseSchedule, Schedule, Stitched
from ttune.samplers.points import Point, points

NOISE = NoiseSchedule.linear()
LABELS = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
X_T = standard_normal((3, 2, 4), 5)


def network(x: Tensor, tau: Tensor, label: Tensor | None = None) -> Tensor:
    out = 0.8 * x * torch.cos(tau / 700).reshape(-1, 1, 1)
    return out if label is None else out + 0.3 * torch.sin(label.to(x.dtype)).reshape(-1, 1, 1) * (1 + 0.1 * x)


def ddim_by_hand(
    schedule: Schedule, eps_of: Callable[[int, Point, Tensor], Tensor], bound: Callable[[Tensor], Tensor] = lambda D: D
) -> Tensor:
    x, at = X_T, points(schedule)
    for i in range(len(at) - 1):
        eps = eps_of(i, at[i], x)
        D = bound((x - at[i].sigma * eps) / at[i].alpha)
        eps = (x - at[i].alpha * D) / at[i].sigma
        x = at[i + 1].alpha * D + at[i + 1].sigma * eps
    return x


def tau_of(point: Point) -> Tensor:
    return torch.full((3,), point.t, dtype=torch.float64)


SCHEDULE = Schedule.build(NOISE, "ddim", 5, "linspace")
SCALES = {
    "a number": 2.5,
    "one per evaluation": [3.0, 2.0, 1.0, 0.5, 4.0],
    "a function": lambda point: 1 + point.t / 500,
}


@pytest.mark.parametrize("batched", [None, True, False])
@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_classifier_free_scales(scale: object, batched: bool | None) -> None:
    guidance = ClassifierFree(scale, {"label": 0.0}, batched=batched)  # pyright: ignore[reportArgumentType]
    denoiser = Denoiser(network, NOISE, guidance=guidance)

    def eps(i: int, point: Point, x: Tensor) -> Tensor:
        s = scale(point) if callable(scale) else scale if isinstance(scale, float) else scale[i]  # type: ignore[index]
        with_, without = network(x, tau_of(point), LABELS), network(x, tau_of(point), torch.zeros(3))
        return without + s * (with_ - without)

    got = ttune.sample(denoiser, SCHEDULE, X_T, conditions={"label": LABELS})
    torch.testing.assert_close(got, ddim_by_hand(SCHEDULE, eps), rtol=1e-10, atol=1e-12)
    # A scale of 1 needs no second evaluation.
    assert denoiser.evaluations == 3 * (9 if isinstance(scale, list) else 10)


def test_guidance_interval_spares_evaluations() -> None:
    rho = [p.rho for p in points(SCHEDULE)]
    denoiser = Denoiser(network, NOISE, guidance=ClassifierFree(3.0, {"label": 0.0}, interval=(rho[3], rho[1])))

    def eps(i: int, point: Point, x: Tensor) -> Tensor:
        with_, without = network(x, tau_of(point), LABELS), network(x, tau_of(point), torch.zeros(3))
        return without + (3.0 if i in (1, 2, 3) else 1.0) * (with_ - without)

    got = ttune.sample(denoiser, SCHEDULE, X_T, conditions={"label": LABELS})
    torch.testing.assert_close(got, ddim_by_hand(SCHEDULE, eps), rtol=1e-10, atol=1e-12)
    assert denoiser.evaluations == 3 * (2 + 2 * 3)


def test_rescaled_guidance_has_the_conditional_deviation() -> None:
    def eps(i: int, point: Point, x: Tensor) -> Tensor:
        with_, without = network(x, tau_of(point), LABELS), network(x, tau_of(point), torch.zeros(3))
        guided = without + 4.0 * (with_ - without)
        same = guided * torch.stack([w.std() / g.std() for w, g in zip(with_, guided, strict=True)]).reshape(3, 1, 1)
        return 0.7 * same + 0.3 * guided

    denoiser = Denoiser(network, NOISE, guidance=ClassifierFree(4.0, {"label": 0.0}, rescale=0.7))
    got = ttune.sample(denoiser, SCHEDULE, X_T, conditions={"label": LABELS})
    torch.testing.assert_close(got, ddim_by_hand(SCHEDULE, eps), rtol=1e-10, atol=1e-12)


def test_without_memory_for_both_halves_the_call_is_made_in_parts() -> None:
    largest = 3

    def small(x: Tensor, tau: Tensor, label: Tensor) -> Tensor:
        if x.shape[0] > largest:
            raise torch.OutOfMemoryError("no room")
        return network(x, tau, label)

    denoiser = Denoiser(small, NOISE, guidance=ClassifierFree(2.0, {"label": 0.0}))
    plain = Denoiser(network, NOISE, guidance=ClassifierFree(2.0, {"label": 0.0}))
    with pytest.warns(RuntimeWarning, match="out of memory with 6 samples in one call of the network: going on with 3"):
        got = ttune.sample(denoiser, SCHEDULE, X_T, conditions={"label": LABELS})
    torch.testing.assert_close(got, ttune.sample(plain, SCHEDULE, X_T, conditions={"label": LABELS}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ttune.sample(denoiser, SCHEDULE, X_T, conditions={"label": LABELS})


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_classifier_guidance_is_the_gradient(prediction_type: str) -> None:
    """log p = -|x - label|^2 / 2 has the gradient label - x; epsilon' = epsilon - s sigma (label - x), whatever the network predicts."""

    def log_prob(x: Tensor, tau: Tensor, label: Tensor) -> Tensor:
        return -0.5 * (x - label.reshape(-1, 1, 1)).square().flatten(1).sum(1)

    def predicts(x: Tensor, tau: Tensor) -> Tensor:
        point = next(p for p in points(SCHEDULE) if abs(p.t - float(tau[0])) < 1e-9)
        eps = network(x, tau)
        D = (x - point.sigma * eps) / point.alpha
        return {"epsilon": eps, "sample": D, "v_prediction": point.alpha * eps - point.sigma * D}[prediction_type]

    denoiser = Denoiser(predicts, NOISE, prediction_type, guidance=Classifier(log_prob, 0.2, only=("label",)))
    got = ttune.sample(denoiser, SCHEDULE, X_T, conditions={"label": LABELS})
    wanted = ddim_by_hand(SCHEDULE, lambda i, p, x: network(x, tau_of(p)) - 0.2 * p.sigma * (LABELS.reshape(-1, 1, 1) - x))
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)
    assert denoiser.evaluations == 15
    torch.testing.assert_close(
        CompiledSampler(denoiser, SCHEDULE, compile=False)(X_T, conditions={"label": LABELS}), wanted, rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("clip_epsilon", ["recompute", "keep"])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "heun", "ddpm"])
def test_a_threshold_that_clamps_is_clipping(sampler: str, clip_epsilon: str) -> None:
    """The unfused path with a linear-enough function is the fused one."""
    schedule, seeds = Schedule.build(NOISE, sampler, 4, "linspace"), [1, 2, 3]
    fused = Denoiser(network, NOISE, clip_sample=0.4, clip_epsilon=clip_epsilon)
    unfused = Denoiser(network, NOISE, threshold=lambda D: D.clamp(-0.4, 0.4), clip_epsilon=clip_epsilon)
    wanted = ttune.sample(fused, schedule, X_T, seeds=seeds)
    torch.testing.assert_close(ttune.sample(unfused, schedule, X_T, seeds=seeds), wanted, rtol=1e-10, atol=1e-12)
    compiled = CompiledSampler(unfused, schedule, compile=False)
    torch.testing.assert_close(compiled(X_T, seeds=seeds), wanted, rtol=1e-10, atol=1e-12)


def test_dynamic_threshold() -> None:
    D = torch.tensor([[-4.0, 1.0, 2.0, 0.5, 3.0], [0.1, -0.2, 0.3, 0.4, 0.0]])
    got = DynamicThreshold(0.75)(D)
    torch.testing.assert_close(got, torch.tensor([[-1.0, 1 / 3, 2 / 3, 0.5 / 3, 1.0], [0.1, -0.2, 0.3, 0.4, 0.0]]))
    torch.testing.assert_close(DynamicThreshold(0.75, maximum=2.0)(D)[0], torch.tensor([-1.0, 0.5, 1.0, 0.25, 1.0]))
    assert DynamicThreshold()(D.bfloat16()).dtype == torch.bfloat16
    denoiser = Denoiser(network, NOISE, threshold=DynamicThreshold(0.9))
    wanted = ddim_by_hand(SCHEDULE, lambda i, p, x: network(x, tau_of(p)), DynamicThreshold(0.9))
    torch.testing.assert_close(ttune.sample(denoiser, SCHEDULE, X_T), wanted, rtol=1e-10, atol=1e-12)


def test_stitched_networks_serve_their_times() -> None:
    seen: list[tuple[str, float]] = []

    def named(name: str, factor: float) -> Callable[..., Tensor]:
        def run(x: Tensor, tau: Tensor) -> Tensor:
            seen.append((name, float(tau[0])))
            return factor * network(x, tau)

        return run

    denoiser = Denoiser(Stitched([named("small", 0.9), named("large", 1.0)], [500.0]), NOISE)
    # The network time may lie on the other side of the switch: the solver time counts.
    schedule = SCHEDULE.replace(network_times=SCHEDULE.network_times * 0.7)
    ttune.sample(denoiser, schedule, X_T)
    assert [name for name, _ in seen] == ["small" if t > 500 else "large" for t in schedule.times[:-1]]
    assert len({name for name, _ in seen}) == 2
    torch.testing.assert_close(CompiledSampler(denoiser, schedule, compile=False)(X_T), ttune.sample(denoiser, schedule, X_T))
    with pytest.raises(ValueError, match="evaluation must be given"):
        denoiser.outputs(X_T, 3.0)


def test_network_times_per_sample_and_per_frame() -> None:
    def framed(x: Tensor, tau: Tensor) -> Tensor:  # (B, frames, ...) with one time per frame
        times = tau[..., None] if tau.ndim == 2 else tau[:, None, None]
        return 0.8 * x * torch.cos(times / 700)

    denoiser = Denoiser(framed, NOISE)
    shifts = torch.tensor([0.0, -3.0, -7.0], dtype=torch.float64)
    base = torch.tensor(SCHEDULE.network_times)
    per_sample = (base[:, None] + shifts).clamp(min=0)
    got = ttune.sample(denoiser, SCHEDULE, X_T, network_times=per_sample)
    for b in range(3):
        own = SCHEDULE.replace(network_times=per_sample[:, b].numpy())
        torch.testing.assert_close(got[b : b + 1], ttune.sample(denoiser, own, X_T[b : b + 1]))
    same = per_sample[..., None].expand(-1, -1, 2)
    torch.testing.assert_close(ttune.sample(denoiser, SCHEDULE, X_T, network_times=same), got)
    with pytest.raises(ValueError, match=r"network_times must have shape \(5,\), \(5, 3\) or \(5, 3, frames\), got \(4,\)"):
        ttune.sample(denoiser, SCHEDULE, X_T, network_times=base[:4])
    with pytest.raises(ValueError, match="network_times must lie in the trained range"):
        ttune.sample(denoiser, SCHEDULE, X_T, network_times=base + 5)


@pytest.mark.parametrize("noise", [NOISE, NoiseSchedule.edm()], ids=["VP", "EDM"])
def test_stopping_early_and_going_on(noise: NoiseSchedule) -> None:
    denoiser = Denoiser(lambda x, tau: 0.1 * x, noise)
    schedule = Schedule.build(noise, "ddim", 6, "log_snr").replace(network_times=None)
    x_T = X_T * float(noise.sigma(noise.t_max))
    whole = ttune.sample(denoiser, schedule, x_T)
    half = ttune.sample(denoiser, schedule.part(0, 3), x_T)
    torch.testing.assert_close(ttune.sample(denoiser, schedule.part(3), half, from_state=True), whole, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="0 <= first < last <= 6, got 3 and 3"):
        schedule.part(3, 3)
    with pytest.raises(ValueError, match="one evaluation a step"):
        Schedule.build(noise, "heun", 6, "log_snr").part(1)


def test_image_to_image_starts_from_a_noised_image() -> None:
    part = SCHEDULE.part(2)
    x_0, seeds = standard_normal((3, 2, 4), 9), torch.tensor([4, 5, 6])
    state = ttune.noised(part, x_0, seeds)
    unit = ttune.initial_noise(NOISE, (2, 4), seeds, torch.float64)
    torch.testing.assert_close(state, float(part.alphas[0]) * x_0 + float(part.sigmas[0]) * unit)


# ------------------------------------------------------------------------------------------------------------- variances


def test_learned_range_is_between_small_and_large() -> None:
    """Nichol and Dhariwal, eq. 15: v = -1 is the posterior's variance, v = 1 the step's beta; v = 0 their geometric mean."""
    seeds = [1, 2, 3]

    def sampled(v: float | None, variance: str, clip: float | None) -> Tensor:
        def both(x: Tensor, tau: Tensor) -> Tensor:
            out = network(x, tau)
            return out if v is None else torch.cat([out, torch.full_like(out, v)], dim=1)

        denoiser = Denoiser(both, NOISE, learned_variance=v is not None, clip_sample=clip)
        return ttune.sample(denoiser, Schedule.build(NOISE, "ddpm", 5, "linspace", options={"variance": variance}), X_T, seeds=seeds)

    for clip in (None, 0.8):
        torch.testing.assert_close(sampled(-1.0, "learned_range", clip), sampled(None, "fixed_small", clip), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(sampled(1.0, "learned_range", clip), sampled(None, "fixed_large", clip), rtol=1e-10, atol=1e-12)
    low, mid, high = (
        Schedule.build(NOISE, "ddpm", 1, [700.0, 300.0], options={"variance": v}).tableau().stages[0]
        for v in ("fixed_small", "learned_range", "fixed_large")
    )
    assert mid.log_variance is not None
    assert mid.log_variance == pytest.approx([2 * math.log(s.update["noise"]) for s in (low, high)], rel=1e-12)
    with pytest.raises(ValueError, match="learned_variance=True"):
        ttune.sample(Denoiser(network, NOISE), Schedule.build(NOISE, "ddpm", 3, options={"variance": "learned_range"}), X_T, seeds=seeds)
    with pytest.raises(ValueError, match=r"must return \(3, 4, 4\), got \(3, 2, 4\)"):
        ttune.sample(Denoiser(network, NOISE, learned_variance=True), SCHEDULE, X_T)


def test_analytic_variance_of_gaussian_data_is_exact() -> None:
    """For x_0 ~ N(0, s^2) the true reverse step t -> u is Gaussian: its variance is known, and so is Gamma = sigma_t^2 / v_t^2."""
    s = 0.5
    schedule = Schedule.build(NOISE, "ddpm", 4, "linspace", final="min")

    def eps(x: Tensor, tau: Tensor) -> Tensor:
        alpha, sigma = (torch.tensor(f(tau.numpy())).reshape(-1, 1, 1) for f in (NOISE.alpha, NOISE.sigma))
        return sigma / (alpha**2 * s**2 + sigma**2) * x

    denoiser = Denoiser(eps, NOISE)
    at = points(schedule)
    exact = [p.sigma**2 / (p.alpha**2 * s**2 + p.sigma**2) for p in at[:-1]]
    x_0 = s * standard_normal((4000, 2, 4), 3)
    gammas = ttune.estimate_gammas(denoiser, schedule, x_0, seeds=torch.arange(4000), batch_size=999)
    assert gammas == pytest.approx(exact, rel=0.03)
    stages = schedule.replace(options={"variance": "analytic", "gammas": exact}).tableau().stages
    for t, u, stage in zip(at, at[1:], stages, strict=False):
        v_t, v_u = (p.alpha**2 * s**2 + p.sigma**2 for p in (t, u))
        ratio = t.alpha / u.alpha
        step = t.sigma**2 - ratio**2 * u.sigma**2  # variance of q(x_t | x_u)
        true = v_u - (ratio * v_u) ** 2 / (ratio**2 * v_u + step)
        assert v_t == pytest.approx(ratio**2 * v_u + step)
        assert stage.update["noise"] ** 2 == pytest.approx(true, rel=1e-9)
    with pytest.raises(ValueError, match="gammas must come with variance 'analytic'"):
        schedule.replace(options={"variance": "analytic"})
    with pytest.raises(ValueError, match="at least one sample"):
        ttune.estimate_gammas(denoiser, schedule, x_0[:0])


def run(guidance: ClassifierFree | Classifier) -> Tensor:
    return ttune.sample(Denoiser(network, NOISE, guidance=guidance), SCHEDULE, X_T)


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: ClassifierFree(float("nan"), {}), "scale must be a finite number, got nan"),
    (lambda: ClassifierFree([1.0, float("inf")], {}), "scale must be a finite number, got inf"),
    (lambda: ClassifierFree(2.0, {}, interval=(3.0, 1.0)), "interval must be"),
    (lambda: ClassifierFree(2.0, {}, rescale=1.5), r"rescale must lie in \[0, 1\], got 1.5"),
    (lambda: Classifier(lambda x, tau: x, float("inf")), "scale must be a finite number"),
    (lambda: DynamicThreshold(0.0), r"quantile must lie in \(0, 1\], got 0.0"),
    (lambda: DynamicThreshold(0.9, 0.5), "maximum must be a number >= 1, got 0.5"),
    (lambda: Stitched([network], [3.0]), "switch_at must be strictly decreasing times"),
    (lambda: Stitched([network] * 3, [1.0, 2.0]), "switch_at must be strictly decreasing times"),
    (lambda: Denoiser(network, NOISE, clip_sample=1.0, threshold=DynamicThreshold()), "threshold takes the place of clip_sample"),
    (
        lambda: ttune.sample(Denoiser(network, NOISE, guidance=ClassifierFree([2.0], {"label": 0.0})), SCHEDULE, X_T),
        "one number per evaluation, 5, got 1",
    ),
    (
        lambda: ttune.sample(Denoiser(network, NOISE, guidance=Classifier(lambda x, tau: x.sum())), SCHEDULE, X_T),
        "log_prob must return one number",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_errors(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_tuned_schedule_remembers_the_guidance() -> None:
    plain = Denoiser(network, NOISE, guidance=ClassifierFree(2.0, {"label": 0.0}))
    assert plain.identity()["guidance_scale"] == 2.0
    assert "guidance_interval" not in plain.identity()
    other = Denoiser(network, NOISE, guidance=ClassifierFree([2.0, 3.0], {"label": 0.0}, interval=(0.5, 3.0), rescale=0.5))
    assert other.identity() | {"guidance_scale": [2.0, 3.0], "guidance_interval": "0.5 to 3", "guidance_rescale": 0.5} == other.identity()
    assert other.differences(plain.identity())
    assert (
        Denoiser(network, NOISE, threshold=DynamicThreshold(0.9)).identity()["threshold"] == "DynamicThreshold(quantile=0.9, maximum=inf)"
    )


# -------------------------------------------------------------------------------------------- parts, identity, one place each


@pytest.mark.parametrize("sampler", ["ddpm", "euler_ancestral", "dpmpp_2m_sde"])
def test_a_part_has_the_noise_and_the_scales_of_the_whole(sampler: str) -> None:
    seeds, scale = torch.tensor([7, 8, 9]), [3.0, 2.5, 2.0, 1.5, 0.5, 4.0]
    for options in ({}, {"variance": "analytic", "gammas": [0.9, 0.8, 0.9, 0.7, 0.6, 0.5]}):
        if options and sampler != "ddpm":
            continue
        whole = Schedule.build(NOISE, sampler, 6, "linspace", options=options)
        denoiser = Denoiser(network, NOISE, guidance=ClassifierFree(scale, {"label": 0.0}))
        conditions = {"label": LABELS}
        states: list[Tensor] = []
        wanted = ttune.sample(denoiser, whole, X_T, conditions=conditions, seeds=seeds, callback=lambda i, t, x, s=states: s.append(x))
        if sampler == "dpmpp_2m_sde":  # begins anew at first order: the first half alone is the whole's
            early = Denoiser(network, NOISE, guidance=ClassifierFree(scale[:3], {"label": 0.0}))
            half = ttune.sample(early, whole.part(0, 3), X_T, conditions=conditions, seeds=seeds)
            torch.testing.assert_close(half, states[2], rtol=1e-12, atol=1e-12)
            continue
        late = whole.part(3)
        assert late.first == 3
        got = ttune.sample(denoiser, late, states[2], conditions=conditions, seeds=seeds, from_state=True)
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
        compiled = CompiledSampler(denoiser, late, compile=False)
        torch.testing.assert_close(compiled(states[2], conditions=conditions, seeds=seeds, from_state=True), wanted, rtol=1e-10, atol=1e-12)


def test_a_part_of_a_variance_exploding_schedule_is_not_scaled_again() -> None:
    noise = NoiseSchedule.edm()
    denoiser = Denoiser(lambda x, tau: 0.1 * x, noise)
    late = Schedule.build(noise, "ddim", 6, "karras").part(3)
    state = 3 * X_T
    wanted = ttune.sample(denoiser, late, state, from_state=True)
    torch.testing.assert_close(CompiledSampler(denoiser, late, compile=False)(state, from_state=True), wanted)
    assert (wanted - ttune.sample(denoiser, late, state)).abs().max() > 0.1


def test_a_part_remembers_its_model_and_refuses_what_is_no_part() -> None:
    tuned = SCHEDULE.replace(network_times=SCHEDULE.network_times - 0.5 * (SCHEDULE.network_times > 1), model={"name": "other"})
    assert tuned.part(1, 3).model == {"name": "other"}
    with pytest.raises(ValueError, match="lower_order_final"):
        Schedule.build(NOISE, "dpmpp_2m", 5, lower_order_final=True).part(0, 3)


def denoisers() -> dict[str, Denoiser]:
    def free(**settings: object) -> ClassifierFree:
        return ClassifierFree(2.0, {"label": 0.0}, **settings)  # pyright: ignore[reportArgumentType]

    def log_prob(x: Tensor, tau: Tensor) -> Tensor:
        return x.flatten(1).sum(1)

    return {
        "plain": Denoiser(network, NOISE),
        "guided": Denoiser(network, NOISE, guidance=free()),
        "interval": Denoiser(network, NOISE, guidance=free(interval=(0.5, float("inf")))),
        "rescaled": Denoiser(network, NOISE, guidance=free(rescale=0.5)),
        "per evaluation": Denoiser(network, NOISE, guidance=ClassifierFree([2.0] * 5, {"label": 0.0})),
        "classifier": Denoiser(network, NOISE, guidance=Classifier(log_prob, 2.0)),
        "threshold": Denoiser(network, NOISE, threshold=DynamicThreshold()),
        "learned": Denoiser(network, NOISE, learned_variance=True),
        "stitched": Denoiser(Stitched([network, network], [900.0]), NOISE),
        "stitched elsewhere": Denoiser(Stitched([network, network], [100.0]), NOISE),
    }


def test_a_schedule_tuned_for_other_settings_is_refused_both_ways(tmp_path: Path) -> None:
    every = denoisers()
    for name, mine in every.items():
        schedule = SCHEDULE.replace(model=mine.identity())
        schedule.save(tmp_path / "s.json")
        again = Schedule.load(tmp_path / "s.json")
        for other, theirs in every.items():
            assert bool(theirs.differences(again.model)) == (name != other), (name, other)


@pytest.mark.parametrize("sampler", ttune.SAMPLERS)
def test_options_survive_the_file(sampler: str, tmp_path: Path) -> None:
    from ttune.samplers import sampler_options

    schedule = Schedule.build(NOISE, sampler, 5, "linspace", options={k: v for k, v in sampler_options(sampler).items() if v != ()})
    schedule.part(0).save(tmp_path / "s.json") if len(schedule.network_times) == 5 else schedule.save(tmp_path / "s.json")
    again = Schedule.load(tmp_path / "s.json")
    assert again.options == schedule.options
    assert str(again.tableau()) == str(schedule.tableau())


def test_single_predictions_and_callbacks_are_checked() -> None:
    denoiser = Denoiser(network, NOISE, guidance=ClassifierFree([2.0] * 5, {"label": 0.0}))
    with pytest.raises(ValueError, match="a scale per evaluation"):
        denoiser(X_T, 500.0, label=LABELS)
    with pytest.raises(ValueError, match=r"callback must return None or a state of shape \(3, 2, 4\), got \(1, 2, 4\)"):
        ttune.sample(Denoiser(network, NOISE), SCHEDULE, X_T, callback=lambda i, t, x: x[:1])
    whole = SCHEDULE.with_integer_times()
    network_times = (torch.tensor(whole.network_times) - 0.5).clamp(min=0.0)
    with pytest.raises(ValueError, match="whole times where integer_time=True"):
        ttune.sample(Denoiser(network, NOISE, integer_time=True), whole, X_T, network_times=network_times)
    with pytest.raises(ValueError, match="compile must be False"):
        CompiledSampler(denoisers()["classifier"], SCHEDULE)


@pytest.mark.parametrize("guidance", ["scale", "interval", "stitched"])
def test_tuning_sees_the_guidance_of_each_place(guidance: str) -> None:
    """Jacobians by restarts against brute force where the scale, the number of outputs or the network depend on the place."""
    from ttune.tuning.problem import Problem
    from ttune.tuning.solvers.finite_differences import normal_equations
    from ttune.tuning.solvers.parameters import Parameters

    steered = {
        "scale": Denoiser(network, NOISE, guidance=ClassifierFree(lambda p: 1 + p.t / 400, {"label": 0.0}, rescale=0.5)),
        "interval": Denoiser(network, NOISE, guidance=ClassifierFree(3.0, {"label": 0.0}, interval=(0.5, 20.0))),
        "stitched": Denoiser(Stitched([lambda x, tau, label: 0.9 * network(x, tau), network], [500.0]), NOISE),
    }[guidance]
    target, conditions = standard_normal((3, 2, 4), 6), {"label": LABELS}
    start = Schedule.build(NOISE, "dpmpp_2m", 4, "linspace", t_start=950.0)
    parameters = Parameters(start, ("network_times", "times"))
    theta = parameters.start_vector + 0.05
    problem = Problem(steered, X_T, conditions, target)
    _, _, g = normal_equations(problem, parameters, theta)

    def residual(vector: object) -> Tensor:
        return (ttune.sample(steered, parameters.schedule(vector), X_T, conditions=conditions) - target).flatten()  # pyright: ignore[reportArgumentType]

    h = 1e-6
    for row, j in enumerate(parameters.free):
        moved = [theta.copy(), theta.copy()]
        moved[0][j] += h
        moved[1][j] -= h
        slope = (residual(moved[0]) - residual(moved[1])) / (2 * h)
        assert g[row] == pytest.approx(float(slope @ residual(theta)) / target.numel(), rel=1e-3, abs=1e-6)


def test_guidance_that_is_never_used_asks_for_no_conditions() -> None:
    denoiser = Denoiser(lambda x, tau: 0.1 * x, NOISE, guidance=ClassifierFree(1.0, {"y": 0}))
    schedule = Schedule.build(NOISE, "ddim", 3)
    x_T = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    expected = ttune.sample(Denoiser(lambda x, tau: 0.1 * x, NOISE), schedule, x_T)
    assert torch.equal(ttune.sample(denoiser, schedule, x_T), expected)
    torch.testing.assert_close(ttune.CompiledSampler(denoiser, schedule, backend="eager")(x_T), expected)
