"""Train the emoji model: a small latent text-to-image model in diffusers' own folder format.

    python examples/prepare_emoji.py --packages FOLDER                # once: runs/emoji/pictures.npz
    python examples/train_emoji.py autoencoder --minutes 20           # pictures <-> latents
    python examples/train_emoji.py diffusion --minutes 60             # latents from captions
    python examples/train_emoji.py export                             # runs/emoji/model, for StableDiffusionPipeline
    python examples/train_emoji.py sample                             # runs/emoji/samples.png: ten prompts, 50 steps, guidance 4

Every stage goes on from its checkpoint in ``--run``, so a stage may be stopped at any moment and called again. ``--start FOLDER`` begins a
new run from exported weights. The first diffusion stage fixes the latents: from then on the autoencoder stage trains the decoder only,
and both may run side by side. On a GPU: ``--device cuda --batch 256``. On busy cores: ``OMP_NUM_THREADS=1 nice -n 19 python ...``.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import tokenizers
import torch
import tyro
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ttune.evaluation.features import torchvision_shim
from ttune.storage.atomic_write import write_atomically

torchvision_shim.ensure()  # which diffusers and transformers import

from diffusers.models.attention_processor import AttnProcessor  # noqa: E402
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: E402
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # noqa: E402
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline  # noqa: E402
from diffusers.schedulers.scheduling_ddim import DDIMScheduler  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer  # noqa: E402

TOKENS = 20  # the longest name has 15
# Pictures (B, 3, 64, 64) <-> latents (B, 4, 16, 16): 0.9 M parameters.
AUTOENCODER: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (32, 64, 64),
    "norm_num_groups": 8,
    "sample_size": 64,
    "scaling_factor": 1.0,
    "mid_block_add_attention": False,
}
# 1.3 M parameters.
TEXT_ENCODER: dict[str, Any] = {
    "hidden_size": 160,
    "intermediate_size": 480,
    "projection_dim": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": TOKENS,
}
# 5.7 M parameters, most of them at 8 x 8 and 4 x 4, where they cost least time.
UNET: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (64, 96, 128),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_ENCODER["hidden_size"],
    "attention_head_dim": 4,  # diffusers' name for the number of heads
    "norm_num_groups": 16,
}
PROMPTS = (
    "noto: red apple", "twemoji: red apple", "noto: cat face", "twemoji: face with tears of joy", "noto: red heart",
    "twemoji: sunflower", "noto: automobile", "twemoji: house", "noto: pizza", "twemoji: octopus",
)  # fmt: skip


@dataclasses.dataclass
class Args:
    """Train the emoji model, one stage a call."""

    stage: tyro.conf.Positional[Literal["autoencoder", "diffusion", "export", "sample"]]
    run: Path = Path("runs/emoji")
    """Folder of the checkpoints."""
    data: Path = Path("runs/emoji/pictures.npz")
    start: Path | None = None
    """A folder that ``export`` wrote: a run that has no checkpoint yet begins with its weights."""
    to: Path = Path("runs/emoji/model")
    """Where ``export`` writes and ``sample`` reads."""
    minutes: float = 60.0
    batch: int = 32
    lr: float = 1e-3
    """Peak learning rate of AdamW: warm-up over 200 iterations, cosine decay to 0 over the last 30 % of the minutes."""
    crop: int = 32
    """Side of the crops that the autoencoder learns from: 32 is four times as fast, 64 what it is used at; end with some minutes of 64."""
    caption_dropout: float = 0.1
    """Share of samples trained with an empty caption, for guidance."""
    mirrored: float = 0.0
    """Share of pictures shown mirrored: with much training, against memory."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    bfloat16: bool = True
    """Autocast to bfloat16 (on the CPU 1.7x faster with AVX-512 BF16 or AMX; use --no-bfloat16 elsewhere)."""
    checkpoint_minutes: float = 3.0
    seed: int = 0


def new_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """CLIP's byte-pair encoding, its vocabulary learned from ``captions``."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    # Every byte within a word and at its end, also where no caption has it: every prompt has tokens.
    known = [*alphabet, *(byte + "</w>" for byte in alphabet), start, end]
    backend = CLIPTokenizer(vocab={start: 0, end: 1}).backend_tokenizer
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=3072, special_tokens=known, end_of_word_suffix="</w>", show_progress=False)
    backend.train_from_iterator((caption.lower() for caption in captions), trainer)
    model = json.loads(backend.to_str())["model"]
    merges: Any = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=TOKENS)


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    special: Any = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **special, **TEXT_ENCODER))


def new_scheduler() -> Any:
    """Stable Diffusion's noise, and v for epsilon."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


