"""``examples/train_emoji.py`` on synthetic pictures: every stage runs, goes on where it stopped, and the export is a plain pipeline."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.hosts import diffusers

EXAMPLES = Path(__file__).parents[1] / "examples"
diffusers()
pytest.importorskip("transformers")
pytest.importorskip("tyro")


@pytest.fixture(scope="module")
def emoji() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "train_emoji.py"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pictures.npz"
    pictures = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    names = [f"noto: {word}" for word in ("apple", "cat", "house", "heart", "fish", "sun")]
    np.savez(path, pictures=pictures, names=names, keywords=["fruit, red", "", "home", "love", "sea", "day"], groups=["Objects"] * 6)
    return path


@pytest.fixture(scope="module")
def trained(emoji: dict[str, Any], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The arguments of a run with one iteration of each stage, exported."""
    run = tmp_path_factory.mktemp("run")
    args = emoji["Args"]("autoencoder", run=run, data=data, to=run / "model", minutes=1e-9, batch=2, device="cpu", bfloat16=False)
    for stage in ("train_autoencoder", "train_diffusion", "export"):
        emoji[stage](args)
    return args


def tensors(path: Path, part: str) -> dict[str, torch.Tensor]:
    return {k: v for k, v in safetensors.torch.load_file(path).items() if k.startswith(part)}


def test_export_is_a_plain_pipeline_of_at_most_16_megabytes(trained: Any) -> None:
    pipeline = diffusers().StableDiffusionPipeline.from_pretrained(trained.to)
    size = sum(file.stat().st_size for file in trained.to.rglob("*") if file.is_file())
    # The real captions fill the vocabulary: an embedding in float16 and about 60 bytes of JSON for each entry that is missing here.
    assert size + (3072 - len(pipeline.tokenizer)) * (2 * 160 + 60) < 16e6
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(["noto: apple", "zebra?"], num_inference_steps=2, guidance_scale=4.0, output_type="np").images
    assert pictures.shape == (2, 64, 64, 3)
    ids = pipeline.tokenizer(["noto: apple", "Zebra? é"]).input_ids
    assert pipeline.tokenizer.unk_token_id not in ids[0][:-1] + ids[1][:-1]  # it is the end too, which closes both
    assert len(ids[0]) < len(ids[1])


