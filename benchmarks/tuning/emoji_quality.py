"""How good the emoji model's pictures are, before any tuning: 50 steps, guidance 4, its own prompts, the first seeds.

    python examples/prepare_emoji.py --packages FOLDER       # once: the real pictures, runs/emoji/pictures.npz
    python -m benchmarks emoji_quality

- Groups: :mod:`benchmarks.tuning.emoji_groups` names the group of a picture. How often is it the prompt's? Beside it the same for the
  real pictures of these prompts, as they are and through the autoencoder, and for real pictures that the classifier never saw.
- Fréchet distances to real pictures, in that classifier's features and in EfficientNet-Lite0's. Beside them as many real pictures
  against the others.
- The nearest real pictures, by mean squared error of pixels. A model of few pictures may know them by heart: how often is the nearest
  picture the one that was asked for?

Writes benchmarks/results/emoji-quality.json and .md, examples/emoji/samples.png, and examples/emoji/nearest.png.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

import ttune
from benchmarks.machine import machine
from benchmarks.result_paths import BUILD, is_part, result_path, write_json
from benchmarks.tables import table
from benchmarks.tuning.emoji_groups import GROUPS, PICTURES, WEIGHTS, RealEmoji, emoji_features, groups_of, load
from ttune import Schedule, zoo
from ttune.evaluation import FeatureExtractor, FeatureStatistics, frechet_distance, frechet_standard_error, save_grid
from ttune.evaluation.features.efficientnet import efficientnet_lite0
from ttune.evaluation.features.torchvision_shim import ensure

SHOWN = 12  # pictures of a row
EXAMPLES = Path("examples/emoji")


@dataclasses.dataclass
class Args:
    """Judge the emoji model's pictures."""

    samples: int = 512
    """Pictures; seed i has prompt i."""
    steps: int = 50
    guidance: float = 4.0
    data: Path = PICTURES
    """Real pictures, by examples/prepare_emoji.py."""
    efficientnet: bool = True
    """Also in EfficientNet-Lite0's features: minutes."""


def generated(args: Args) -> tuple[Tensor, list[str]]:
    """Pictures (N, 3, 64, 64) in [-1, 1] of the first seeds, and their prompts; DDIM, as the pipeline is saved with."""
    denoiser, prompts = zoo.load("emoji", guidance_scale=args.guidance), zoo.emoji.prompts()
    schedule = Schedule.build(denoiser.noise, "ddim", args.steps, "leading")
    assert denoiser.sample_shape is not None
    assert denoiser.decode is not None
    assert denoiser.draw_conditions is not None
    pictures = []
    for seeds in tqdm(torch.arange(args.samples).split(32), desc="pictures"):
        x_T = ttune.initial_noise(denoiser.noise, denoiser.sample_shape, seeds=seeds)
        z = ttune.sample(denoiser, schedule, x_T, conditions=denoiser.draw_conditions(seeds), seeds=seeds)
        pictures.append(denoiser.decode(z).clamp(-1, 1))
    return torch.cat(pictures), [prompts[i % len(prompts)] for i in range(args.samples)]


def decoded(x: Tensor) -> Tensor:
    """Real pictures after the autoencoder: what a perfect model of latents would make."""
    ensure()
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    vae: Any = AutoencoderKL.from_pretrained(zoo.emoji.folder() / "vae")
    with torch.no_grad():
        return torch.cat([vae.decode(vae.encode(part).latent_dist.mode()).sample.clamp(-1, 1) for part in x.split(32)])


def groups(pictures: Tensor, prompts: Sequence[str], real: RealEmoji) -> dict[str, Any]:
    """Shares of pictures whose group is that of the prompt."""
    row = {name: i for i, name in enumerate(real.names)}
    known = [i for i, prompt in enumerate(prompts) if prompt in row]  # the others are flags
    own = torch.tensor([row[prompts[i]] for i in known])
    network, wanted = load(), real.groups[own]
    right = groups_of(network, pictures[known]) == wanted
    originals = real.unit(own)
    with safetensors.safe_open(WEIGHTS, "pt") as file:
        stated = file.metadata()
    return {
        "generated": right.float().mean().item(),
        "real pictures of the same prompts": (groups_of(network, originals) == wanted).float().mean().item(),
        "the same through the autoencoder": (groups_of(network, decoded(originals)) == wanted).float().mean().item(),
        "real pictures that the classifier never saw": float(stated["test accuracy"].split()[0]),
        "generated, by group": {g: right[wanted == i].float().mean().item() for i, g in enumerate(GROUPS) if (wanted == i).any()},
    }


