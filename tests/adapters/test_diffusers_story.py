"""What a user does, beginning to end: a folder, ``ttune tune``, ``apply``, ``pipeline(...)``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ttune
from tests.adapters import diffusers_models as models
from tests.adapters.test_diffusers import assert_same, ddpm_call, noise
from tests.adapters.test_diffusers_load import tiny_clip
from tests.hosts import diffusers
from ttune.cli.main import main
from ttune.tuning import Teacher

QUICK = [
    "--samples",
    "8",
    "--validation-samples",
    "8",
    "--batch-size",
    "8",
    "--iterations",
    "1",
    "--no-search-starts",
    "--no-fallback",
    "--quiet",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    smallest = {"block_out_channels": (8,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "add_attention": False}
    models.ddpm(tmp_path / "model", network=models.unet_2d(**smallest))
    return tmp_path / "model"


@pytest.fixture
def quick_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most calls of so small a tuning are the teacher's."""
    monkeypatch.setattr(Teacher.default, "__defaults__", (12,))


def samples_alike(folder: Path, schedule: ttune.Schedule) -> None:
    """The pipeline of the folder with the schedule gives what ttune's loop does, and not what it gave before."""
    pipeline = diffusers().DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    before = ddpm_call(pipeline, 5)
    ttune.diffusers.apply(pipeline, schedule)
    images = ddpm_call(pipeline, 5)
    ours = ttune.sample(ttune.diffusers.load(folder), schedule, noise(2, 1, 8, 8))
    assert_same(images, ours.clamp(-1, 1))
    assert not torch.equal(images, before)
    ttune.diffusers.remove(pipeline)
    assert torch.equal(ddpm_call(pipeline, 5), before)


def test_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "ttune.json"
    command = [
        sys.executable,
        "-m",
        "ttune",
        "tune",
        "--model",
        str(folder),
        "--sampler",
        "ddim",
        "--steps",
        "5",
        "--out",
        str(out),
        *QUICK,
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert f"Wrote {out}" in run.stdout
    schedule = ttune.Schedule.load(out)
    assert schedule.steps == 5
    assert schedule.model["name"] == "UNet2DModel"
    assert not np.array_equal(schedule.network_times, schedule.times[:-1])
    samples_alike(folder, schedule)


@pytest.mark.usefixtures("quick_teacher")
def test_from_python(folder: Path) -> None:
    denoiser = ttune.diffusers.load(folder)
    start = ttune.Schedule.build(denoiser.noise, "dpmpp_2m", 5, "log_snr")
    settings: dict[str, Any] = {
        "samples": 8,
        "validation_samples": 8,
        "batch_size": 8,
        "iterations": 1,
        "search_starts": False,
        "progress": False,
    }
    result = ttune.tune(denoiser, start, fallback=False, **settings)
    assert result.schedule.tuned["method"] == "endpoint"  # and not the start, which would be sampled alike too
    samples_alike(folder, result.schedule)


def test_pictures_of_a_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", "--model", str(folder), "--steps", "3", "--samples", "4", "--columns", "2", "--out", str(tmp_path / "x.png")])
    assert "Wrote 4 samples of 3 steps" in capsys.readouterr().out
    assert Image.open(tmp_path / "x.png").size[0] >= 16


@pytest.mark.usefixtures("quick_teacher")
def test_a_text_model_with_prompts(tmp_path: Path) -> None:
    encoder, tokenizer = tiny_clip()
    made = diffusers().StableDiffusionPipeline(
        unet=models.unet_2d_condition(), vae=models.vae(), text_encoder=encoder, tokenizer=tokenizer,
        scheduler=diffusers().DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    folder, out = models.saved(made, tmp_path / "model"), tmp_path / "ttune.json"
    (tmp_path / "prompts.txt").write_text("a cat\n\ndog\n")
    named = ["--model", str(folder), "--prompts", str(tmp_path / "prompts.txt"), "--guidance-scale", "3"]
    main(["tune", *named, "--sampler", "dpmpp_2m", "--spacing", "log_snr", "--steps", "3", "--out", str(out), *QUICK])
    main(["sample", *named, "--schedule", str(out), "--samples", "4", "--columns", "2", "--out", str(tmp_path / "x.png")])
    main(["sample", *named, "--schedule", str(out), "--samples", "4", "--out", str(tmp_path / "x.npz")])
    picture = np.asarray(Image.open(tmp_path / "x.png"))
    assert picture.shape[2] == 3  # decoded: the latents have four channels of 8 x 8
    latents = torch.from_numpy(np.load(tmp_path / "x.npz")["images"])
    assert latents.shape == (4, 4, 8, 8)
    pipeline = models.loaded("StableDiffusionPipeline", folder)
    ttune.diffusers.apply(pipeline, out)
    x_T = ttune.initial_noise(ttune.diffusers.noise_of(pipeline.scheduler), (4, 8, 8), seeds=range(4))
    texts = ["a cat", "dog"] * 2
    theirs = pipeline(texts, latents=x_T, height=16, width=16, guidance_scale=3.0, num_inference_steps=3, output_type="latent").images
    assert_same(theirs, latents)
