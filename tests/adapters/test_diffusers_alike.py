"""A loaded denoiser calls the network as the pipeline itself does, and samples what it samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ttune
from tests.adapters import diffusers_models as models
from tests.adapters.test_diffusers import assert_same
from tests.adapters.test_diffusers_load import tiny_clip
from tests.hosts import diffusers
from ttune.cli.main import main

pytest.importorskip("transformers")
PROMPTS = ["a cat", "sea"]
XL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "cross_attention_dim": 32}


def noise(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scheduler(kind: str = "DDIMScheduler", **more: Any) -> Any:
    settings = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
    return getattr(diffusers(), kind)(**settings | {"timestep_spacing": "trailing"} | more)


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sd(kind: str = "StableDiffusionPipeline", scheduled: Any = None, **unet: Any) -> Any:
    encoder, tokenizer = tiny_clip()
    parts = {"vae": models.vae(), "text_encoder": encoder, "tokenizer": tokenizer, "scheduler": scheduled or scheduler()}
    parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return quiet(getattr(diffusers(), kind)(unet=models.unet_2d_condition(**unet), **parts))


def lcm() -> Any:
    return sd("LatentConsistencyModelPipeline", scheduled=diffusers().LCMScheduler(), time_cond_proj_dim=8)


def sdxl(kind: str = "StableDiffusionXLPipeline", ids: int = 6, **more: Any) -> Any:
    encoder, tokenizer = tiny_clip()
    encoder_2, tokenizer_2 = tiny_clip(projection=True)
    unet = models.unet_2d_condition(**XL | {"projection_class_embeddings_input_dim": ids * 8 + 16} | more.pop("unet", {}))
    parts = {"text_encoder": encoder, "tokenizer": tokenizer, "text_encoder_2": encoder_2, "tokenizer_2": tokenizer_2}
    made = getattr(diffusers(), kind)(unet=unet, vae=models.vae(), scheduler=scheduler(), add_watermarker=False, **parts, **more)
    return quiet(made)


def sd3() -> Any:
    (encoder, tokenizer), (encoder_2, tokenizer_2) = tiny_clip(projection=True), tiny_clip(projection=True)
    made = diffusers().StableDiffusion3Pipeline(
        transformer=models.sd3(joint_attention_dim=32, pooled_projection_dim=32), vae=models.vae(), text_encoder_3=None, tokenizer_3=None,
        scheduler=diffusers().FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=encoder, tokenizer=tokenizer, text_encoder_2=encoder_2, tokenizer_2=tokenizer_2,
    )  # fmt: skip
    return quiet(made)


def flux(**network: Any) -> Any:
    class Pipeline(diffusers().FluxPipeline):
        """Its text encoders are stood in for by numbers of the prompts."""

        def encode_prompt(self, prompt: Any = None, prompt_2: Any = None, prompt_embeds: Any = None, **_: Any) -> tuple[Tensor, ...]:
            rows = [noise(7, 16, seed=len(text)) for text in ([prompt] if isinstance(prompt, str) else prompt)]
            embeds = torch.stack(rows)
            return embeds, embeds[:, 0], torch.zeros(7, 3)

    absent = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    made = Pipeline(
        transformer=models.flux(**network), vae=models.vae(4, shift_factor=0.1),
        scheduler=diffusers().FlowMatchEulerDiscreteScheduler(shift=3.0), **absent,
    )  # fmt: skip
    return quiet(made)


def with_ip_adapter() -> Any:
    """SD with an adapter of random weights; its image embeddings have 4 numbers."""
    pipeline, weights = sd(), {}
    cross = [name for name in pipeline.unet.attn_processors if not name.endswith("attn1.processor")]
    for i, name in enumerate(cross):
        size = pipeline.unet.get_submodule(name.removesuffix(".processor")).to_q.weight.shape[0]
        weights |= {f"{2 * i + 1}.to_{one}_ip.weight": noise(size, 16, seed=10 + i) for one in "kv"}
    project = {"proj.weight": noise(64, 4), "proj.bias": noise(64), "norm.weight": torch.ones(16), "norm.bias": torch.zeros(16)}
    pipeline.unet._load_ip_adapter_weights([{"image_proj": project, "ip_adapter": weights}], low_cpu_mem_usage=False)
    pipeline.unet.eval()
    return pipeline


SIZE = {"height": 16, "width": 16}
EMBEDS = noise(1, 1, 4, seed=8)  # (rows, images, numbers)
IMAGE, MASK = noise(1, 3, 16, 16).clamp(-1, 1), (noise(1, 1, 16, 16, seed=5) > 0).float()


@dataclass(frozen=True)
class Case:
    """A pipeline, what ``load`` and what its call get beside prompts and size."""

    make: Callable[[], Any]
    load: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    latents: tuple[int, ...] = (2, 4, 8, 8)
    size: dict[str, int] = field(default_factory=lambda: SIZE)
    runs: bool = True  # with the DDIM or Euler steps of its own scheduler, from the latents


CASES = {
    "SD, guided": Case(sd, {"guidance_scale": 4.0, "negative_prompt": "dog"}, {"guidance_scale": 4.0, "negative_prompt": ["dog"] * 2}),
    "SD, no square": Case(sd, {"guidance_scale": 4.0}, {"guidance_scale": 4.0}, (2, 4, 4, 12), {"height": 8, "width": 24}),
    "SD at 0": Case(sd, {"guidance_scale": 0.0}, {"guidance_scale": 0.0}),
    "SD at 1": Case(sd, {"guidance_scale": 1.0}, {"guidance_scale": 1.0}),
    "SD with its guidance as an input": Case(lambda: sd(time_cond_proj_dim=8)),
    "and a scale": Case(lambda: sd(time_cond_proj_dim=8), {"guidance_scale": 2.0}, {"guidance_scale": 2.0}),
    "SD, IP-Adapter": Case(
        with_ip_adapter,
        {"guidance_scale": 4.0, "conditions": {"image_embeds": EMBEDS}},
        {"guidance_scale": 4.0, "ip_adapter_image_embeds": [torch.cat([0 * EMBEDS, EMBEDS])]},
    ),
    "SD, IP-Adapter, no guidance": Case(
        with_ip_adapter,
        {"conditions": {"image_embeds": [EMBEDS]}},
        {"guidance_scale": 1.0, "ip_adapter_image_embeds": [EMBEDS]},
    ),
    "LCM": Case(lcm, runs=False),
    "SDXL": Case(sdxl, {"guidance_scale": 4.0}, {"guidance_scale": 4.0}),
    "SDXL, a negative prompt": Case(
        sdxl, {"guidance_scale": 4.0, "negative_prompt": "dog"}, {"guidance_scale": 4.0, "negative_prompt": ["dog"] * 2}
    ),
    "SDXL, prompts of no text as text": Case(
        lambda: sdxl(force_zeros_for_empty_prompt=False), {"guidance_scale": 4.0}, {"guidance_scale": 4.0}
    ),
    "SDXL at 0, no square": Case(sdxl, {"guidance_scale": 0.0}, {"guidance_scale": 0.0}, (2, 4, 4, 12), {"height": 8, "width": 24}),
    "SDXL, its guidance as an input": Case(lambda: sdxl(unet={"time_cond_proj_dim": 8}), {}, {}),
    "SDXL image to image": Case(
        lambda: sdxl("StableDiffusionXLImg2ImgPipeline"),
        {"guidance_scale": 4.0},
        {"guidance_scale": 4.0, "image": IMAGE},
        runs=False,
    ),
    "SDXL image to image, its scores": Case(
        lambda: sdxl("StableDiffusionXLImg2ImgPipeline", ids=5, requires_aesthetics_score=True),
        {"guidance_scale": 4.0},
        {"guidance_scale": 4.0, "image": IMAGE},
        runs=False,
    ),
    "SDXL inpainting": Case(
        lambda: sdxl("StableDiffusionXLInpaintPipeline"),
        {"guidance_scale": 4.0},
        {"guidance_scale": 4.0, "image": IMAGE, "mask_image": MASK, **SIZE},
        runs=False,
    ),
    "SD3": Case(sd3, {"guidance_scale": 4.0}, {"guidance_scale": 4.0}),
    "SD3 at 0": Case(sd3, {"guidance_scale": 0.0}, {"guidance_scale": 0.0}),
    "FLUX.1-dev": Case(flux, latents=(2, 16, 16)),
    "FLUX.1-dev at 2": Case(flux, {"guidance_scale": 2.0}, {"guidance_scale": 2.0}, (2, 16, 16)),
    "FLUX.1-dev, 8 x 32": Case(flux, latents=(2, 16, 16), size={"height": 8, "width": 32}),
    "FLUX.1-schnell": Case(lambda: flux(guidance_embeds=False), {"guidance_scale": 0.0}, {"guidance_scale": 0.0}, (2, 16, 16)),
}


@cache
def pipeline_of(name: str) -> Any:
    return CASES[name].make()


def network_of(pipeline: Any) -> Any:
    return pipeline.components.get("unet") or pipeline.components["transformer"]


def recorded(network: Any, run: Callable[[], Any]) -> dict[str, Any]:
    """What the first call of ``network`` gets, by name."""
    import inspect

    seen: list[dict[str, Any]] = []

    def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(inspect.signature(module.forward).bind(*args, **kwargs).arguments)

    handle = network.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    return seen[0]


def flat(value: Any) -> dict[str, Tensor]:
    """Tensors by their paths."""
    if isinstance(value, Tensor):
        return {"": value}
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {f"{key}.{path}".rstrip("."): one for key, inner in pairs for path, one in flat(inner).items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_the_network_gets_what_the_pipeline_gives_it(name: str) -> None:
    case, pipeline = CASES[name], pipeline_of(name)
    x, network = noise(*case.latents), network_of(pipeline)
    call = {"num_inference_steps": 4, "output_type": "latent", **case.call}
    call |= {} if "image" in case.call else {"latents": x.clone(), **case.size}
    theirs = flat(recorded(network, lambda: pipeline(PROMPTS, **call)))
    denoiser = ttune.diffusers.load(pipeline, prompts=PROMPTS, **case.size, **case.load)
    assert denoiser.draw_conditions is not None
    conditions = denoiser.draw_conditions(torch.arange(2))
    with torch.no_grad():
        ours = flat(recorded(network, lambda: denoiser.outputs(x, float(denoiser.noise.t_max), conditions)))
    guided = isinstance(denoiser.guidance, ttune.ClassifierFree)
    # Which time it is is the schedule's affair, and an image's latents are the image's.
    apart = {"timestep", *(("sample",) if "image" in case.call else ())}
    theirs, ours = ({key: value for key, value in one.items() if key not in apart} for one in (theirs, ours))
    assert theirs.keys() == ours.keys()
    for key, value in theirs.items():
        # Of a batch of both halves pipelines have the null one first.
        mine = ours[key].roll(2, 0) if guided and ours[key].shape[:1] == (4,) else ours[key]
        torch.testing.assert_close(mine.float(), value.float(), rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


def own_grid(pipeline: Any, noise_schedule: ttune.NoiseSchedule, steps: int) -> ttune.Schedule:
    """The untuned schedule of the pipeline's own scheduler."""
    if noise_schedule.discrete_steps is not None:
        return ttune.Schedule.build(noise_schedule, "ddim", steps, "trailing")
    # Pipelines of flow models hand over sigmas of their own, so what was stepped on last is asked.
    return ttune.Schedule.build(noise_schedule, "euler", steps, pipeline.scheduler.sigmas.double().numpy())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.runs])
