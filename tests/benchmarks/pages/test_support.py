"""The table of pipelines: some of its rows anew, and the page says what the result says."""

from __future__ import annotations

import copy
import json

import pytest
import torch

import ttune
from benchmarks.pages import support
from benchmarks.result_paths import RESULTS
from tests.adapters.tiny_pipelines import PIPELINES, Tiny
from tests.hosts import diffusers

pytest.importorskip("transformers")
# One of each way to pass a time: as it is, divided, what is left, per token, without the shift; in image to image; beside a prior.
SERVED = (
    "StableDiffusionControlNetPipeline",
    "StableUnCLIPPipeline",
    "FluxImg2ImgPipeline",
    "Lumina2Pipeline",
    "ZImageImg2ImgPipeline",
    "CogView4Pipeline",
    "WanPipeline, two networks",
    "WanImageToVideoPipeline, a time per token",
)
REFUSED = [name for name, tiny in PIPELINES.items() if tiny.refused]


@pytest.mark.parametrize("name", SERVED)
def test_a_pipeline_is_passed_the_times_and_makes_its_own_steps(name: str) -> None:
    one = support.row(PIPELINES[name], compiled=False)
    assert one["times"], one
    assert one["difference"] <= support.AGREES, one


@pytest.mark.parametrize("name", REFUSED)
def test_a_pipeline_that_cannot_work_is_refused_by_name(name: str) -> None:
    pipeline = PIPELINES[name].build()
    before = pipeline.scheduler
    with pytest.raises(ValueError, match=f"pipeline: {PIPELINES[name].refused}"):
        ttune.diffusers.apply(pipeline, support.Watched(PIPELINES[name]).schedule())
    assert pipeline.scheduler is before


def test_a_pipeline_that_writes_its_schedulers_steps_is_refused() -> None:
    class Own(diffusers().DDPMPipeline):  # as Cosmos 2 does
        def __call__(self, num_inference_steps: int = 4) -> None:
            self.scheduler.set_timesteps(num_inference_steps)
            self.scheduler.sigmas[-1] = self.scheduler.sigmas[-2]

    plain = PIPELINES["DDPMPipeline"].build()
    pipeline = Own(plain.unet, plain.scheduler)
    with pytest.raises(ValueError, match="pipeline: Own writes its scheduler's sigmas, so that it steps elsewhere"):
        ttune.diffusers.apply(pipeline, ttune.Schedule.build(ttune.diffusers.noise_of(pipeline.scheduler), "ddim", 4))


def test_untuned_times_are_the_pipelines_own() -> None:
    """CogView4 passes its network times without the shift of its noise levels, down to the last, below the trained range."""
    tiny = PIPELINES["CogView4Pipeline"]
    own, served = support.Watched(tiny), support.Watched(tiny)
    own.run()
    schedule = ttune.Schedule.build(ttune.NoiseSchedule.flow(), "euler", 4, own.pipeline.scheduler.sigmas.tolist())
    ttune.diffusers.apply(served.pipeline, schedule)
    served.watch()
    served.run()
    torch.testing.assert_close(torch.tensor(served.times), torch.tensor(own.times), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(served.state, own.state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "left"), [("ZImageImg2ImgPipeline", True), ("FluxImg2ImgPipeline", False)])
def test_a_run_that_begins_at_one_half(name: str, left: bool) -> None:
    """There t and 1 - t are the same, and only one of them is what the network is passed from then on."""
    watched = support.Watched(PIPELINES[name])
    schedule = ttune.Schedule.build(ttune.NoiseSchedule.flow(), "euler", 4, [1.0, 0.75, 0.5, 0.25, 0.0])
    passed = 0.9 * schedule.network_times
    ttune.diffusers.apply(watched.pipeline, schedule.replace(network_times=passed))
    watched.watch()
    watched.run()
    assert list(dict.fromkeys(watched.times)) == pytest.approx((1 - passed if left else passed)[2:], rel=1e-6)


def test_the_page_is_of_the_result() -> None:
    report = json.loads((RESULTS / "support.json").read_text())
    assert support.PAGE.read_text() == support.page(report)
    assert [one["pipeline"] for one in report["rows"]] == list(PIPELINES)
    assert len(PIPELINES) >= 40
    assert all(support.right(one) for one in report["rows"])


def test_a_wrong_row_is_seen() -> None:
    good = {"pipeline": "FluxPipeline", "times": True, "difference": 1e-6, "graphs": [1, 0], "own_graphs": [1, 0]}
    assert support.right(good)
    for wrong in ({"times": False}, {"difference": 0.1}, {"graphs": [21, 14]}, {"refused": "why"}, {"pipeline": "MochiPipeline"}):
        assert not support.right(good | wrong)
    for reason in ("invert_sigmas=True", "another"):
        message = f"pipeline: MochiPipeline cannot take a schedule: scheduler: {reason}"
        assert support.right({"pipeline": "MochiPipeline", "refused": message}) == (reason != "another")
    assert isinstance(next(iter(PIPELINES.values())), Tiny)


def test_a_pipeline_of_pipelines_gives_its_scheduler_to_its_parts() -> None:
    tiny = PIPELINES["KandinskyV22Pipeline"]
    plain = tiny.build()
    own = {name: None for name in ("prior_image_encoder", "prior_text_encoder", "prior_tokenizer", "prior_image_processor")}
    combined = diffusers().KandinskyV22CombinedPipeline(
        unet=plain.unet, scheduler=plain.scheduler, movq=plain.movq, prior_prior=None, prior_scheduler=diffusers().UnCLIPScheduler(), **own
    )
    schedule = ttune.Schedule.build(ttune.diffusers.noise_of(plain.scheduler), "dpmpp_2m", 4, "log_snr")
    ttune.diffusers.apply(combined, schedule)
    assert combined.decoder_pipe.scheduler is combined.scheduler is not plain.scheduler
    call = {"num_inference_steps": 4, "generator": torch.Generator().manual_seed(3), **tiny.call()}
    ours = combined.decoder_pipe(**call).images
    ttune.diffusers.remove(combined)
    assert combined.decoder_pipe.scheduler is combined.scheduler is plain.scheduler
    ttune.diffusers.apply(plain, schedule)
    torch.testing.assert_close(plain(**call | {"generator": torch.Generator().manual_seed(3)}).images, ours)


def test_a_pipeline_that_steps_copies_of_its_scheduler_is_refused() -> None:
    class Sound(diffusers().DDPMPipeline):  # as LTX 2 does
        def __call__(self) -> None:
            sound = copy.deepcopy(self.scheduler)
            sound.set_timesteps(4)

    plain = PIPELINES["DDPMPipeline"].build()
    with pytest.raises(ValueError, match="pipeline: Sound steps copies of its scheduler"):
        ttune.diffusers.apply(Sound(plain.unet, plain.scheduler), ttune.Schedule.build(ttune.NoiseSchedule.linear(), "ddim", 4))
