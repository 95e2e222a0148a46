"""What ``ttune.diffusers.load`` reads from folders and pipelines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ttune
from tests.adapters import diffusers_models as models
from tests.adapters.test_diffusers import assert_same, flux_pipeline, noise, sd3_pipeline, sd_pipeline
from tests.hosts import diffusers
from ttune.cli.models import _lines, load_model
from ttune.evaluation.images.decoded import decoder_identity, decoder_modules

SCHEDULES = {
    "linear": ("DDPM", {}),
    "scaled linear": ("DDIM", {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
    "cosine": ("DDPM", {"beta_schedule": "squaredcos_cap_v2"}),
    "sigmoid": ("DDPM", {"beta_schedule": "sigmoid"}),
    "trained betas": ("DDIM", {"trained_betas": np.linspace(1e-3, 2e-2, 100)}),
    "zero terminal SNR": ("DDIM", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
    "of another sampler": ("EulerDiscrete", {"beta_schedule": "scaled_linear"}),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_noise_schedule_is_the_schedulers(name: str) -> None:
    kind, settings = SCHEDULES[name]
    made = getattr(diffusers(), f"{kind}Scheduler")(**settings)
    found = ttune.diffusers.noise_of(made)
    theirs = made.alphas_cumprod.double().numpy()
    np.testing.assert_allclose(found.alpha(np.arange(len(theirs))) ** 2, theirs, rtol=2e-4, atol=1e-6)  # theirs is float32


def test_the_noise_schedule_of_flow_models() -> None:
    fixed = diffusers().FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert ttune.diffusers.noise_of(fixed) == ttune.NoiseSchedule.flow(3.0)
    dynamic = diffusers().FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    assert ttune.diffusers.noise_of(dynamic, tokens=1024) == ttune.NoiseSchedule.flow_for_tokens(1024)
    dpm = diffusers().DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    assert ttune.diffusers.noise_of(dpm) == ttune.NoiseSchedule.flow(3.0)


@pytest.mark.parametrize("name", ["EDMEuler", "ScoreSdeVe", "KarrasVe", "CMStochasticIterative", "VQDiffusion"])
def test_other_schedulers_are_refused_by_name(name: str) -> None:
    made = getattr(diffusers(), f"{name}Scheduler")(**({"num_vec_classes": 4} if name == "VQDiffusion" else {}))
    with pytest.raises(ValueError, match=f"scheduler must be one of a discrete or a flow matching model, got {name}Scheduler"):
        ttune.diffusers.noise_of(made)


def test_the_settings_of_a_folder(tmp_path: Path) -> None:
    models.ddpm(tmp_path / "plain", clip_sample_range=2.0, prediction_type="v_prediction")
    denoiser = ttune.diffusers.load(tmp_path / "plain")
    assert (denoiser.prediction_type, denoiser.clip_sample, denoiser.threshold) == ("v_prediction", 2.0, None)
    assert (denoiser.sample_shape, denoiser.name, denoiser.decode) == ((1, 8, 8), "UNet2DModel", None)
    assert not any(p.requires_grad for p in denoiser.modules()[0].parameters())
    models.ddpm(tmp_path / "bounded", thresholding=True, sample_max_value=1.5)
    bounded = ttune.diffusers.load(tmp_path / "bounded", dtype=torch.bfloat16)
    assert bounded.threshold == ttune.DynamicThreshold(0.995, 1.5)
    assert {p.dtype for p in bounded.modules()[0].parameters()} == {torch.bfloat16}
    assert bounded.clip_sample is None


def test_a_denoiser_is_the_network_itself(tmp_path: Path) -> None:
    pipeline = models.ddpm(tmp_path)
    x, t = noise(3, 1, 8, 8), torch.tensor([900.25, 500.5, 3.75])
    wanted = pipeline.unet(x, t).sample
    for source in (pipeline, tmp_path, str(tmp_path)):
        network: Any = ttune.diffusers.load(source).network
        assert_same(network(x, t), wanted)
    a, b = ttune.diffusers.load(pipeline), ttune.Denoiser(pipeline.unet, ttune.NoiseSchedule.linear(), clip_sample=1.0)
    assert a.identity()["parameter_shapes"] == b.identity()["parameter_shapes"]


def test_classes_are_drawn_and_guided(tmp_path: Path) -> None:
    models.ddpm(tmp_path / "classes", network=models.unet_2d(num_class_embeds=3))
    denoiser = ttune.diffusers.load(tmp_path / "classes")
    assert denoiser.draw_conditions is not None
    assert denoiser.draw_conditions(torch.arange(5))["class_labels"].tolist() == [0, 1, 2, 0, 1]
    with pytest.raises(ValueError, match="null must say what the condition of the unguided half is, for guidance_scale=2"):
        ttune.diffusers.load(tmp_path / "classes", guidance_scale=2.0)
    parts = {"vae": models.vae(), "scheduler": diffusers().DDIMScheduler(clip_sample=False)}
    models.saved(diffusers().DiTPipeline(transformer=models.dit(), **parts), tmp_path / "dit")
    dit = ttune.diffusers.load(tmp_path / "dit", guidance_scale=2.0)
    assert dit.learned_variance
    assert dit.guidance is not None
    assert dit.guidance.settings() == {"guidance_scale": 2.0}


def test_a_latent_model_makes_pictures(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pipeline = sd_pipeline(tmp_path / "sd")
    denoiser = ttune.diffusers.load(tmp_path / "sd")
    latents = noise(5, 4, 8, 8)
    assert denoiser.decode is not None
    pictures = denoiser.decode(latents)
    wanted = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample.clamp(-1, 1)
    torch.testing.assert_close(pictures, wanted.detach())
    known = decoder_identity(denoiser)
    next(iter(decoder_modules(denoiser)[0].parameters())).data += 1  # the VAE's weights tell decoders apart
    assert known != decoder_identity(denoiser)
    for make, rows in ((sd3_pipeline, noise(2, 4, 8, 8)), (flux_pipeline, noise(2, 16, 16))):
        decode = ttune.diffusers.load(make(tmp_path / make.__name__), height=16, width=16).decode
        assert decode is not None
        assert decode(rows).shape == (2, 3, 16, 16)


def test_flux_rows_are_unpacked_as_its_pipeline_does(tmp_path: Path) -> None:
    from ttune.adapters.diffusers.patches import unpacked

    pytest.importorskip("transformers")
    rows = noise(2, 16, 16)
    for height, width in ((4, 4), (2, 8), (16, 1)):
        theirs = diffusers().FluxPipeline._unpack_latents(rows, 4 * height, 4 * width, 2)
        assert torch.equal(unpacked(rows, (height, width)), theirs)
    for grid in (None, (3, 4)):
        with pytest.raises(ValueError, match=r"x has 16 patches, and .*: load it with height and width"):
            unpacked(rows, grid)


def tiny_clip(projection: bool = False) -> tuple[Any, Any]:
    """A text encoder and a tokenizer that knows letters."""
    transformers = pytest.importorskip("transformers")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokenizer = transformers.CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    tokenizer.model_max_length = 7
    torch.manual_seed(2)
    config = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=7,
        projection_dim=16, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return kind(config).eval(), tokenizer


PROMPTS = ["a cat", "dog", "sea"]


def test_prompts_go_through_the_pipelines_own_encoder(tmp_path: Path) -> None:
    encoder, tokenizer = tiny_clip()
    scheduler = diffusers().DDIMScheduler(clip_sample=False, steps_offset=1)
    made = diffusers().StableDiffusionPipeline(
        unet=models.unet_2d_condition(), vae=models.vae(), text_encoder=encoder, tokenizer=tokenizer, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    folder = models.saved(made, tmp_path)
    denoiser = ttune.diffusers.load(folder, prompts=PROMPTS, guidance_scale=4.0)
    assert denoiser.draw_conditions is not None
    conditions = denoiser.draw_conditions(torch.arange(4))
    pipeline = models.loaded("StableDiffusionPipeline", folder)
    wanted, _ = pipeline.encode_prompt(PROMPTS, torch.device("cpu"), 1, True)
    torch.testing.assert_close(conditions["encoder_hidden_states"], wanted[[0, 1, 2, 0]].detach())
    schedule = ttune.Schedule.build(denoiser.noise, "dpmpp_2m", 3, "log_snr").replace(model=denoiser.identity())
    schedule = schedule.replace(network_times=0.9 * schedule.network_times, model=denoiser.identity())
    ours = ttune.sample(denoiser, schedule, noise(4, 4, 8, 8), conditions=conditions)
    ttune.diffusers.apply(pipeline, schedule)
    texts = [PROMPTS[i % 3] for i in range(4)]
    theirs = pipeline(
        texts, latents=noise(4, 4, 8, 8), height=16, width=16, guidance_scale=4.0, num_inference_steps=3, output_type="latent"
    )
    assert_same(theirs.images, ours)


def test_prompts_and_sizes_of_sdxl(tmp_path: Path) -> None:
    encoder, tokenizer = tiny_clip()
    encoder_2, tokenizer_2 = tiny_clip(projection=True)
    unet = models.unet_2d_condition(
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 16, cross_attention_dim=32
    )
    made = diffusers().StableDiffusionXLPipeline(
        unet=unet, vae=models.vae(), text_encoder=encoder, tokenizer=tokenizer, text_encoder_2=encoder_2, tokenizer_2=tokenizer_2,
        scheduler=diffusers().EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        force_zeros_for_empty_prompt=True, add_watermarker=False,
    )  # fmt: skip
    folder = models.saved(made, tmp_path)
    denoiser = ttune.diffusers.load(folder, prompts=PROMPTS, guidance_scale=4.0)
    assert denoiser.draw_conditions is not None
    conditions = denoiser.draw_conditions(torch.arange(3))
    assert conditions["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 3
    schedule = ttune.Schedule.build(denoiser.noise, "euler", 3, "trailing")
    schedule = schedule.replace(network_times=0.9 * schedule.network_times, model=denoiser.identity())
    ours = ttune.sample(denoiser, schedule, noise(3, 4, 8, 8), conditions=conditions)
    pipeline = models.loaded("StableDiffusionXLPipeline", folder)
    ttune.diffusers.apply(pipeline, schedule)
    theirs = pipeline(
        PROMPTS, latents=noise(3, 4, 8, 8), height=16, width=16, guidance_scale=4.0, num_inference_steps=3, output_type="latent"
    )
    assert_same(theirs.images, ours)


def rewrite(folder: Path, **changes: Any) -> Path:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another network": ({"unet": ["diffusers", "UNet3DConditionModel"]}, "network must be one of .*, got UNet3DConditionModel"),
    "two networks": ({"unet_2": ["diffusers", "UNet2DModel"]}, r"source must have one network, .*got \['unet', 'unet_2'\]"),
    "no network": ({"unet": None}, r"source must have one network, named unet or transformer"),
    "foreign code": ({"scheduler": ["os", "system"]}, "scheduler must be a class of diffusers, got 'system' of 'os'; its code is not run"),
    "a network as scheduler": (
        {"scheduler": ["diffusers", "UNet2DModel"]},
        "scheduler must be a SchedulerMixin, which 'UNet2DModel' of 'diffusers' is not",
    ),
    "a pipeline's name as library": ({"scheduler": ["flux", "X"]}, "scheduler must be a class of diffusers, got 'X' of 'flux'"),
    "no class": ({"scheduler": ["diffusers", "__version__"]}, "scheduler must be a SchedulerMixin, which '__version__' of"),
    "a list": ({"scheduler": ["diffusers", "DDPMScheduler", 3]}, "there must be a scheduler among the components"),
    "no scheduler": ({"scheduler": None}, "there must be a scheduler among the components"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_folder_that_is_not_read(what: str, tmp_path: Path) -> None:
    changes, message = REFUSED[what]
    models.ddpm(tmp_path)
    with pytest.raises(ValueError, match=message):
        ttune.diffusers.load(rewrite(tmp_path, **changes))


def test_a_dtype_in_words_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    wrong: Any = "float16"
    with pytest.raises(TypeError, match=r"dtype must be a torch\.dtype, such as torch\.float16, got 'float16'"):
        ttune.diffusers.load(tmp_path / "nothing is here", dtype=wrong)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    pipeline = models.ddpm(tmp_path / "good")
    folder = tmp_path / "pickled"
    pipeline.save_pretrained(folder, safe_serialization=False)
    with pytest.raises(OSError, match="safetensors"):
        ttune.diffusers.load(folder)


def test_a_pickle_is_not_read_for_a_scheduler(tmp_path: Path) -> None:
    """A network in the scheduler's place, whose weights are a pickle."""
    models.ddpm(tmp_path)
    models.unet_2d().save_pretrained(tmp_path / "scheduler", safe_serialization=False)
    with pytest.raises(ValueError, match="scheduler must be a SchedulerMixin"):
        ttune.diffusers.load(rewrite(tmp_path, scheduler=["diffusers", "UNet2DModel"]))