def test_an_untuned_schedule_samples_what_the_pipeline_samples(name: str) -> None:
    """By the pipeline's own scheduler: nothing of ttune's is applied to it."""
    case, pipeline = CASES[name], pipeline_of(name)
    x = noise(*case.latents)
    call = {"latents": x.clone(), "num_inference_steps": 4, "output_type": "latent", **case.size, **case.call}
    theirs = pipeline(PROMPTS, **call).images
    denoiser = ttune.diffusers.load(pipeline, prompts=PROMPTS, **case.size, **case.load)
    assert denoiser.sample_shape == case.latents[1:]
    assert denoiser.draw_conditions is not None
    ours = ttune.sample(denoiser, own_grid(pipeline, denoiser.noise, 4), x, conditions=denoiser.draw_conditions(torch.arange(2)))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    if denoiser.decode is not None:
        rows, columns = case.size["height"], case.size["width"]
        assert denoiser.decode(ours).shape == (2, 3, rows, columns)


@pytest.mark.filterwarnings("ignore")
def test_an_inpainting_network_sees_the_mask_and_the_masked_image() -> None:
    pipeline = sd("StableDiffusionInpaintPipeline", in_channels=9)
    x, call = noise(2, 4, 8, 8), {"num_inference_steps": 4, "output_type": "latent", "guidance_scale": 4.0, **SIZE}
    call |= {"image": IMAGE, "mask_image": MASK, "strength": 1.0}

    def run() -> Tensor:
        return pipeline(PROMPTS, latents=x.clone(), generator=torch.Generator().manual_seed(0), **call).images

    theirs, seen = run(), recorded(pipeline.unet, run)["sample"]
    with pytest.raises(ValueError, match=r"conditions must give \['extra_channels'\] too"):
        ttune.diffusers.load(pipeline, prompts=PROMPTS, guidance_scale=4.0)
    denoiser = ttune.diffusers.load(pipeline, prompts=PROMPTS, guidance_scale=4.0, conditions={"extra_channels": seen[:1, 4:]})
    assert denoiser.sample_shape == (4, 8, 8)
    assert denoiser.draw_conditions is not None
    ours = ttune.sample(denoiser, own_grid(pipeline, denoiser.noise, 4), x, conditions=denoiser.draw_conditions(torch.arange(2)))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_classes_beside_prompts() -> None:
    pipeline = sd(num_class_embeds=3)
    drawn = ttune.diffusers.load(pipeline, prompts=PROMPTS).draw_conditions
    assert drawn is not None
    assert drawn(torch.arange(4))["class_labels"].tolist() == [0, 1, 2, 0]
    given = ttune.diffusers.load(pipeline, prompts=PROMPTS, conditions={"class_labels": torch.tensor([2, 1])}).draw_conditions
    assert given is not None
    assert given(torch.arange(3))["class_labels"].tolist() == [2, 1, 2]


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "prompts twice": (sd, {"conditions": {"encoder_hidden_states": noise(2, 7, 16)}}, "cannot both be given for .*encoder_hidden_states"),
    "counts that differ": (sd, {"conditions": {"image_embeds": noise(3, 1, 4)}}, "conditions must have the same number of entries"),
    "classes of none": (sd, {"conditions": {"class_labels": torch.tensor([1, 2])}}, "class_labels: this network has no classes"),
    "classes beyond": (
        lambda: sd(num_class_embeds=3),
        {"conditions": {"class_labels": torch.tensor([1, 9])}},
        r"class_labels must lie in \[0, 2\], got \[1, 9\]",
    ),
    "one side": (sd, {"height": 16}, "height and width go together"),
    "a size that does not fit": (sd, {"height": 16, "width": 17}, "width must be a multiple of 2 pixels for this model, got 17"),
    "of patches neither": (flux, {"height": 16, "width": 18}, "width must be a multiple of 4 pixels for this model, got 18"),
    "two sizes": (sd, {"sample_shape": (4, 8, 8), **SIZE}, "sample_shape and height, width cannot both be given"),
    "guidance of a network without": (lambda: flux(guidance_embeds=False), {"guidance_scale": 3.5}, "this network has no guidance"),
    "guidance twice": (
        flux,
        {"guidance_scale": 3.5, "conditions": {"guidance": torch.tensor([2.0, 2.0])}},
        r"guidance_scale and conditions\['guidance'\] say the same",
    ),
    "guidance by an image": (
        lambda: sd("StableDiffusionInstructPix2PixPipeline", in_channels=8),
        {"guidance_scale": 7.5, "conditions": {"extra_channels": noise(1, 4, 8, 8)}},
        "guides by its image too",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", REFUSED)
def test_what_says_too_much_or_does_not_fit_is_refused_by_name(what: str) -> None:
    make, given, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        ttune.diffusers.load(make(), prompts=PROMPTS, **given)


def test_guidance_without_prompts_says_what_to_type() -> None:
    with pytest.raises(ValueError, match=r"guidance_scale=7.5 needs prompts: pass prompts=.* \(--prompts FILE\)"):
        ttune.diffusers.load(sd(), guidance_scale=7.5)
    unconditional = quiet(diffusers().DDPMPipeline(unet=models.unet_2d(), scheduler=diffusers().DDPMScheduler()))
    with pytest.raises(ValueError, match=r"guidance_scale=7.5 is for models with conditions, and this network has none; leave it out"):
        ttune.diffusers.load(unconditional, guidance_scale=7.5)


def test_a_negative_prompt_that_nothing_reads_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="negative_prompt is not used"):
        ttune.diffusers.load(sd(), prompts=PROMPTS, negative_prompt="dog", guidance_scale=0.0)


