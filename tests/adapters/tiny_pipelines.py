"""diffusers' pipelines with networks of one layer and random weights, one builder each, in the registry ``PIPELINES``.

``python -m benchmarks support`` runs all of them (docs/reference/support.md), the tests some.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.adapters import diffusers_models as models
from tests.adapters.tiny_networks import NETWORKS
from tests.hosts import diffusers

DISCRETE, FLOW = "DDIM", "FlowMatchEulerDiscrete"


@dataclass(frozen=True)
class Tiny:
    """``make(scheduler)`` builds the pipeline; ``call`` are the arguments of a call of it, beside steps and generator. ``scheduler`` is one
    whose steps ttune's ``ddim`` (discrete models) or ``euler`` (flow models) make, with ``settings``. ``refused``: words of the reason,
    where ``apply`` has to refuse it."""

    make: Callable[[Any], Any]
    call: Callable[[], Mapping[str, Any]]
    scheduler: str = DISCRETE
    settings: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""

    def build(self) -> Any:
        torch.manual_seed(0)
        pipeline = self.make(scheduler_of(self.scheduler, **self.settings))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def scheduler_of(name: str, **settings: Any) -> Any:
    if name == DISCRETE:
        settings = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False} | settings
        settings = {"timestep_spacing": "trailing"} | settings
    return getattr(diffusers(), f"{name}Scheduler")(**settings)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def absent(*names: str) -> dict[str, None]:
    return dict.fromkeys(names)


def encoders(count: int) -> dict[str, None]:
    return absent(*(f"{kind}{f'_{i}' if i > 1 else ''}" for kind in ("text_encoder", "tokenizer") for i in range(1, count + 1)))


def network(kind: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    return models.scrambled(getattr(diffusers(), kind)(**NETWORKS.get(kind, {}) | settings), 0.05)


def texts(width: int = 16, *, mask: bool = False, pooled: bool = False, length: int = 7) -> dict[str, Tensor]:
    """Embeddings of a prompt and of a negative one."""
    made = {"prompt_embeds": rand(1, length, width, seed=1), "negative_prompt_embeds": rand(1, length, width, seed=2)}
    if mask:
        made |= dict.fromkeys(("prompt_attention_mask", "negative_prompt_attention_mask"), torch.ones(1, length, dtype=torch.long))
    if pooled:
        made |= {"pooled_prompt_embeds": rand(1, 16, seed=3), "negative_pooled_prompt_embeds": rand(1, 16, seed=4)}
    return made


def size(side: int = 16, **more: Any) -> dict[str, Any]:
    return {"height": side, "width": side, "output_type": "latent", **more}


def made(kind: str, scheduler: Any, **parts: Any) -> Any:
    return getattr(diffusers(), kind)(scheduler=scheduler, **parts)


def sd(kind: str, *, unet: Mapping[str, Any] = {}, **parts: Any) -> Callable[[Any], Any]:
    def make(scheduler: Any) -> Any:
        own = absent("text_encoder", "tokenizer", "safety_checker", "feature_extractor") | {"requires_safety_checker": False}
        built = {name: part() if callable(part) else part for name, part in parts.items()}
        return made(kind, scheduler, unet=models.unet_2d_condition(**unet), vae=models.vae(), **own | built)

    return make


def sdxl(kind: str, **unet: Any) -> Callable[[Any], Any]:
    def make(scheduler: Any) -> Any:
        own = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 16,
        }
        aesthetics = {"requires_aesthetics_score": False} if "Img2Img" in kind or "Inpaint" in kind else {}
        network = models.unet_2d_condition(**own | unet)
        return made(kind, scheduler, unet=network, vae=models.vae(), add_watermarker=False, **encoders(2), **aesthetics)

    return make


def controlnet() -> Any:
    torch.manual_seed(1)
    made = diffusers().ControlNetModel.from_unet(models.unet_2d_condition(), conditioning_embedding_out_channels=(4, 8))
    return models.scrambled(made)


def clip(projected: bool = False) -> tuple[Any, Any]:
    from tests.adapters.test_diffusers_load import tiny_clip

    return tiny_clip(projected)


def with_clip(kind: str, **unet: Any) -> Callable[[Any], Any]:
    def make(scheduler: Any) -> Any:
        encoder, tokenizer = clip()
        return sd(kind, unet=unet, text_encoder=lambda: encoder, tokenizer=lambda: tokenizer)(scheduler)

    return make


def one(kind: str, transformer: Callable[[], Any], *, texts: int = 1, vae: Callable[[], Any] | None = models.vae, **more: Any) -> Any:
    """A pipeline of a transformer, a VAE and ``texts`` text encoders that are not there."""
    return lambda scheduler: made(kind, scheduler, transformer=transformer(), vae=None if vae is None else vae(), **encoders(texts), **more)


def sd3(kind: str) -> Any:
    return one(kind, models.sd3, texts=3, vae=lambda: shifted_vae(4))


def shifted_vae(channels: int = 4) -> Any:
    made = models.vae(channels)
    made.register_to_config(shift_factor=0.1, scaling_factor=1.5)
    return made


def flux(kind: str) -> Any:
    return one(kind, models.flux, texts=2, vae=lambda: shifted_vae(4))


def wan(kind: str, *, second: bool = False, **more: Any) -> Callable[[Any], Any]:
    def transformer(channels: int) -> Any:
        return network(
            "WanTransformer3DModel", patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=channels,
            out_channels=16, text_dim=16, freq_dim=32, ffn_dim=32, num_layers=1, cross_attn_norm=True,
            qk_norm="rms_norm_across_heads", rope_max_seq_len=32,
        )  # fmt: skip

    def make(scheduler: Any) -> Any:
        torch.manual_seed(0)
        vae = diffusers().AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        )  # fmt: skip
        channels = 36 if "Image" in kind and not more.get("expand_timesteps") else 16
        two = {"transformer_2": transformer(channels)} if second else {}
        return made(kind, scheduler, transformer=transformer(channels), vae=vae.eval(), **encoders(1), **two, **more)

    return make


def kandinsky_unet() -> Any:
    return models.unet_2d_condition(
        in_channels=4, out_channels=8, addition_embed_type="image", cross_attention_dim=16, encoder_hid_dim=16,
        encoder_hid_dim_type="image_proj", down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        resnet_time_scale_shift="scale_shift", class_embed_type=None,
    )  # fmt: skip


def movq() -> Any:
    torch.manual_seed(0)
    return diffusers().VQModel(
        block_out_channels=[32, 32], down_block_types=["DownEncoderBlock2D", "AttnDownEncoderBlock2D"], in_channels=3, latent_channels=4,
        layers_per_block=1, norm_num_groups=2, num_vq_embeddings=12, out_channels=3,
        up_block_types=["AttnUpDecoderBlock2D", "UpDecoderBlock2D"], vq_embed_dim=4, norm_type="spatial",
    ).eval()  # fmt: skip


def if_unet() -> Any:
    return models.unet_2d_condition(
        in_channels=3, out_channels=6, cross_attention_dim=16, encoder_hid_dim=16, addition_embed_type="text",
        addition_embed_type_num_heads=2, class_embed_type=None, resnet_time_scale_shift="scale_shift",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    )  # fmt: skip


def deep_floyd(scheduler: Any) -> Any:
    own = absent("tokenizer", "text_encoder", "safety_checker", "feature_extractor", "watermarker")
    return made("IFPipeline", scheduler, unet=if_unet(), requires_safety_checker=False, **own)


def unclip(scheduler: Any) -> Any:
    package = diffusers()
    encoder, tokenizer = clip()
    prior_encoder, prior_tokenizer = clip(projected=True)
    torch.manual_seed(0)
    prior = package.PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, embedding_dim=16, num_layers=1, num_embeddings=7, additional_embeddings=4
    )  # fmt: skip
    return package.StableUnCLIPPipeline(
        prior_tokenizer=prior_tokenizer, prior_text_encoder=prior_encoder, prior=prior.eval(),
        prior_scheduler=package.UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample"),
        image_normalizer=package.pipelines.stable_diffusion.stable_unclip_image_normalizer.StableUnCLIPImageNormalizer(embedding_dim=16),
        image_noising_scheduler=package.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=tokenizer, text_encoder=encoder, vae=models.vae(), scheduler=scheduler,
        unet=models.unet_2d_condition(class_embed_type="projection", projection_class_embeddings_input_dim=32),
    )  # fmt: skip


def latent_text(scheduler: Any) -> Any:
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    torch.manual_seed(0)
    config = LDMBertConfig(vocab_size=64, max_position_embeddings=77, encoder_layers=1, encoder_ffn_dim=16, encoder_attention_heads=2,
                           d_model=16, head_dim=8)  # fmt: skip
    _, tokenizer = clip()
    return diffusers().LDMTextToImagePipeline(
        vqvae=models.vae(), bert=LDMBertModel(config).eval(), tokenizer=tokenizer, unet=models.unet_2d_condition(), scheduler=scheduler
    )


def marigold(scheduler: Any) -> Any:
    encoder, tokenizer = clip()
    return diffusers().MarigoldDepthPipeline(
        unet=models.unet_2d_condition(in_channels=8), vae=models.vae(), scheduler=scheduler, text_encoder=encoder, tokenizer=tokenizer,
        prediction_type="depth", default_denoising_steps=4, default_processing_resolution=16,
    )  # fmt: skip


def animated(scheduler: Any) -> Any:
    unet = models.unet_2d_condition()
    motion = diffusers().MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=2, motion_num_attention_heads=2,
        use_motion_mid_block=False,
    )  # fmt: skip
    return diffusers().AnimateDiffPipeline(unet=unet, vae=models.vae(), motion_adapter=motion, scheduler=scheduler, **encoders(1))


PICTURE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(9))
MASK = (torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(8)) > 0.5).float()
TEXT, XL, POOLED = texts(), texts(pooled=True), texts(pooled=True)
PLAIN = {"guidance_scale": 3.0}
FLUX_TEXT = {k: v for k, v in POOLED.items() if not k.startswith("negative")}
SHIFT_3, DYNAMIC = {"shift": 3.0}, {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}


PIPELINES: dict[str, Tiny] = {
    "DDPMPipeline": Tiny(lambda s: made("DDPMPipeline", s, unet=models.unet_2d()), lambda: {"output_type": "np"}),
    "DDIMPipeline": Tiny(lambda s: made("DDIMPipeline", s, unet=models.unet_2d()), lambda: {"output_type": "np"}),
    "DiTPipeline": Tiny(
        lambda s: made("DiTPipeline", s, transformer=models.dit(), vae=models.vae()), lambda: {"class_labels": [3], "guidance_scale": 2.0}
    ),
    "LDMPipeline": Tiny(
        lambda s: made("LDMPipeline", s, vqvae=movq(), unet=models.unet_2d(in_channels=4, out_channels=4)), lambda: {"output_type": "np"}
    ),
    "LDMTextToImagePipeline": Tiny(
        latent_text, lambda: {"prompt": "a cat", "height": 16, "width": 16, "guidance_scale": 3.0, "output_type": "np"}
    ),
    "StableDiffusionPipeline": Tiny(sd("StableDiffusionPipeline"), lambda: {**TEXT, **size(), **PLAIN}),
    "StableDiffusionImg2ImgPipeline": Tiny(
        sd("StableDiffusionImg2ImgPipeline"), lambda: {**TEXT, **PLAIN, "image": PICTURE, "strength": 0.5, "output_type": "latent"}
    ),
    "StableDiffusionInpaintPipeline": Tiny(
        sd("StableDiffusionInpaintPipeline", unet={"in_channels": 9}),
        lambda: {**TEXT, **PLAIN, **size(), "image": PICTURE, "mask_image": MASK},
    ),
    "StableDiffusionControlNetPipeline": Tiny(
        sd("StableDiffusionControlNetPipeline", controlnet=controlnet), lambda: {**TEXT, **PLAIN, **size(), "image": PICTURE}
    ),
    "StableDiffusionInstructPix2PixPipeline": Tiny(
        sd("StableDiffusionInstructPix2PixPipeline", unet={"in_channels": 8}),
        lambda: {**TEXT, **PLAIN, "image": PICTURE, "output_type": "latent"},
    ),
    "StableDiffusionPAGPipeline": Tiny(
        with_clip("StableDiffusionPAGPipeline"), lambda: {"prompt": "a cat", **PLAIN, **size(), "pag_scale": 2.0}
    ),
    "StableDiffusionPanoramaPipeline": Tiny(
        with_clip("StableDiffusionPanoramaPipeline"),
        lambda: {"prompt": "a cat", **PLAIN, "height": 16, "width": 32, "output_type": "latent"},
    ),
    "SemanticStableDiffusionPipeline": Tiny(
        with_clip("SemanticStableDiffusionPipeline"),
        lambda: {"prompt": "a cat", **PLAIN, **size(), "editing_prompt": ["a dog"], "edit_warmup_steps": [1], "edit_guidance_scale": [2.0]},
    ),
    "StableUnCLIPPipeline": Tiny(
        unclip, lambda: {"prompt": "a cat", **size(), **PLAIN, "prior_num_inference_steps": 2}, settings={"prediction_type": "v_prediction"}
    ),
    "StableDiffusionXLPipeline": Tiny(sdxl("StableDiffusionXLPipeline"), lambda: {**XL, **size(), **PLAIN}),
    "StableDiffusionXLImg2ImgPipeline": Tiny(
        sdxl("StableDiffusionXLImg2ImgPipeline"), lambda: {**XL, **PLAIN, "image": PICTURE, "strength": 0.5, "output_type": "latent"}
    ),
    "StableDiffusionXLInpaintPipeline": Tiny(
        sdxl("StableDiffusionXLInpaintPipeline", in_channels=9),
        lambda: {**XL, **PLAIN, **size(), "image": PICTURE, "mask_image": MASK, "strength": 0.5},
    ),
    "LatentConsistencyModelPipeline": Tiny(
        sd("LatentConsistencyModelPipeline", unet={"time_cond_proj_dim": 8}),
        lambda: {"prompt_embeds": TEXT["prompt_embeds"], **size()},
        "LCM",
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        refused="LatentConsistencyModelPipeline gives its scheduler original_inference_steps",
    ),
    "AnimateDiffPipeline": Tiny(animated, lambda: {**TEXT, **size(), **PLAIN, "num_frames": 2}, settings={"beta_schedule": "linear"}),
    "MarigoldDepthPipeline": Tiny(marigold, lambda: {"image": PICTURE, "output_type": "np"}, settings={"prediction_type": "v_prediction"}),
    "KandinskyV22Pipeline": Tiny(
        lambda s: made("KandinskyV22Pipeline", s, unet=kandinsky_unet(), movq=movq()),
        lambda: {"image_embeds": rand(1, 16), "negative_image_embeds": rand(1, 16, seed=1), **PLAIN, **size(32)},
        settings={"beta_schedule": "linear"},
    ),
    "IFPipeline": Tiny(
        deep_floyd,
        lambda: {**TEXT, **PLAIN, "height": 8, "width": 8, "output_type": "np"},
        "DPMSolverMultistep",
        {"beta_schedule": "squaredcos_cap_v2", "solver_order": 1, "timestep_spacing": "trailing", "variance_type": "learned_range"},
    ),
    "PixArtAlphaPipeline": Tiny(
        one("PixArtAlphaPipeline", lambda: network("PixArtTransformer2DModel")),
        lambda: {**texts(mask=True), **PLAIN, **size(), "use_resolution_binning": False, "negative_prompt": None},
        settings={"beta_schedule": "linear"},
    ),
    "PixArtSigmaPipeline": Tiny(
        one("PixArtSigmaPipeline", lambda: network("PixArtTransformer2DModel")),
        lambda: {**texts(mask=True), **PLAIN, **size(), "use_resolution_binning": False, "negative_prompt": None},
        settings={"beta_schedule": "linear"},
    ),
    "HunyuanDiTPipeline": Tiny(
        lambda s: made(
            "HunyuanDiTPipeline",
            s,
            vae=models.vae(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            transformer=network("HunyuanDiT2DModel"),
            **encoders(2),
        ),
        lambda: {
            **texts(mask=True),
            **size(),
            **PLAIN,
            "use_resolution_binning": False,
            **{f"{k}_2": v for k, v in texts(mask=True).items()},
        },
        settings={"prediction_type": "v_prediction"},
    ),
    "LattePipeline": Tiny(
        one("LattePipeline", lambda: network("LatteTransformer3DModel")),
        lambda: {**texts(), **PLAIN, **size(), "video_length": 2, "negative_prompt": None, "mask_feature": False},
        settings={"beta_schedule": "linear"},
    ),
    "AllegroPipeline": Tiny(
        one("AllegroPipeline", lambda: network("AllegroTransformer3DModel"), vae=None),
        lambda: {**texts(mask=True), **PLAIN, **size(64), "num_frames": 4, "negative_prompt": None},
    ),
    "CogVideoXPipeline": Tiny(
        one("CogVideoXPipeline", lambda: network("CogVideoXTransformer3DModel"), vae=None),
        lambda: {**TEXT, **PLAIN, **size(), "num_frames": 5, "max_sequence_length": 7},
        "CogVideoXDDIM",
        {
            "beta_schedule": "scaled_linear",
            "snr_shift_scale": 3.0,
            "timestep_spacing": "trailing",
            "clip_sample": False,
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
        },
    ),
    "CogView3PlusPipeline": Tiny(
        one("CogView3PlusPipeline", lambda: network("CogView3PlusTransformer2DModel")),
        lambda: {**TEXT, **PLAIN, **size()},
        "CogVideoXDDIM",
        {
            "beta_schedule": "scaled_linear",
            "snr_shift_scale": 4.0,
            "timestep_spacing": "trailing",
            "clip_sample": False,
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
        },
    ),
    "StableDiffusion3Pipeline": Tiny(sd3("StableDiffusion3Pipeline"), lambda: {**POOLED, **size(), **PLAIN}, FLOW, SHIFT_3),
    "StableDiffusion3Img2ImgPipeline": Tiny(
        sd3("StableDiffusion3Img2ImgPipeline"), lambda: {**POOLED, **size(), **PLAIN, "image": PICTURE, "strength": 0.5}, FLOW, SHIFT_3
    ),
    "FluxPipeline": Tiny(flux("FluxPipeline"), lambda: {**FLUX_TEXT, **size(), "guidance_scale": 3.5}, FLOW, DYNAMIC),
    "FluxImg2ImgPipeline": Tiny(
        flux("FluxImg2ImgPipeline"),
        lambda: {**FLUX_TEXT, **size(), "image": PICTURE, "strength": 0.5, "guidance_scale": 3.5},
        FLOW,
        DYNAMIC,
    ),
    "FluxInpaintPipeline": Tiny(
        flux("FluxInpaintPipeline"),
        lambda: {**FLUX_TEXT, **size(), "image": PICTURE, "mask_image": MASK, "strength": 0.5, "guidance_scale": 3.5},
        FLOW,
        DYNAMIC,
    ),
    "LTXPipeline": Tiny(
        one("LTXPipeline", lambda: network("LTXVideoTransformer3DModel"), vae=None),
        lambda: {**texts(mask=True), **size(64), **PLAIN, "num_frames": 9},
        FLOW,
        DYNAMIC,
    ),
    "AuraFlowPipeline": Tiny(
        one("AuraFlowPipeline", lambda: network("AuraFlowTransformer2DModel")),
        lambda: {**texts(mask=True), **size(), **PLAIN},
        FLOW,
        {"shift": 1.73},
    ),
    "QwenImagePipeline": Tiny(
        one("QwenImagePipeline", lambda: network("QwenImageTransformer2DModel"), vae=None),
        lambda: {
            **TEXT,
            **dict.fromkeys(("prompt_embeds_mask", "negative_prompt_embeds_mask"), torch.ones(1, 7, dtype=torch.long)),
            "true_cfg_scale": 2.0,
            **size(64),
        },
        FLOW,
        DYNAMIC,
    ),
    "WanPipeline": Tiny(wan("WanPipeline"), lambda: {**TEXT, **size(), **PLAIN, "num_frames": 5}, FLOW, {"shift": 5.0}),
    "WanPipeline, two networks": Tiny(
        wan("WanPipeline", second=True, boundary_ratio=0.6), lambda: {**TEXT, **size(), **PLAIN, "num_frames": 5}, FLOW, {"shift": 5.0}
    ),
    "WanPipeline, a time per token": Tiny(
        wan("WanPipeline", expand_timesteps=True), lambda: {**TEXT, **size(32), **PLAIN, "num_frames": 5}, FLOW, {"shift": 5.0}
    ),
    "WanImageToVideoPipeline, a time per token": Tiny(
        wan("WanImageToVideoPipeline", expand_timesteps=True),
        lambda: {**TEXT, **size(32), **PLAIN, "num_frames": 5, "image": torch.nn.functional.interpolate(PICTURE, 32)},
        FLOW,
        {"shift": 5.0},
    ),
    "SanaPipeline": Tiny(
        one("SanaPipeline", lambda: network("SanaTransformer2DModel"), vae=None),
        lambda: {**texts(mask=True), **size(64), **PLAIN, "use_resolution_binning": False, "negative_prompt": None},
        FLOW,
        SHIFT_3,
    ),
    "ChromaPipeline": Tiny(
        one("ChromaPipeline", lambda: network("ChromaTransformer2DModel")),
        lambda: {name: value.bool() if "mask" in name else value for name, value in texts(mask=True).items()} | {**size(), **PLAIN},
        FLOW,
        DYNAMIC,
    ),
    "HunyuanVideoPipeline": Tiny(
        one("HunyuanVideoPipeline", lambda: network("HunyuanVideoTransformer3DModel"), texts=2, vae=None),
        lambda: {**{k: v for k, v in texts(mask=True, pooled=True).items() if not k.startswith("negative")}, **size(), "num_frames": 5},
        FLOW,
        {"shift": 7.0},
    ),
    "CogView4Pipeline": Tiny(
        one("CogView4Pipeline", lambda: network("CogView4Transformer2DModel")),
        lambda: {**TEXT, **size(32), **PLAIN},
        FLOW,
        {"base_shift": 0.25, "max_shift": 0.75, "use_dynamic_shifting": True, "time_shift_type": "linear"},
    ),
    "Lumina2Pipeline": Tiny(
        one("Lumina2Pipeline", lambda: network("Lumina2Transformer2DModel"), vae=shifted_vae),
        lambda: {**texts(mask=True), **size(32), **PLAIN},
        FLOW,
        {"shift": 6.0},
    ),
    "ZImagePipeline": Tiny(
        one("ZImagePipeline", lambda: z_image()), lambda: {**z_texts(), **size(32), "guidance_scale": 2.0}, FLOW, SHIFT_3
    ),
    "ZImageImg2ImgPipeline": Tiny(
        one("ZImageImg2ImgPipeline", lambda: z_image(), vae=shifted_vae),
        lambda: {**z_texts(), **size(32), "guidance_scale": 2.0, "image": torch.nn.functional.interpolate(PICTURE, 32), "strength": 0.5},
        FLOW,
        SHIFT_3,
    ),
    "HiDreamImagePipeline": Tiny(
        one("HiDreamImagePipeline", lambda: network("HiDreamImageTransformer2DModel"), texts=4),
        lambda: {
            **size(),
            **PLAIN,
            **{k: v.reshape(1, 16) for k, v in POOLED.items() if "pooled" in k},
            "prompt_embeds_t5": rand(1, 7, 16),
            "negative_prompt_embeds_t5": rand(1, 7, 16, seed=5),
            "prompt_embeds_llama3": rand(1, 1, 7, 16),
            "negative_prompt_embeds_llama3": rand(1, 1, 7, 16, seed=6),
        },
        FLOW,
        SHIFT_3,
    ),
    "MochiPipeline": Tiny(
        one("MochiPipeline", lambda: network("MochiTransformer3DModel"), vae=None),
        lambda: {**texts(mask=True), **size(), **PLAIN, "num_frames": 7},
        FLOW,
        {"invert_sigmas": True},
        refused="MochiPipeline cannot take a schedule: scheduler: invert_sigmas=True",
    ),
    "SanaSprintPipeline": Tiny(
        one("SanaSprintPipeline", lambda: network("SanaTransformer2DModel", guidance_embeds=True), vae=None),
        lambda: (
            {k: v for k, v in {**texts(mask=True), **size(64), **PLAIN, "use_resolution_binning": False}.items() if "negative" not in k}
            | {"intermediate_timesteps": None}
        ),
        "SCM",
        refused="SanaSprintPipeline gives its scheduler max_timesteps, intermediate_timesteps",
    ),
    "ConsistencyModelPipeline": Tiny(
        lambda s: made("ConsistencyModelPipeline", s, unet=models.unet_2d()),
        lambda: {"output_type": "np"},
        "CMStochasticIterative",
        refused="ConsistencyModelPipeline cannot take a schedule",
    ),
}


def z_image() -> Any:
    return network("ZImageTransformer2DModel")


def z_texts() -> dict[str, list[Tensor]]:
    return {name: [text[0]] for name, text in TEXT.items()}