class Training:
    """A network, its running average, its optimizer, and the file in which the three survive."""

    def __init__(self, network: nn.Module, path: Path, args: Args) -> None:
        self.path, self.args, self.iteration, self.images, self.seconds = path, args, 0, 0, 0.0
        self.network = network.to(args.device).train()
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        if path.exists():
            self.load()

    def save(self) -> None:
        tensors = {f"{part}.{k}": v for part in ("network", "average") for k, v in getattr(self, part).state_dict().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in moments.items()}
        progress = {k: str(getattr(self, k)) for k in ("iteration", "images", "seconds")}
        write_atomically(self.path, safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, progress))

    def load(self) -> None:
        with safetensors.safe_open(self.path, "pt") as file:
            progress, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        for part in ("network", "average"):
            getattr(self, part).load_state_dict({k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")})
        state: dict[int, dict[str, Tensor]] = {}
        for key in (k for k in tensors if k.startswith("optimizer.")):
            _, i, name = key.split(".")
            state.setdefault(int(i), {})[name] = tensors[key]
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        self.iteration, self.images, self.seconds = int(progress["iteration"]), int(progress["images"]), float(progress["seconds"])

    def learning_rate(self, share: float) -> float:
        """Warm-up by iterations; decay by the ``share`` of the minutes that is over, so that every call ends on a good average."""
        return self.args.lr * min(1.0, (self.iteration + 1) / 200) * 0.5 * (1 + math.cos(math.pi * max(0.0, share - 0.7) / 0.3))

    def step(self, loss: Tensor, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.iteration += 1
        # The average spans about the last tenth of the training, whenever that is stopped.
        keep = min(0.9995, self.iteration / (self.iteration + 10))
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.network.parameters(), strict=True):
                slow.lerp_(fast, 1 - keep)

    def run(self, loss_of: Callable[[torch.Generator], Tensor]) -> None:
        """Train for ``--minutes``; append to ``losses.csv`` and save every few minutes and at the end."""
        begin = last = saved = time.monotonic()
        losses: list[Tensor] = []
        with tqdm(total=round(60 * self.args.minutes), unit="s", desc=self.path.stem, mininterval=10) as bar:
            while (share := (last - begin) / (60 * self.args.minutes)) < 1:
                # Every iteration draws from a generator of its own, so that a resumed run goes on as if it had never stopped.
                generator = torch.Generator().manual_seed(self.args.seed * 1_000_003 + self.iteration)
                with torch.autocast(self.args.device, torch.bfloat16, enabled=self.args.bfloat16):
                    loss = loss_of(generator)
                losses.append(loss.detach())
                self.step(loss, self.learning_rate(share))
                now = time.monotonic()
                self.images, self.seconds = self.images + self.args.batch, self.seconds + now - last
                bar.update(now - last)
                bar.set_postfix(loss=f"{loss.item():.4f}", iteration=self.iteration, refresh=False)
                last = now
                if now - saved > 60 * self.args.checkpoint_minutes or now - begin >= 60 * self.args.minutes:
                    self.save()
                    self.log(torch.stack(losses).mean().item())
                    losses, saved = [], now

    def log(self, loss: float) -> None:
        with open(self.path.parent / "losses.csv", "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([self.path.stem, self.iteration, self.images, f"{self.seconds:.0f}", f"{loss:.5f}"])


class Pictures:
    """The file that ``prepare_emoji.py`` wrote: pictures, names, keywords."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.pictures = torch.from_numpy(file["pictures"]).permute(0, 3, 1, 2)  # (N, 3, 64, 64) uint8
            self.names: list[str] = file["names"].tolist()
            self.keywords: list[list[str]] = [words.split(", ") if words else [] for words in file["keywords"].tolist()]

    def __len__(self) -> int:
        return len(self.names)

    def unit(self, pick: Tensor | slice) -> Tensor:
        """The picked pictures in [-1, 1]."""
        return self.pictures[pick].float().div(127.5).sub(1.0)

    def texts(self) -> list[str]:
        """All that a caption may say."""
        return [*self.names, *(", ".join(words) for words in self.keywords)]

    def caption(self, i: int, generator: torch.Generator) -> str:
        """The name; three times in ten with one or two of its keywords."""
        chance, first, second = torch.rand(3, generator=generator).tolist()
        words = self.keywords[i]
        if chance > 0.3 or not words:
            return self.names[i]
        return ", ".join(dict.fromkeys([self.names[i], *(words[int(u * len(words))] for u in (first, second))]))


def begun(args: Args, part: str, kind: Any, make: Callable[[], Any]) -> Any:
    """The part that ``--start`` holds, or a new one."""
    folder = args.start / part if args.start else None
    return kind.from_pretrained(folder) if folder and folder.is_dir() else make()


def autoencoder_training(args: Args) -> Training:
    vae = begun(args, "vae", AutoencoderKL, lambda: AutoencoderKL(**AUTOENCODER))
    return Training(vae, args.run / "autoencoder.safetensors", args)


def diffusion_training(args: Args, tokenizer: CLIPTokenizer) -> Training:
    text_encoder = begun(args, "text_encoder", CLIPTextModel, lambda: new_text_encoder(tokenizer))
    unet = begun(args, "unet", UNet2DConditionModel, lambda: UNet2DConditionModel(**UNET))
    unet.set_attn_processor(AttnProcessor())  # 1.4x faster on the CPU than scaled_dot_product_attention at 64 tokens
    return Training(nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}), args.run / "diffusion.safetensors", args)


def tokenizer_of(args: Args) -> CLIPTokenizer:
    """The run's tokenizer, made at the first call."""
    folder = args.run / "tokenizer"
    if not folder.exists():
        begun(args, "tokenizer", CLIPTokenizer, lambda: new_tokenizer(Pictures(args.data).texts())).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def train_autoencoder(args: Args) -> None:
    pictures, training = Pictures(args.data), autoencoder_training(args)
    vae: Any = training.network
    if (args.run / "latents.safetensors").exists():
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)

    def loss_of(generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(pictures), (args.batch,), generator=generator)
        top, left = torch.randint(0, 65 - args.crop, (2,), generator=generator).tolist()
        x = pictures.unit(pick)[:, :, top : top + args.crop, left : left + args.crop].to(args.device)
        posterior = vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator).to(args.device)
        y = vae.decode(z).sample.float()
        # Edges are few pixels and most of what an emoji is.
        edges = sum(F.l1_loss(y.diff(dim=dim), x.diff(dim=dim)) for dim in (2, 3))
        # Green and purple are rare: without a term of its own for colour, 20,000 crops left both out of the latents.
        colour = F.mse_loss(F.avg_pool2d(y, 4), F.avg_pool2d(x, 4))
        return F.l1_loss(y, x) + edges + 4 * colour + 1e-3 * posterior.kl().float().mean() / posterior.mean[0].numel()

    training.run(loss_of)


@torch.no_grad()
def encode(vae: Any, x: Tensor, device: str) -> Tensor:
    return torch.cat([vae.encode(part.to(device)).latent_dist.mode().float().cpu() for part in x.split(64)])


def latents_of(args: Args) -> Tensor:
    """The latents (2, N, 4, 16, 16) of all pictures and of their mirror images; the first call fixes the encoder."""
    path = args.run / "latents.safetensors"
    if not path.exists():
        training, pictures = autoencoder_training(args), Pictures(args.data)
        x = pictures.unit(slice(None))
        standardize(training.average, encode(training.average, x, args.device))
        training.network.load_state_dict(training.average.state_dict())
        training.save()
        both = torch.stack([encode(training.average, views, args.device) for views in (x, x.flip(-1))])
        write_atomically(path, safetensors.torch.save({"latents": both.contiguous()}))
    return safetensors.torch.load_file(path)["latents"]


@torch.no_grad()
def standardize(vae: Any, latents: Tensor) -> None:
    """Fold mean 0 and deviation 1 of every latent channel into the two 1 x 1 convolutions between encoder and decoder.

    A pipeline divides by one ``scaling_factor`` only, and mostly white pictures have latents far from mean 0.
    """
    mean, std = latents.mean((0, 2, 3)).to(vae.device), latents.std((0, 2, 3)).to(vae.device)
    into, out_of = vae.quant_conv, vae.post_quant_conv
    out_of.bias += out_of.weight[:, :, 0, 0] @ mean
    out_of.weight *= std[:, None, None]
    into.bias[:4] -= mean
    into.bias[:4] /= std
    into.weight[:4] /= std[:, None, None, None]
    into.bias[4:] -= 2 * std.log()  # the other half of its outputs is the logarithm of the variance


def train_diffusion(args: Args) -> None:
    pictures, tokenizer, latents = Pictures(args.data), tokenizer_of(args), latents_of(args)
    training, scheduler = diffusion_training(args, tokenizer), new_scheduler()
    unet, text_encoder = training.network["unet"], training.network["text_encoder"]  # pyright: ignore[reportIndexIssue]
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    weights = snr.clamp(max=5) / (snr + 1)  # min-SNR-5 (Hang et al. 2023, eq. 8) for v: sharp pixels are the decoder's work

    def loss_of(generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(pictures), (args.batch,), generator=generator)
        captions = [pictures.caption(i, generator) for i in pick.tolist()]
        dropped, mirrored = (torch.rand(args.batch, generator=generator) < p for p in (args.caption_dropout, args.mirrored))
        captions = ["" if empty else caption for caption, empty in zip(captions, dropped.tolist(), strict=True)]
        tokens = tokenizer(captions, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt").input_ids
        # One time per stratum of [0, 1000): less variance than independent times.
        t = ((torch.arange(args.batch) + torch.rand(args.batch, generator=generator)) * (1000 / args.batch)).long()
        x0 = latents[mirrored.long(), pick]
        noise = torch.randn(x0.shape, generator=generator)
        x_t, target = scheduler.add_noise(x0, noise, t), scheduler.get_velocity(x0, noise, t)
        text = text_encoder(tokens.to(args.device)).last_hidden_state
        predicted = unet(x_t.to(args.device), t.to(args.device), text).sample
        error = (predicted.float() - target.to(args.device)).square().mean((1, 2, 3))
        return (weights[t].to(args.device) * error).mean()

    training.run(loss_of)


def export(args: Args) -> None:
    """The averaged weights, float16, in diffusers' format; autoencoder and tokenizer only, as long as no diffusion is trained."""
    latents_of(args)  # which fixes the encoder
    tokenizer, vae = tokenizer_of(args), autoencoder_training(args).average.half()
    if (args.run / "diffusion.safetensors").exists():
        networks: Any = diffusion_training(args, tokenizer).average.half()
        networks["unet"].set_default_attn_processor()
        parts: dict[str, Any] = {"vae": vae, "tokenizer": tokenizer, "scheduler": new_scheduler(), **networks}
        parts |= {"safety_checker": None, "feature_extractor": None}
        StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(args.to)
        # Loaded without a dtype, diffusers' networks become float32; transformers' keep the one that their configuration names.
        config = args.to / "text_encoder" / "config.json"
        config.write_text(config.read_text(encoding="utf-8").replace('"float16"', '"float32"'), encoding="utf-8")
        names = Pictures(args.data).names
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0))[:512]
        (args.to / "prompts.txt").write_text("".join(f"{names[i]}\n" for i in order.tolist()), encoding="utf-8")
    else:
        for name, part in (("vae", vae), ("tokenizer", tokenizer)):
            part.save_pretrained(args.to / name)  # pyright: ignore[reportCallIssue]
    print(f"wrote {args.to}: {sum(file.stat().st_size for file in args.to.rglob('*') if file.is_file()):,} bytes")


def sample(args: Args) -> None:
    """The exported model's pictures of ``PROMPTS`` at 50 steps and guidance 4: a column a prompt, rows of seeds 0 to 3, none picked."""
    pipeline = StableDiffusionPipeline.from_pretrained(args.to).to(args.device)
    sheet = Image.new("RGB", (64 * len(PROMPTS), 64 * 4), "white")
    for row in range(4):
        generators = [torch.Generator().manual_seed(row) for _ in PROMPTS]
        pictures = pipeline(list(PROMPTS), num_inference_steps=50, guidance_scale=4.0, generator=generators).images  # pyright: ignore
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (64 * column, 64 * row))
    sheet.save(args.run / "samples.png")


def main(args: Args) -> None:
    args.run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    {"autoencoder": train_autoencoder, "diffusion": train_diffusion, "export": export, "sample": sample}[args.stage](args)


if __name__ == "__main__":
    main(tyro.cli(Args))