def test_an_image_of_patches_is_never_guessed() -> None:
    pipeline = flux()
    with pytest.warns(UserWarning, match="16 patches are taken for a square image of 4 x 4 patches; height=16 and width=16"):
        assert ttune.diffusers.load(pipeline, prompts=PROMPTS, sample_shape=(16, 16)).sample_shape == (16, 16)
    large = ttune.diffusers.load(pipeline, prompts=PROMPTS)
    assert large.draw_conditions is not None
    conditions, x = large.draw_conditions(torch.arange(2)), noise(2, 16, 16)
    with pytest.raises(ValueError, match=r"x has 16 patches, and the model was loaded for 64 x 64: .*--height"):
        large.outputs(x, 0.5, conditions)
    ids = diffusers().FluxPipeline._prepare_latent_image_ids(2, 2, 8, torch.device("cpu"), torch.float32)
    wide = ttune.diffusers.load(pipeline, prompts=PROMPTS, height=8, width=32)
    torch.testing.assert_close(large.outputs(x, 0.5, conditions | {"img_ids": ids}), wide.outputs(x, 0.5, conditions))


def test_a_table_of_patches_is_no_row_of_each_sample() -> None:
    """Also where there are as many samples as patches."""
    denoiser, x = ttune.diffusers.load(flux(), prompts=PROMPTS, height=8, width=32), noise(16, 16, 16)
    assert denoiser.draw_conditions is not None
    conditions, schedule = denoiser.draw_conditions(torch.arange(16)), ttune.Schedule.build(denoiser.noise, "euler", 2, "linspace")
    ids = diffusers().FluxPipeline._prepare_latent_image_ids(2, 2, 8, torch.device("cpu"), torch.float32)
    found = ttune.sample(denoiser, schedule, x, conditions=conditions | {"img_ids": ids})
    torch.testing.assert_close(found, ttune.sample(denoiser, schedule, x, conditions=conditions))


