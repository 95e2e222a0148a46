"""``ttune report`` and ``ttune compare`` of a text model with guidance: prompts reach it, and its latents are shown as pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ttune
from tests.adapters import diffusers_models as models
from tests.adapters.test_diffusers_load import tiny_clip
from tests.hosts import diffusers
from tests.report.test_report import checked, page_of
from ttune.cli.main import main
from ttune.evaluation.images.decoded import shown_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words of the command line for a small Stable Diffusion, at guidance 4."""
    folder = tmp_path_factory.mktemp("sd")
    encoder, tokenizer = tiny_clip()
    scheduler = diffusers().DDIMScheduler(clip_sample=False, steps_offset=1)
    made = diffusers().StableDiffusionPipeline(
        unet=models.unet_2d_condition(), vae=models.vae(), text_encoder=encoder, tokenizer=tokenizer,
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    models.saved(made, folder)
    (folder / "prompts.txt").write_text("a cat\ndog\n")
    return ["--model", str(folder), "--guidance-scale", "4", "--prompts", str(folder / "prompts.txt")]


def test_report_decodes_what_it_shows(model: list[str], tmp_path: Path) -> None:
    denoiser = ttune.diffusers.load(model[1], prompts=["a cat", "dog"], guidance_scale=4.0)
    schedule = ttune.Schedule.build(denoiser.noise, "ddim", 3).replace(model=denoiser.identity())
    schedule.save(tmp_path / "s.json")
    main(["report", str(tmp_path / "s.json"), *model, "--samples", "2", "--shown", "2", "--quiet", "--out", str(tmp_path / "r.html")])
    page = checked(tmp_path / "r.html")
    assert "No pictures" not in page.text
    assert "The RMSE is that of the latents" in page.text
    size = denoiser.decode(torch.zeros(1, 4, 8, 8)).shape[-1]  # pyright: ignore[reportOptionalCall]
    assert {(picture["height"], picture["width"]) for picture in page.all("img")} == {(str(size), str(2 * size + 2))}


def test_compare_takes_prompts(model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reached(Exception):
        pass

    def compare(denoiser: ttune.Denoiser, *_: object, **options: object) -> None:
        assert denoiser.draw_conditions is not None
        rows = denoiser.draw_conditions(torch.arange(3))["encoder_hidden_states"]
        assert not torch.equal(rows[0], rows[1])
        assert torch.equal(rows[0], rows[2])
        assert denoiser.identity()["guidance_scale"] == 4
        raise Reached

    monkeypatch.setattr(ttune, "compare", compare)
    with pytest.raises(Reached):
        main(["compare", "--methods", "ays", *model, "--steps", "3", "--quiet", "--out", str(tmp_path / "cmp")])


def test_a_decoder_may_write_into_its_argument_and_return_the_same_memory() -> None:
    memory = torch.empty(2, 3, 8, 8)
    denoiser = ttune.Denoiser(lambda x, tau: x, ttune.NoiseSchedule.linear(), decode=lambda z: memory.copy_(z.neg_()[:, :3]))
    z = torch.ones(2, 4, 8, 8)
    first, second = shown_of(denoiser, z), shown_of(denoiser, 2 * z)
    assert [float(x.mean()) for x in (z, first, second)] == [1, -1, -2]


@pytest.mark.parametrize(
    ("shape", "decode", "words"),
    [
        ((3, 4, 8, 8), None, "samples of shape (3, 4, 8, 8) are no pictures of 1 or 3 channels, (C, H, W); video is not shown"),
        (
            (4, 8, 8),
            None,
            "samples of shape (4, 8, 8) are no pictures of 1 or 3 channels, (C, H, W); for latents give the denoiser a decode",
        ),
        ((4, 8, 8), lambda x: x[:, :, None], "decoded samples of shape (4, 1, 8, 8) are no pictures of 1 or 3 channels"),
        ((4, 8, 8), lambda x: x[:, :3], "The samples are latents, shown decoded"),
    ],
)
def test_shapes_that_are_no_pictures_are_named(shape: tuple[int, ...], decode: object, words: str, tmp_path: Path) -> None:
    noise = ttune.NoiseSchedule.linear()
    denoiser = ttune.Denoiser(lambda x, tau: 0.1 * x, noise, sample_shape=shape, decode=decode)  # pyright: ignore[reportArgumentType]
    ttune.Schedule.build(noise, "ddim", 2).save(tmp_path / "s.json")
    page = page_of(tmp_path / "s.json", out=tmp_path / "r.html", denoiser=denoiser, n=2, shown=1)
    assert words in page.text
    assert bool(page.all("img")) == ("latents, shown" in words)