def test_the_two_convolutions_between_encoder_and_decoder_standardize_the_latents(emoji: dict[str, Any], trained: Any) -> None:
    latents = emoji["latents_of"](trained)
    assert latents.shape == (2, 6, 4, 16, 16)
    torch.testing.assert_close(latents[0].mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents[0].std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)

    vae, x = emoji["AutoencoderKL"](**emoji["AUTOENCODER"]).eval(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before, posterior = vae(x).sample, vae.encode(x).latent_dist
        emoji["standardize"](vae, posterior.mean)
        torch.testing.assert_close(vae(x).sample, before, atol=1e-4, rtol=1e-4)
        spread = posterior.std / posterior.mean.std((0, 2, 3), keepdim=True)
        torch.testing.assert_close(vae.encode(x).latent_dist.std, spread, atol=1e-5, rtol=1e-4)


def test_a_stage_goes_on_as_if_it_had_never_stopped(emoji: dict[str, Any], data: Path, tmp_path: Path) -> None:
    """Two calls of one iteration, and one call of two, arrive at the same weights."""

    def train(run: Path, calls: list[int]) -> dict[str, torch.Tensor]:
        for iterations in calls:
            training = emoji["Training"](torch.nn.Linear(3, 1), run / "line.safetensors", args)
            for _ in range(iterations):
                generator = torch.Generator().manual_seed(training.iteration)
                training.step(training.network(torch.randn(2, 3, generator=generator)).square().mean(), 1e-3)
            training.save()
        return safetensors.torch.load_file(run / "line.safetensors")

    args = emoji["Args"]("diffusion", device="cpu")
    runs = []
    for name, calls in (("one", [2]), ("two", [1, 1])):
        (tmp_path / name).mkdir()
        torch.manual_seed(0)
        runs.append(train(tmp_path / name, calls))
    assert runs[0].keys() == runs[1].keys()
    for key in runs[0]:
        torch.testing.assert_close(runs[0][key], runs[1][key], msg=key)


def test_once_the_latents_are_fixed_only_the_decoder_learns(emoji: dict[str, Any], trained: Any) -> None:
    path = trained.run / "autoencoder.safetensors"
    before = safetensors.torch.load_file(path)
    emoji["train_autoencoder"](trained)
    after = safetensors.torch.load_file(path)
    for part in ("network", "average"):
        changed = {key.split(".")[1] for key in before if key.startswith(part) and not torch.equal(before[key], after[key])}
        assert changed == {"decoder", "post_quant_conv"}


def test_a_new_run_starts_from_an_export(emoji: dict[str, Any], trained: Any, tmp_path: Path) -> None:
    """The first step of its warm-up moves no weight by more than 1e-5, besides what float16 rounds."""
    args = emoji["dataclasses"].replace(trained, run=tmp_path, start=trained.to, to=tmp_path / "model")
    emoji["train_diffusion"](args)
    emoji["export"](args)
    for name in ("unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model"):
        old, new = (safetensors.torch.load_file(folder / f"{name}.safetensors") for folder in (trained.to, args.to))
        torch.testing.assert_close(old, new, atol=2e-3, rtol=2e-3)
    assert (trained.to / "tokenizer" / "tokenizer.json").read_text() == (args.to / "tokenizer" / "tokenizer.json").read_text()


def test_a_new_run_starts_from_an_autoencoder_alone(emoji: dict[str, Any], trained: Any, tmp_path: Path) -> None:
    start = emoji["dataclasses"].replace(trained, run=tmp_path / "first", start=trained.to, to=tmp_path / "parts")
    start.run.mkdir()
    emoji["export"](start)
    assert sorted(path.name for path in start.to.iterdir()) == ["tokenizer", "vae"]
    kind = emoji["AutoencoderKL"]
    old, new = (kind.from_pretrained(folder / "vae").state_dict() for folder in (trained.to, start.to))
    torch.testing.assert_close(old, new, atol=2e-3, rtol=2e-3)


def test_the_autoencoder_in_the_repository_keeps_colours_and_edges() -> None:
    x = torch.ones(1, 3, 64, 64)  # white, with a red, a green and a purple block as emoji have them
    for left, colour in (
        (4, (0.87, -0.4, -0.45)),
        (24, (-0.1, 0.55, -0.3)),
        (44, (0.2, -0.45, 0.65)),
    ):
        x[0, :, 20:44, left : left + 16] = torch.tensor(colour)[:, None, None]
    vae = diffusers().AutoencoderKL.from_pretrained(EXAMPLES / "emoji" / "model" / "vae")
    with torch.no_grad():
        y = vae(x).sample.clamp(-1, 1)
    assert 10 * torch.log10(4 / (y - x).square().mean()) > 25  # decibel; emoji of the training: 32


def test_progress_and_losses_are_written(trained: Any) -> None:
    rows = [line.split(",") for line in (trained.run / "losses.csv").read_text().splitlines()]
    assert [row[:3] for row in rows[:2]] == [["autoencoder", "1", "2"], ["diffusion", "1", "2"]]
    assert all(float(row[-1]) > 0 for row in rows)


def test_pictures_lie_on_white_with_names_and_keywords(tmp_path: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    prepare = runpy.run_path(str(EXAMPLES / "prepare_emoji.py"))
    entries = [
        {"unified": "1F34E", "name": "RED APPLE", "subcategory": "food-fruit", "category": "Food & Drink", "image": "1f34e.png"},
        {"unified": "1F1EB", "name": "FRANCE FLAG", "subcategory": "country-flag", "category": "Flags", "image": "1f1eb.png"},
        {"unified": "1F468", "name": "MAN COOK", "subcategory": "person-role", "category": "People & Body", "image": "1f468.png"},
    ]
    for vendor, colour in (("google", (255, 0, 0, 255)), ("twitter", (0, 0, 0, 0))):
        folder = tmp_path / f"emoji-datasource-{vendor}" / "img" / vendor / "64"
        folder.mkdir(parents=True)
        for entry in entries:
            entry[f"has_img_{vendor}"] = True
            pil.new("RGBA", (64, 64), colour).save(folder / entry["image"])
    (tmp_path / "emoji-datasource-google" / "emoji.json").write_text(json.dumps(entries))
    (tmp_path / "emojilib" / "dist").mkdir(parents=True)
    words = {"\U0001f34e": ["red_apple", "fruit", "<3"]}
    (tmp_path / "emojilib" / "dist" / "emoji-en-US.json").write_text(json.dumps(words))
    pictures, names, keywords, groups = prepare["read_packages"](tmp_path)
    assert names == ["noto: red apple", "twemoji: red apple"]
    assert keywords == ["fruit", "fruit"]
    assert groups == ["Food & Drink"] * 2
    assert pictures[0][0, 0].tolist() == [255, 0, 0]
    assert pictures[1][0, 0].tolist() == [255, 255, 255]
