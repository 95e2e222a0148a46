"""A small classifier of emoji: does a generated picture belong to its prompt's group? Its features measure distances to real pictures.

    python examples/prepare_emoji.py --packages FOLDER             # once: runs/emoji/pictures.npz
    python -m benchmarks.tuning.emoji_groups                       # writes the weights, float16

The groups are Unicode's ("Food & Drink"), without flags. Every seventh name is left out of the training, in both styles: the file
holds the accuracy for these pictures and for the others. 64 features, each of mean 0 and variance 1 in training.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ttune.evaluation import FeatureExtractor

NAME = "emoji groups"
WEIGHTS = Path(__file__).parents[1] / "data" / "emoji_groups.safetensors"
PICTURES = Path("runs/emoji/pictures.npz")
GROUPS = (
    "Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects", "Symbols",
)  # fmt: skip
LEFT_OUT = 7  # of the names every seventh is for the test
BATCH, LR, SEED = 64, 3e-3, 30


class GroupNetwork(nn.Module):
    """Pictures (B, 3, 64, 64) in [-1, 1] -> logits (B, 8); ``features`` gives 64 values."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 32, 64, 96, 128]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:])
        self.project = nn.Linear(2 * widths[-1], 64)
        self.standardise = nn.BatchNorm1d(64, affine=False)
        self.dropout = nn.Dropout(0.3)
        self.classify = nn.Linear(64, len(GROUPS))

    def features(self, x: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.max_pool2d(F.relu(norm(convolution(x))), 2)
        x = x.flatten(2)
        return self.standardise(self.project(torch.cat([x.mean(2), x.amax(2)], 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.dropout(F.relu(self.features(x))))


class RealEmoji:
    """The pictures whose group is one of :data:`GROUPS`: (N, 3, 64, 64) uint8, names, groups (N,), and which are for the test (N,)."""

    def __init__(self, path: Path = PICTURES) -> None:
        if not path.exists():
            raise FileNotFoundError(f"{path}: make it by examples/prepare_emoji.py (examples/emoji/README.md)")
        with np.load(path) as file:
            known = np.isin(file["groups"], GROUPS)
            self.pictures = torch.from_numpy(file["pictures"][known]).permute(0, 3, 1, 2).contiguous()
            self.names: list[str] = file["names"][known].tolist()
            self.groups = torch.tensor([GROUPS.index(group) for group in file["groups"][known]])
        ideas = [name.split(": ", 1)[1] for name in self.names]
        numbers = {idea: i for i, idea in enumerate(dict.fromkeys(ideas))}
        self.test = torch.tensor([numbers[idea] % LEFT_OUT == 0 for idea in ideas])

    def unit(self, rows: Tensor) -> Tensor:
        """In [-1, 1]."""
        return self.pictures[rows].float().div(127.5).sub(1.0)


def altered(x: Tensor) -> Tensor:
    """Mirrored, moved by up to 4 pixels, at times blurred as a decoder blurs, and with a little noise."""
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
    down, right = torch.randint(0, 9, (2,)).tolist()
    x = F.pad(x, (4, 4, 4, 4), value=1.0)[:, :, down : down + 64, right : right + 64]
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, soft, x)
    return x + 0.05 * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)


def train(real: RealEmoji, iterations: int) -> GroupNetwork:
    torch.manual_seed(SEED)
    network, rows = GroupNetwork(), (~real.test).nonzero().flatten()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.05, fused=True)
    bar = tqdm(range(iterations), mininterval=10)
    for i in bar:
        progress = (i + 1) / iterations
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, progress / 0.1) * 0.5 * (1 + math.cos(math.pi * max(0.0, (progress - 0.1) / 0.9)))
        pick = rows[torch.randint(len(rows), (BATCH,))]
        loss = F.cross_entropy(network(altered(real.unit(pick))), real.groups[pick], label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return network.eval()


@torch.no_grad()
def groups_of(network: GroupNetwork, x: Tensor) -> Tensor:
    """(N, 3, 64, 64) in [-1, 1] -> the numbers of their groups (N,)."""
    return torch.cat([network(part).argmax(1) for part in x.split(256)])


def load() -> GroupNetwork:
    network = GroupNetwork()
    network.load_state_dict({name: value.float() for name, value in safetensors.torch.load_file(WEIGHTS).items()}, strict=False)
    return network.eval().requires_grad_(False)


@functools.cache
def emoji_features() -> FeatureExtractor:
    """Its features, as the metrics want them."""
    return FeatureExtractor(NAME, load().features)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=PICTURES)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--iterations", type=int, default=2000)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    real = RealEmoji(options.data)
    network = train(real, options.iterations)
    weights = {name: value.half().contiguous() for name, value in network.state_dict().items() if value.is_floating_point()}
    network.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    figures = {}
    for name, rows in (("test", real.test), ("training", ~real.test)):
        right = groups_of(network, real.unit(rows)) == real.groups[rows]
        figures[f"{name} accuracy"] = f"{right.float().mean():.4f} of {len(right)}"
    safetensors.torch.save_file(weights, options.out, figures)
    print(figures)


if __name__ == "__main__":
    main()
