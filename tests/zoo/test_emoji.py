"""The emoji model: found where it lies, loaded as any diffusers folder, and the same in the unmodified pipeline."""

import pytest
import torch

import ttune
from ttune import Schedule, zoo
from ttune.cli.models import load_model
from ttune.zoo import emoji


def test_a_folder_without_the_model_is_refused_in_words(monkeypatch, tmp_path):
    monkeypatch.setenv(emoji.VARIABLE, str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=f"emoji model must be a diffusers folder at {tmp_path}.*clone the repository, and set TTUNE_EMOJI"
    ):
        zoo.load("emoji")


def test_prompts_are_names_in_both_styles():
    prompts = emoji.prompts()
    assert len(prompts) == len(set(prompts)) == 512
    assert {prompt.split(": ")[0] for prompt in prompts} == {"noto", "twemoji"}


@pytest.fixture(scope="module")
def denoiser():
    pytest.importorskip("diffusers")
    return zoo.load("emoji", guidance_scale=4.0)


@torch.no_grad()
def test_pictures_follow_the_prompt(denoiser):
    """Of one noise, two prompts make different pictures, on white; without guidance too."""
    schedule = Schedule.build(denoiser.noise, "dpmpp_2m", 6, "log_snr")
    x_T = ttune.initial_noise(denoiser.noise, denoiser.sample_shape, seeds=[7, 7])
    pictures = denoiser.decode(ttune.sample(denoiser, schedule, x_T, conditions=denoiser.draw_conditions(torch.tensor([0, 1]))))
    assert pictures.shape == (2, 3, 64, 64)
    assert (pictures[0] - pictures[1]).square().mean().sqrt() > 0.2
    assert pictures[:, :, :3, :3].mean() > 0.8  # white corners; a black picture has -1


@torch.no_grad()
def test_the_command_line_loads_the_same(denoiser):
    other = load_model("emoji", guidance_scale=4.0)
    x_T, seeds = ttune.initial_noise(denoiser.noise, denoiser.sample_shape, seeds=range(2)), torch.arange(2)
    schedule = Schedule.build(denoiser.noise, "ddim", 2, "trailing")
    here, there = (ttune.sample(d, schedule, x_T, conditions=d.draw_conditions(seeds)) for d in (denoiser, other))
    torch.testing.assert_close(here, there, rtol=0, atol=0)


@torch.no_grad()
def test_the_unmodified_pipeline_makes_the_same_pictures(denoiser):
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(emoji.folder())
    pipeline.set_progress_bar_config(disable=True)
    x_T = ttune.initial_noise(denoiser.noise, denoiser.sample_shape, seeds=range(2))
    theirs = pipeline(
        emoji.prompts()[:2], latents=x_T, num_inference_steps=5, guidance_scale=4.0, output_type="latent", height=64, width=64
    ).images
    schedule = Schedule.build(denoiser.noise, "ddim", 5, "leading", final="min", offset=1)
    ours = ttune.sample(denoiser, schedule, x_T, conditions=denoiser.draw_conditions(torch.arange(2)))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)