def test_what_the_hub_gives_is_read_like_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is loaded before it passed the checks of a folder."""
    models.ddpm(tmp_path)
    monkeypatch.setattr(diffusers().DiffusionPipeline, "download", lambda name, **_: str(tmp_path))
    here, hub = (ttune.diffusers.load(name, sample_shape=(3, 8, 8)) for name in (str(tmp_path), "owner/name"))
    assert hub.identity() == here.identity()
    rewrite(tmp_path, scheduler=["os", "system"])
    with pytest.raises(ValueError, match="its code is not run"):
        ttune.diffusers.load("owner/name")


def test_a_class_that_needs_another_package_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.utils import dummy_torch_and_torchsde_objects as dummies

    models.ddpm(tmp_path)
    monkeypatch.setattr(diffusers(), "DPMSolverSDEScheduler", dummies.DPMSolverSDEScheduler)
    with pytest.raises(ImportError, match="torchsde"):
        ttune.diffusers.load(rewrite(tmp_path, scheduler=["diffusers", "DPMSolverSDEScheduler"]))


def test_a_list_of_weights_names_no_pickles(tmp_path: Path) -> None:
    models.ddpm(tmp_path)
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    for content, message in (
        ('{"weight_map": {"a": "b.bin"}}', "weights must be in files .safetensors, got 'b.bin'"),
        ("[]", "not a readable list of weights files"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            ttune.diffusers.load(tmp_path)


def test_a_broken_configuration_is_reported_in_words(tmp_path: Path) -> None:
    models.ddpm(tmp_path)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"num_train_timesteps": "many"}')
    with pytest.raises(ValueError, match=r"its scheduler could not be loaded \("):
        ttune.diffusers.load(tmp_path)


def test_a_file_of_prompts_from_notepad(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes("\ufeffa cat\r\n\r\n  a dog \r\n".encode())
    assert _lines(tmp_path / "prompts.txt") == ["a cat", "a dog"]


def saved_sd(folder: Path) -> Path:
    encoder, tokenizer = tiny_clip()
    made = diffusers().StableDiffusionPipeline(
        unet=models.unet_2d_condition(), vae=models.vae(), text_encoder=encoder, tokenizer=tokenizer,
        scheduler=diffusers().DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return models.saved(made, folder)


TEXT_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no pipeline": ({"_class_name": None}, "_class_name must be a class of diffusers, got None of 'diffusers'"),
    "its own pipeline": ({"_class_name": ["pipeline", "Mine"]}, r"_class_name must be a class of diffusers, got \['pipeline', 'Mine'\]"),
    "a network as pipeline": ({"_class_name": "UNet2DModel"}, "_class_name must be a DiffusionPipeline, which 'UNet2DModel' of"),
    "a pipeline as encoder": (
        {"text_encoder": ["diffusers", "StableDiffusionPipeline"]},
        "text_encoder must be a ModelMixin or PreTrainedModel or .* is not",
    ),
    "a function as encoder": ({"tokenizer": ["transformers", "set_seed"]}, "tokenizer must be a .*, which 'set_seed' of"),
    "foreign code": ({"tokenizer": ["os", "system"]}, "tokenizer must be a class of diffusers or transformers, got 'system' of 'os'"),
    "foreign code that is not loaded": ({"safety_checker": ["antigravity", "X"]}, "safety_checker must be a class of .* of 'antigravity'"),
}


@pytest.mark.parametrize("what", TEXT_REFUSED)
def test_text_encoders_that_are_not_loaded(what: str, tmp_path: Path) -> None:
    changes, message = TEXT_REFUSED[what]
    with pytest.raises(ValueError, match=message):
        ttune.diffusers.load(rewrite(saved_sd(tmp_path), **changes), prompts=PROMPTS)


def test_python_files_beside_text_encoders_are_refused(tmp_path: Path) -> None:
    """Releases of diffusers before the present one run text_encoder/transformers.py."""
    folder = saved_sd(tmp_path)
    ttune.diffusers.load(rewrite(folder, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"]), prompts=PROMPTS)
    for name in ("None.py", "text_encoder/transformers.py"):
        (folder / name).write_text("raise AssertionError('it was run')")
        with pytest.raises(ValueError, match=f"there must be no Python files beside text encoders, .*{name}"):
            ttune.diffusers.load(folder, prompts=PROMPTS)
        (folder / name).unlink()


def test_files_without_an_end_are_not_read(tmp_path: Path) -> None:
    models.ddpm(tmp_path)
    rewrite(tmp_path, more="x" * 2**20)
    with pytest.raises(ValueError, match="a list of components has at most 1048576 bytes"):
        ttune.diffusers.load(tmp_path)
    os.mkfifo(tmp_path / "prompts.txt")
    with pytest.raises(ValueError, match="a file of prompts must be a regular file"):
        load_model(str(tmp_path), prompts=tmp_path / "prompts.txt")
    (tmp_path / "latin.txt").write_bytes("Käse".encode("latin-1"))
    with pytest.raises(ValueError, match=r"prompts: .*latin\.txt must be text in UTF-8"):
        load_model(str(tmp_path), prompts=tmp_path / "latin.txt")


def test_what_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"there must be a model_index\.json"):
        ttune.diffusers.load(tmp_path)
    (tmp_path / "model_index.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="not a readable list of components"):
        ttune.diffusers.load(tmp_path)
    with pytest.raises(TypeError, match="source must be a folder, a hub id or a diffusers pipeline with a scheduler, got int"):
        ttune.diffusers.load(3)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="'nobody/nothing' is no folder here, and as a hub id it could not be loaded, which needs a network"):
        load_model("nobody/nothing")
    with pytest.raises(ValueError, match="prompts are for text-conditional diffusers models"):
        load_model("fashion", prompts=tmp_path / "prompts.txt")


def test_conditions_must_be_all_there(tmp_path: Path) -> None:
    pipeline = sd3_pipeline(tmp_path)
    rows = torch.zeros(2, 7, 16)
    with pytest.raises(ValueError, match=r"conditions must give \['pooled_projections'\] too"):
        ttune.diffusers.load(pipeline, conditions={"encoder_hidden_states": rows})
    with pytest.raises(ValueError, match="conditions must have the same number of entries"):
        ttune.diffusers.load(pipeline, conditions={"encoder_hidden_states": rows, "pooled_projections": torch.zeros(3, 16)})
    with pytest.raises(ValueError, match="prompts and conditions cannot both be given"):
        ttune.diffusers.load(pipeline, prompts=["a"], conditions={"encoder_hidden_states": rows})


def test_a_text_model_without_prompts_says_what_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    denoiser = ttune.diffusers.load(sd_pipeline(tmp_path))
    schedule = ttune.Schedule.build(denoiser.noise, "ddim", 2)
    with pytest.raises(ValueError, match=r"conditions must give \['encoder_hidden_states'\] to UNet2DConditionModel, got \[\]: load it"):
        ttune.sample(denoiser, schedule, noise(1, 4, 8, 8))


def test_gradients_reach_the_time_and_the_state(tmp_path: Path) -> None:
    denoiser: Any = ttune.diffusers.load(models.ddpm(tmp_path).to(torch.float64))
    x, tau = noise(2, 1, 8, 8).double().requires_grad_(), torch.tensor([700.25, 3.5], dtype=torch.float64, requires_grad=True)
    weights = noise(2, 1, 8, 8).double()
    # diffusers makes the sinusoids in float32.
    of_x, of_tau = torch.autograd.grad((weights * denoiser.network(x, tau)).sum(), (x, tau))
    with torch.no_grad():
        for step, gradient, ahead, behind in (
            (1e-2, of_tau[0], (x, tau + torch.tensor([1e-2, 0.0])), (x, tau - torch.tensor([1e-2, 0.0]))),
            (1e-5, of_x[1, 0, 2, 2], (x + 1e-5 * one(x, (1, 0, 2, 2)), tau), (x - 1e-5 * one(x, (1, 0, 2, 2)), tau)),
        ):
            difference = (weights * (denoiser.network(*ahead) - denoiser.network(*behind))).sum() / (2 * step)
            assert float(gradient) == pytest.approx(float(difference), rel=2e-2)


def one(x: Tensor, at: tuple[int, ...]) -> Tensor:
    made = torch.zeros_like(x)
    made[at] = 1
    return made


def test_a_bundled_name_is_not_shadowed_by_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fashion").mkdir()
    bundled = object()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ttune.zoo.load", lambda name, guidance_scale: bundled)
    assert load_model("fashion") is bundled
    with pytest.raises(ValueError, match=r"the folder of that name is \./fashion"):
        load_model("fashion", prompts=tmp_path / "prompts.txt")
    with pytest.raises(ValueError, match="model_index"):
        load_model("./fashion")