class OwnPipeline(models.diffusers().DDPMPipeline):
    """One that calls what decodes by a name of its own."""

    def __init__(self, unet: Any, scheduler: Any, painter: Any) -> None:
        super().__init__(unet, scheduler)
        self.register_modules(painter=painter)


LATENT: dict[str, tuple[str, Callable[[Any, Tensor], Tensor]]] = {
    "OwnPipeline": ("painter", lambda vae, z: vae.decode(z / vae.config.scaling_factor).sample),
    "LDMPipeline": ("vqvae", lambda vae, z: vae.decode(z / vae.config.scaling_factor).sample),
    "KandinskyV22Pipeline": ("movq", lambda vae, z: vae.decode(z, force_not_quantize=True).sample),
}


@pytest.mark.parametrize("kind", LATENT)
def test_whatever_decodes_is_found(kind: str) -> None:
    name, decode = LATENT[kind]
    torch.manual_seed(0)
    vae = diffusers().VQModel(
        block_out_channels=(4, 4), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3, norm_num_groups=2, num_vq_embeddings=8,
    ).eval()  # fmt: skip
    unet = models.unet_2d(in_channels=3, out_channels=3)
    made = OwnPipeline if kind == "OwnPipeline" else getattr(diffusers(), kind)
    pipeline = made(unet=unet, scheduler=scheduler(), **{name: vae})
    denoiser, z = ttune.diffusers.load(pipeline, height=16, width=8), noise(2, 3, 8, 4)
    assert denoiser.sample_shape == (3, 8, 4)
    assert denoiser.decode is not None
    with torch.no_grad():
        torch.testing.assert_close(denoiser.decode(z), decode(vae, z).clamp(-1, 1))