def distances(pictures: Tensor, real: RealEmoji, extractor: FeatureExtractor) -> dict[str, float]:
    """To real pictures; "real" of as many random real pictures. Neither is compared with itself: these are left out of the reference."""
    order = torch.randperm(len(real.names), generator=torch.Generator().manual_seed(0))
    first, others = order[: len(pictures)], order[len(pictures) :]
    features = torch.cat([extractor(real.unit(part)) for part in others.split(256)]).numpy()
    reference = FeatureStatistics.of_features(features, extractor.name)
    found = {}
    for name, x in (("generated", pictures), ("real", real.unit(first))):
        own = np.concatenate([extractor(part).numpy() for part in x.split(256)])
        found[name] = frechet_distance(FeatureStatistics.of_features(own, extractor.name), reference)
        found[f"{name}, standard error"] = frechet_standard_error(own, reference)
    return found


def nearest(pictures: Tensor, prompts: Sequence[str], real: RealEmoji) -> tuple[Tensor, float]:
    """(the nearest real pictures, and how often they are the one that was asked for)."""
    everything = real.unit(torch.arange(len(real.names)))
    picked = torch.cat([torch.cdist(part.flatten(1), everything.flatten(1)).argmin(1) for part in pictures.split(64)])
    same = sum(real.names[i] == prompt for i, prompt in zip(picked.tolist(), prompts, strict=True))
    return everything[picked], same / len(prompts)


def main(argv: Sequence[str] | None = None) -> None:
    args = tyro.cli(Args, args=argv, description=__doc__, prog="python -m benchmarks emoji_quality")
    begin, real = time.monotonic(), RealEmoji(args.data)
    pictures, prompts = generated(args)
    part = is_part(args, "data")
    shown = BUILD if part else EXAMPLES
    save_grid(shown / "samples.png", pictures[: 8 * SHOWN], SHOWN)
    near, by_heart = nearest(pictures, prompts, real)
    save_grid(shown / "nearest.png", torch.cat([pictures[:SHOWN], near[:SHOWN]]), SHOWN)
    extractors = [emoji_features(), *([efficientnet_lite0()] if args.efficientnet else [])]
    result = {
        "machine": machine(),
        "pictures": len(real.names), "samples": args.samples, "steps": args.steps, "guidance": args.guidance,
        "groups": groups(pictures, prompts, real),
        "frechet": {extractor.name: distances(pictures, real, extractor) for extractor in extractors},
        "nearest is the picture asked for": by_heart,
        "seconds": time.monotonic() - begin,
    }  # fmt: skip
    out = result_path("emoji-quality.json", part)
    write_json(out, result)
    out.with_suffix(".md").write_text(page(result), encoding="utf-8")
    print(page(result))


def page(result: dict[str, Any]) -> str:
    shares = {name: value for name, value in result["groups"].items() if not isinstance(value, dict)}
    lines = lambda heads, rows: "\n".join(table(heads, rows, 1))  # noqa: E731
    rows = [[name, f"{value:.1%}"] for name, value in (shares | result["groups"]["generated, by group"]).items()]
    far = [
        [name, f"{d['generated']:.3f} ± {d['generated, standard error']:.3f}", f"{d['real']:.3f}"] for name, d in result["frechet"].items()
    ]
    return (
        f"# The emoji model's pictures: {result['steps']} steps, guidance {result['guidance']:g}, {result['samples']} prompts and seeds\n\n"
        "`python -m benchmarks emoji_quality`. Pictures whose group is that of the prompt, by a classifier trained on real pictures:\n\n"
        f"{lines(['', 'right'], rows)}\n\nFréchet distances to real pictures:\n\n{lines(['features', 'generated', 'real'], far)}\n\n"
        f"The nearest of {result['pictures']:,} real pictures, by pixels, is the very one that was asked for in "
        f"{result['nearest is the picture asked for']:.1%}.\n"
    )


if __name__ == "__main__":
    main()
