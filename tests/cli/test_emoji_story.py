"""What a user of a text-to-image model does, on the emoji model: tune with prompts, apply to the pipeline, report, judge, export."""

import json

import pytest
import torch

import ttune
from ttune.cli.main import main
from ttune.zoo import emoji

pytestmark = pytest.mark.slow
MODEL = ["--model", "emoji", "--guidance-scale", "4"]
FEW = ["--samples", "2", "--validation-samples", "2", "--iterations", "1", "--no-search-starts"]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Tuned for one prompt of a file; the samples are few, so that the schedule may be the best untuned one."""
    pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("emoji")
    (folder / "prompts.txt").write_text("noto: red heart\ntwemoji: sunflower\n")
    main([
        "tune", *MODEL, *FEW, "--prompts", str(folder / "prompts.txt"), "--sampler", "ddim", "--steps", "4", "--tune", "network_times",
        "--no-fallback", "--out", str(folder / "ttune.json"), "--quiet",
    ])  # fmt: skip
    return folder / "ttune.json"


def test_the_pipeline_makes_what_ttune_samples(tuned):
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    prompts = ["noto: red heart", "twemoji: sunflower"]
    pipeline = StableDiffusionPipeline.from_pretrained(emoji.folder())
    pipeline.set_progress_bar_config(disable=True)
    denoiser = ttune.diffusers.load(pipeline, prompts=prompts, guidance_scale=4.0)
    x_T = ttune.initial_noise(denoiser.noise, denoiser.sample_shape, seeds=range(2))
    schedule = ttune.Schedule.load(tuned)
    with torch.no_grad():
        ours = ttune.sample(denoiser, schedule, x_T, conditions=denoiser.draw_conditions(torch.arange(2)))
    ttune.diffusers.apply(pipeline, tuned)
    theirs = pipeline(prompts, latents=x_T, num_inference_steps=4, guidance_scale=4.0, output_type="latent").images
    torch.testing.assert_close(theirs, ours, rtol=0, atol=5e-4)


def test_report_shows_pictures(tuned):
    prompts = ["--prompts", str(tuned.parent / "prompts.txt")]
    main(["report", str(tuned), *MODEL, *prompts, "--samples", "2", "--out", str(tuned.parent / "report.html")])
    page = (tuned.parent / "report.html").read_text()
    assert "data:image/png" in page
    assert "No pictures" not in page


def test_evaluate_judges_decoded_pictures(tuned):
    out = tuned.parent / "evaluation.json"
    main(
        [
            "evaluate",
            str(tuned),
            *MODEL,
            "--samples",
            "8",
            "--no-teacher",
            "--prompts",
            str(tuned.parent / "prompts.txt"),
            "--out",
            str(out),
            "--quiet",
        ]
    )
    assert "nan" not in json.dumps(json.loads(out.read_text())).lower()


def test_times_are_exported_for_another_program(tuned, capsys):
    main(["export", "--schedule", str(tuned), "--to", "timesteps", "--times-only"])
    times = json.loads(capsys.readouterr().out)
    assert times == sorted(times, reverse=True)
    assert len(times) == 4