def saved_half(folder: Path) -> Any:
    """SD in half precision, in files of the variant "fp16" alone; the pipeline in float32."""
    pipeline = sd()
    pipeline.to(torch.float16).save_pretrained(folder, variant="fp16")
    return pipeline.to(torch.float32)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scale", [4.0, 0.0])
def test_the_command_line_samples_what_the_pipeline_samples(scale: float, tmp_path: Path) -> None:
    """A folder of a variant, a size that is no square, a prompts file from Notepad, a negative prompt."""
    from ttune.tuning.starting_points import drawn_points

    pipeline = saved_half(tmp_path / "sd")
    (tmp_path / "prompts.txt").write_bytes("\ufeffa cat\r\n\r\nsea\r\n".encode())
    flags = ["--prompts", tmp_path / "prompts.txt", "--guidance-scale", scale, "--negative-prompt", "dog", "--height", 8, "--width", 24]
    flags += ["--dtype", "float32", "--device", "cpu", *(["--variant", "fp16"] if scale else [])]
    run = ["sample", "--model", tmp_path / "sd", "--sampler", "ddim", "--steps", 4, "--spacing", "trailing", "--samples", 2]
    main([str(word) for word in [*run, *flags, "--out", tmp_path / "x.npz"]])
    shape = ttune.diffusers.load(tmp_path / "sd", height=8, width=24)
    x_T, _ = drawn_points(shape, torch.arange(2))
    theirs = pipeline(
        PROMPTS, negative_prompt=["dog"] * 2, latents=x_T, height=8, width=24, guidance_scale=scale, num_inference_steps=4,
        output_type="latent",
    ).images  # fmt: skip
    ours = torch.from_numpy(np.load(tmp_path / "x.npz")["images"])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("command", ["tune", "sample", "evaluate", "compare", "report", "info"])
