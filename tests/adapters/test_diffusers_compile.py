"""A compiled network stays one graph for all steps, whichever came first, and its times are read at most once a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ttune
from tests.adapters import diffusers_models as models
from tests.adapters.test_diffusers import NULL, TEXT, assert_same, bent, generator, noise, run, sd_call, sd_pipeline
from tests.hosts import diffusers
from ttune.adapters.diffusers.evaluation_counter import AS_IT_IS, EvaluationCounter

ORDERS = ("unet = torch.compile(unet); apply", "unet.compile(); apply", "apply; unet = torch.compile(unet)", "apply; unet.compile()")


class Counting:
    """A backend that runs the graphs that it is given, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return graph


def compiled(pipeline: Any, order: str, schedule: ttune.Schedule) -> Counting:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # of earlier tests of this process, which reset leaves
    backend = Counting()
    for step in order.split("; "):
        if step == "apply":
            ttune.diffusers.apply(pipeline, schedule)
        elif step == "unet.compile()":
            pipeline.unet.compile(backend=backend, fullgraph=True)
        else:
            pipeline.unet = torch.compile(pipeline.unet, backend=backend, fullgraph=True)
    return backend


@pytest.mark.parametrize("order", ORDERS)
def test_one_graph_for_all_steps(order: str, tmp_path: Path) -> None:
    pipeline = models.ddpm(tmp_path, clip_sample=False)
    denoiser = ttune.diffusers.load(tmp_path)
    schedule = bent(ttune.Schedule.build(denoiser.noise, "dpmpp_2m", 12, "log_snr"), denoiser)
    backend = compiled(pipeline, order, schedule)
    for _ in range(2):
        assert_same(run(pipeline, 12, noise(2, 1, 8, 8)), ttune.sample(denoiser, schedule, noise(2, 1, 8, 8)))
    assert backend.graphs == 1
    assert not torch._dynamo.utils.counters["graph_break"]


def test_one_graph_of_a_guided_pipeline_that_another_one_shares(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pipeline = sd_pipeline(tmp_path)
    schedule = bent(ttune.Schedule.build(ttune.diffusers.noise_of(pipeline.scheduler), "dpmpp_2m", 6, "log_snr"))
    ttune.diffusers.apply(pipeline, schedule)
    eager = sd_call(pipeline, 6)
    ttune.diffusers.remove(pipeline)
    backend = compiled(pipeline, "apply; unet.compile()", schedule)
    assert_same(sd_call(pipeline, 6), eager)
    again = diffusers().StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    again.set_progress_bar_config(disable=True)
    own = {"num_inference_steps": 6, "output_type": "latent", "generator": generator()}
    assert again(**TEXT, **NULL, image=noise(2, 4, 8, 8), strength=0.5, guidance_scale=3.0, **own).images.isfinite().all()
    assert backend.graphs == 1
    ttune.diffusers.remove(pipeline)
    assert pipeline.unet._compiled_call_impl is not None  # as compiled as it was


class Reads(TorchDispatchMode):
    """How often a tensor's value went to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class Elsewhere(torch.Tensor):
    """A tensor on the CPU that says that it is not: reading it would wait for its device."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")


def passed(counter: EvaluationCounter, time: float, known: Any) -> torch.Tensor:
    given = torch.Tensor._make_subclass(Elsewhere, torch.tensor([time, time]))
    return counter.passed(given, torch.device("cpu"), known)[0]


def test_times_on_a_device_are_read_once_a_run() -> None:
    times = torch.tensor([900.0, 500.0, 100.0]).double().numpy()
    counter = EvaluationCounter(times, times - 7, 1000.0)
    counter.begin(0)
    with Reads() as reads:
        for time in times:
            assert passed(counter, time, AS_IT_IS).tolist() == [time - 7] * 2
            assert reads.count == 0
            counter.advance()
    assert reads.count == 1


def test_a_wrong_time_on_a_device_is_an_error_at_the_end_of_the_run() -> None:
    times = torch.tensor([900.0, 500.5, 100.0]).double().numpy()
    counter = EvaluationCounter(times, times - 7, 1000.0)
    counter.begin(0)
    passed(counter, 900.0, AS_IT_IS)
    counter.advance()
    passed(counter, 500.0, AS_IT_IS)
    counter.advance()
    passed(counter, 100.0, AS_IT_IS)
    with pytest.raises(ValueError, match=r"timestep was not the schedule's at some evaluation .* fractions included \(900, 500\.5, 100\)"):
        counter.advance()
    counter.begin(None)  # another run begins anew
    with pytest.raises(ValueError, match="timestep must be one of the schedule's times, got 899"):
        passed(counter, 899.0, AS_IT_IS)


def test_a_denoiser_of_an_applied_pipeline_is_compiled_whole(tmp_path: Path) -> None:
    pipeline = models.ddpm(tmp_path, clip_sample=False)
    denoiser = ttune.diffusers.load(pipeline)
    x, t = noise(2, 1, 8, 8), torch.tensor([5.0, 5.0])
    plain = denoiser.network(x, t)
    ttune.diffusers.apply(pipeline, ttune.Schedule.build(denoiser.noise, "ddim", 3))
    torch._dynamo.reset()
    backend = Counting()
    made = torch.compile(denoiser.network, backend=backend, fullgraph=True)(x, t)
    torch.testing.assert_close(made, plain)
    assert backend.graphs == 1
