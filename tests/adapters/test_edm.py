"""EDM's convention (its code is not on PyPI: tests/adapters/edm_convention.py has the convention) with a tuned schedule."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import ttune
from tests.adapters.edm_convention import EDMPrecond, VEPrecond, ablation_sampler, edm_sampler
from tests.adapters.small import noise_like, tuned
from ttune import NoiseSchedule

NOISE = NoiseSchedule.edm()
UNIT = noise_like(3, 2, 6, 6)
LABELS = torch.eye(4, dtype=torch.float64)[[1, 2, 3]]


@pytest.mark.parametrize("precond", [EDMPrecond, VEPrecond])
@pytest.mark.parametrize("sampler", ["heun", "edm_heun"])
def test_its_own_sampler_gives_the_samples_of_our_loop(precond: type[EDMPrecond], sampler: str) -> None:
    net = precond()
    denoiser = ttune.edm.denoiser(net)
    assert denoiser.noise == NOISE
    assert denoiser.sample_shape == (2, 6, 6)
    schedule = tuned(NOISE, sampler, 4, "log_snr", t_start=60.0)  # not the grid that the sampler would make
    mine = ttune.sample(denoiser, schedule, 80 * UNIT, conditions={"class_labels": LABELS})
    before = edm_sampler(net, UNIT, LABELS, num_steps=4)
    net.model.small.passed.clear()
    with ttune.edm.apply(net, schedule):
        theirs = edm_sampler(net, UNIT, LABELS, num_steps=4)
        again = edm_sampler(net, UNIT, LABELS, num_steps=4)
    passed = net.model.small.passed[: len(schedule.network_times)]
    c_noise = np.log(schedule.network_times * (0.5 if precond is VEPrecond else 1)) / (1 if precond is VEPrecond else 4)
    np.testing.assert_allclose(passed, c_noise, rtol=1e-12)
    torch.testing.assert_close(theirs, mine, rtol=1e-10, atol=1e-10)
    assert torch.equal(again, theirs)
    assert torch.equal(edm_sampler(net, UNIT, LABELS, num_steps=4), before)
    assert not net._forward_pre_hooks
    assert not net.model._forward_pre_hooks
    assert "round_sigma" not in net.__dict__
    assert not any(name.startswith("_ttune") for name in net.__dict__)


@pytest.mark.parametrize("t_start", [80.0, 50.0])
def test_the_start_is_ours(t_start: float) -> None:
    net = EDMPrecond()
    denoiser = ttune.edm.denoiser(net)
    schedule = tuned(NOISE, "heun", 4, "log_snr", t_start=t_start)
    x_T = ttune.initial_noise(NOISE, (2, 6, 6), seeds=range(3)).double()
    with ttune.edm.apply(net, schedule):
        theirs = edm_sampler(net, ttune.edm.start(schedule, x_T), LABELS, num_steps=4)
        with pytest.warns(UserWarning, match=r"latents must be unit noise, .* they are ttune\.edm\.start\(schedule, x_T\)"):
            edm_sampler(net, x_T, LABELS, num_steps=4)  # multiplied by sigma twice
    torch.testing.assert_close(theirs, ttune.sample(denoiser, schedule, x_T, conditions={"class_labels": LABELS}), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_ablation_sampler_is_ours_with_the_papers_own_schedule(solver: str) -> None:
    net = EDMPrecond()
    schedule = tuned(NOISE, solver, 5)
    latents = ttune.edm.start(schedule, 80 * UNIT)
    with ttune.edm.apply(net, schedule):
        theirs = ablation_sampler(net, latents, num_steps=5, solver=solver)
    torch.testing.assert_close(theirs, ttune.sample(ttune.edm.denoiser(net), schedule, 80 * UNIT), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("sampler", "solver", "schedule", "scaling"),
    [
        *(
            (solver, solver, *other)
            for solver in ("euler", "heun")
            for other in (("vp", "none"), ("ve", "none"), ("linear", "vp"), ("vp", "vp"))
        ),
        ("dpmpp_2m", "euler", "linear", "none"),
        ("lms", "euler", "linear", "none"),
    ],
)
@pytest.mark.parametrize("steps", [4, 40])
def test_samplers_that_step_otherwise_are_found_out(sampler: str, solver: str, schedule: str, scaling: str, steps: int) -> None:
    net = EDMPrecond()
    tuned_one = tuned(NOISE, sampler, steps, "karras", share=0.0)
    latents = ttune.edm.start(tuned_one, 80 * UNIT)
    with (
        ttune.edm.apply(net, tuned_one),
        pytest.raises(ValueError, match=f"must step as the schedule's '{sampler}' does, got another state"),
    ):
        ablation_sampler(net, latents, num_steps=steps, solver=solver, schedule=schedule, scaling=scaling)
    assert len(net.model.small.passed) <= 2 if sampler == solver else len(net.model.small.passed) <= 3


def test_states_that_are_changed_on_purpose() -> None:
    net = EDMPrecond()
    schedule = tuned(NOISE, "euler", 4)

    def pulled(x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:  # guidance around the net
        return net(x, sigma, labels) + 0.1

    pulled.round_sigma = lambda sigma: net.round_sigma(sigma)  # type: ignore[attr-defined]
    with ttune.edm.apply(net, schedule), pytest.raises(ValueError, match=r"check_steps=False"):
        ablation_sampler(pulled, UNIT, num_steps=4, solver="euler")
    with ttune.edm.apply(net, schedule, check_steps=False):
        assert ablation_sampler(pulled, UNIT, num_steps=4, solver="euler").isfinite().all()


@pytest.mark.parametrize("settings", [{"clip_sample": 1.0}, {"prediction_type": "epsilon"}, {"threshold": "a function"}])
def test_settings_that_its_sampler_does_not_have_are_refused(settings: dict[str, object]) -> None:
    schedule = tuned(NOISE, "heun", 4).replace(model=settings)
    with pytest.raises(ValueError, match=rf"schedule was tuned with {next(iter(settings))} .*, EDM's sampler has"):
        ttune.edm.apply(EDMPrecond(), schedule)


def test_only_the_noise_argument_changes() -> None:
    net = EDMPrecond()
    x, position, tau = UNIT, 2.0, 3.0
    total = (position**2 + 0.25) ** 0.5
    c_noise = torch.full((3,), np.log(tau) / 4, dtype=torch.float64)
    D = 0.25 / total**2 * x + position * 0.5 / total * net.model(x / total, c_noise)
    torch.testing.assert_close(ttune.edm.denoiser(net)(x, position, tau), D, rtol=1e-12, atol=1e-12)
    with ttune.edm.apply(net, ttune.Schedule.build(NOISE, "euler", None, [position, 0.0]).replace(network_times=[tau])):
        torch.testing.assert_close(net(x, torch.tensor(position)), D, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(net(x=x, sigma=torch.tensor(position), class_labels=None), D, rtol=1e-12, atol=1e-12)


def test_the_denoiser_and_the_bare_network_work_while_a_schedule_is_applied() -> None:
    net = EDMPrecond()
    denoiser, noise = ttune.edm.denoiser(net), torch.full((3,), 0.3, dtype=torch.float64)
    D, bare = denoiser(UNIT, 2.0, 3.0), net.model(UNIT, noise)
    with ttune.edm.apply(net, ttune.Schedule.build(NOISE, "euler", None, [5.0, 0.0]).replace(network_times=[7.0])):
        net(UNIT, torch.tensor(5.0))
        assert torch.equal(denoiser(UNIT, 2.0, 3.0), D)
        assert torch.equal(net.model(UNIT, noise), bare)
    assert not net._forward_hooks


def test_a_copy_of_the_net_is_passed_too() -> None:
    net, schedule = EDMPrecond(), tuned(NOISE, "heun", 4)
    plain = edm_sampler(net, UNIT, num_steps=4)
    with ttune.edm.apply(net, schedule):
        passed, twin = edm_sampler(net, UNIT, num_steps=4), copy.deepcopy(net)
        assert torch.equal(edm_sampler(twin, UNIT, num_steps=4), passed)
    assert torch.equal(edm_sampler(net, UNIT, num_steps=4), plain)
    assert torch.equal(edm_sampler(twin, UNIT, num_steps=4), passed)
    ttune.edm.remove(twin)
    assert torch.equal(edm_sampler(twin, UNIT, num_steps=4), plain)
    assert not twin._forward_pre_hooks
    assert not twin._forward_hooks
    assert not twin.model._forward_pre_hooks


def test_a_replica_that_shares_the_hooks_is_refused() -> None:
    net, schedule = EDMPrecond(), tuned(NOISE, "heun", 4)
    with ttune.edm.apply(net, schedule):
        replica = copy.copy(net)
        with pytest.raises(ValueError, match="net must be the EDMPrecond that the schedule was applied to, got a replica"):
            replica(UNIT, torch.tensor(80.0))


class Tabled(EDMPrecond):
    """As iDDPMPrecond: c_noise is the index of the nearest sigma of a table."""

    def scalings(self, sigma: torch.Tensor) -> tuple[torch.Tensor, ...]:
        table = torch.logspace(2, -3, 1000, dtype=torch.float64)
        index = (sigma.reshape(-1, 1) - table).abs().argmin(1).reshape(sigma.shape)
        return torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), 999.0 - index


def test_a_net_that_rounds_network_times_is_refused() -> None:
    with pytest.raises(ValueError, match=r"c_noise that is continuous in sigma, got a Tabled whose c_noise is a whole number \(400\)"):
        ttune.edm.denoiser(Tabled())(UNIT, 0.1, 0.1)
    net = Tabled()
    with ttune.edm.apply(net, tuned(NOISE, "heun", 4)), pytest.raises(ValueError, match="network times would be rounded"):
        edm_sampler(net, UNIT, num_steps=4)
    ttune.edm.denoiser(EDMPrecond())(UNIT, 1.0, 1.0)  # whose c_noise is 0 there


def test_float32_nets_sample_alike() -> None:
    net = EDMPrecond(torch.float32)
    denoiser = ttune.edm.denoiser(net)
    schedule = tuned(NOISE, "heun", 4, "karras")
    mine = ttune.sample(denoiser, schedule, (80 * UNIT).float())
    with ttune.edm.apply(net, schedule):
        theirs = edm_sampler(net, UNIT, num_steps=4).float()
    assert (mine - theirs).abs().max() / theirs.abs().max() < 1e-5


def test_tuned_with_gradients_in_the_network_time() -> None:
    net = EDMPrecond()
    denoiser = ttune.edm.denoiser(net)
    x = 5 * UNIT
    tau = torch.full((3,), 4.0, dtype=torch.float64, requires_grad=True)
    standing = denoiser.network_at(5.0)
    (gradient,) = torch.autograd.grad(standing(x, tau).sum(), tau)
    h = 1e-6
    difference = (standing(x, tau.detach() + h) - standing(x, tau.detach() - h)).flatten(1).sum(1) / (2 * h)
    torch.testing.assert_close(gradient, difference, rtol=1e-6, atol=1e-6)
    schedule = ttune.Schedule.build(denoiser.noise, "heun", 2, "karras")
    # The scalings' derivative in the position is inside the network, where backpropagation does not see it: the check finds that out.
    for optimizer, parameters in (("backpropagation", ("network_times",)), ("auto", ("network_times", "times"))):
        result = ttune.tune(
            denoiser,
            schedule,
            x_T=80 * noise_like(8, 2, 6, 6),
            iterations=1,
            optimizer=optimizer,
            tune=parameters,
            search_starts=False,
            fallback=False,
            progress=False,
        )
        assert not np.array_equal(result.schedule.network_times, schedule.network_times)
    assert not net.model._forward_pre_hooks


def test_what_does_not_fit_is_refused() -> None:
    net = EDMPrecond()
    schedule = tuned(NOISE, "heun", 4)
    with ttune.edm.apply(net, schedule):
        with pytest.raises(ValueError, match="num_steps must be 4, the steps of the schedule that is applied to this net, got 5"):
            edm_sampler(net, UNIT, num_steps=5)
        with pytest.raises(ValueError, match="applied to this EDMPrecond already; remove it first"):
            ttune.edm.apply(net, schedule)
        with pytest.raises(
            ValueError, match=r"sigma must be 80 at evaluation 0 of 7, got 79\.5.* applied to this EDMPrecond: ttune\.edm\.remove"
        ):
            net(UNIT, torch.tensor(79.5))
    with pytest.raises(ValueError, match="no schedule is applied to this EDMPrecond"):
        ttune.edm.remove(net)
    with pytest.raises(ValueError, match=r"schedule must have sigma for its time \(NoiseSchedule.edm\), got DiscreteVP"):
        ttune.edm.apply(net, tuned(NoiseSchedule.linear(), "ddim", 4))
    with pytest.raises(TypeError, match=r"a module with a module net\.model, got Linear"):
        ttune.edm.denoiser(torch.nn.Linear(2, 2))


def test_a_compiled_loop_that_is_not_compiled_takes_it() -> None:
    denoiser = ttune.edm.denoiser(EDMPrecond())
    schedule, x_T = tuned(denoiser.noise, "heun", 3), 80 * torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ttune.CompiledSampler(denoiser, schedule, compile=False)(x_T), ttune.sample(denoiser, schedule, x_T))