def test_every_command_loads_models_by_the_same_flags(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    for flag in ["guidance-scale", "prompts", "negative-prompt", "class-labels", "height", "width", "dtype", "device", "variant"]:
        assert f"--{flag} " in shown
    assert "--batch-size" in shown or command == "info"


@pytest.mark.filterwarnings("ignore")
def test_a_schedule_knows_the_guidance_that_is_an_input() -> None:
    pipeline, x = flux(), noise(2, 16, 16)
    denoiser = ttune.diffusers.load(pipeline, prompts=PROMPTS, guidance_scale=2.0, **SIZE)
    schedule = ttune.Schedule.build(denoiser.noise, "euler", 3, "linspace")
    schedule = schedule.replace(network_times=0.9 * schedule.network_times, model=denoiser.identity())
    assert (schedule.model["guidance_scale"], schedule.model["guidance"]) == (2.0, "input")
    assert denoiser.draw_conditions is not None
    ours = ttune.sample(denoiser, schedule, x, conditions=denoiser.draw_conditions(torch.arange(2)))
    ttune.diffusers.apply(pipeline, schedule)
    call = {"latents": x, "num_inference_steps": 3, "output_type": "latent", **SIZE}
    assert_same(pipeline(PROMPTS, guidance_scale=2.0, **call).images, ours)
    with pytest.raises(ValueError, match=r"guidance_scale must be 2 .*got 3.5"):
        pipeline(PROMPTS, **call)


class Guided:
    """What the check of guidance sees of a pipeline."""

    def __init__(self, scale: float, guides: bool, **more: Any) -> None:
        self.guidance_scale, self.do_classifier_free_guidance = scale, guides
        self.__dict__ |= more


class ZImagePipeline(Guided):
    """Its guidance is added to the conditional prediction."""


GUIDES: dict[str, tuple[Any, dict[str, Any], str | None]] = {
    "alike": (Guided(3.0, True), {"guidance_scale": 3.0}, None),
    "none at 0": (Guided(0.0, False), {"guidance_scale": None}, None),
    "none at 1": (Guided(0.0, False), {"guidance_scale": 1.0}, None),
    "the unguided half": (Guided(0.0, False), {"guidance_scale": 0.0}, r"must be 0 .* got 1 .*ClassifierFree\(0.0\)"),
    "another scale": (Guided(3.0, True), {"guidance_scale": 4.0}, "guidance_scale must be 4 .* got 3 "),
    "rescaled": (Guided(3.0, True, guidance_rescale=0.5), {"guidance_scale": 3.0}, r"rescale 0\), .* \(0.5\)"),
    "added to one": (ZImagePipeline(2.0, True), {"guidance_scale": 3.0}, None),
    "added to none": (ZImagePipeline(0.0, False), {"guidance_scale": None}, None),
    "a second network": (Guided(3.0, True, _guidance_scale_2=2.0), {"guidance_scale": 3.0}, "guidance_scale_2 must be 3"),
    "perturbed attention": (
        Guided(3.0, True, do_perturbed_attention_guidance=True, pag_scale=3.0),
        {"guidance_scale": 3.0},
        "pag_scale must be 0",
    ),
    "input": (Guided(7.5, False), {"guidance_scale": 7.5, "guidance": "input"}, None),
    "another input": (Guided(5.0, False), {"guidance_scale": 7.5, "guidance": "input"}, "guidance_scale must be 7.5 .* got 5 "),
    "nothing remembered": (Guided(5.0, True), {}, None),
}


@pytest.mark.parametrize("what", GUIDES)
def test_a_pipeline_guides_as_the_schedule_was_tuned(what: str) -> None:
    from ttune.adapters.diffusers.guidance import check_pipeline_guides_alike

    pipeline, model, message = GUIDES[what]
    if message is None:
        check_pipeline_guides_alike(pipeline, model)
    else:
        with pytest.raises(ValueError, match=message):
            check_pipeline_guides_alike(pipeline, model)


def test_a_negative_prompt_goes_with_prompts() -> None:
    with pytest.raises(ValueError, match=r"negative_prompt must be one text that goes with prompts \(--prompts FILE\), got 'dog'"):
        ttune.diffusers.load(sd(), negative_prompt="dog", guidance_scale=4.0)


def test_guidance_of_earlier_schedules() -> None:
    """A scale of 1 is no guidance, and Flux's was among the conditions, of which nothing was written."""
    denoiser = ttune.diffusers.load(sd(), prompts=PROMPTS, guidance_scale=1.0)
    assert denoiser.guidance is None
    assert denoiser.differences(denoiser.identity() | {"guidance_scale": 1.0}) == []
    assert denoiser.differences(denoiser.identity() | {"guidance_scale": 0.0}) != []
    distilled = ttune.diffusers.load(flux(), prompts=PROMPTS, **SIZE)
    earlier = {name: value for name, value in distilled.identity().items() if name != "guidance"} | {"guidance_scale": None}
    assert distilled.differences(earlier) == []
    assert distilled.differences(distilled.identity() | {"guidance_scale": 2.0}) != []


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_a_forgotten_model_is_asked_for(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schedule = ttune.Schedule.build(ttune.NoiseSchedule.linear(), "ddim", 2).replace(model={"name": "UNet2DModel"})
    schedule.save(tmp_path / "ttune.json")
    given = {"sample": ["--schedule", "ttune.json", "--out", "x.npz"], "evaluate": ["ttune.json"]}[command]
    with pytest.raises(SystemExit, match=r"ttune.json was tuned for 'UNet2DModel': pass --model with its folder"):
        main([command, *(str(tmp_path / word) if "." in word else word for word in given)])


def test_what_load_returns_can_be_frozen() -> None:
    denoiser = ttune.diffusers.load(sd(), prompts=PROMPTS[:1], guidance_scale=4.0)
    assert denoiser.draw_conditions is not None
    schedule, conditions = ttune.Schedule.build(denoiser.noise, "ddim", 2), denoiser.draw_conditions(torch.zeros(2, dtype=torch.int64))
    x = noise(2, 4, 8, 8)
    before = ttune.sample(denoiser, schedule, x, conditions=conditions)
    frozen = ttune.freeze_time(denoiser, schedule, conditions, batch=2)
    torch.testing.assert_close(ttune.sample(denoiser, schedule, x, conditions=conditions), before)
    frozen.undo()


@pytest.mark.filterwarnings("ignore")
def test_an_image_in_the_place_of_a_text() -> None:
    """Kandinsky 2.2: the pipeline gives its network image embeddings and no text."""
    kinds = {"addition_embed_type": "image", "encoder_hid_dim_type": "image_proj", "encoder_hid_dim": 6}
    unet = models.unet_2d_condition(**kinds, time_embedding_dim=None)
    movq = diffusers().VQModel(latent_channels=4, norm_num_groups=2, block_out_channels=(4,), num_vq_embeddings=8)
    pipeline = quiet(diffusers().KandinskyV22Pipeline(unet=unet, scheduler=scheduler(), movq=movq))
    with pytest.raises(ValueError, match=r"conditions must give \['image_embeds'\] to UNet2DConditionModel"):
        ttune.diffusers.load(pipeline).outputs(noise(2, 4, 8, 8), 500.0)
    rows, null = noise(2, 6), noise(1, 6, seed=4)
    denoiser = ttune.diffusers.load(pipeline, conditions={"image_embeds": rows}, null={"image_embeds": null}, guidance_scale=4.0)
    assert denoiser.draw_conditions is not None
    conditional, without = denoiser.outputs(noise(2, 4, 8, 8), 500.0, denoiser.draw_conditions(torch.arange(2)))
    for output, embeds in ((conditional, rows), (without, null.expand(2, -1))):
        wanted = unet(noise(2, 4, 8, 8), 500.0, None, added_cond_kwargs={"image_embeds": embeds}).sample
        torch.testing.assert_close(output, wanted)
