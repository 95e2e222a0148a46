"""A second feature network for Fashion-MNIST, trained apart from LeNet-64: it judges schedules, and nothing is ever tuned on it.

    python -m benchmarks.tuning.judge_network --data FOLDER    # of Debian's dataset-fashion-mnist: four *-ubyte.gz files

Another kind of network than LeNet-64, so that the two share few blind spots: 3 x 3 convolutions with strides in place of pooling, group
normalisation, SiLU, 128 features before the last non-linearity, each of mean 0 and variance 1 in training. Trained on the 60,000
training images, shifted and mirrored at random, for three epochs on one thread (seed 20). Writes the weights in float16.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttune.evaluation import FeatureExtractor
from ttune.zoo.fashion_mnist import DEBIAN_FOLDER, read_debian, to_unit_range

NAME = "judge network"
WEIGHTS = Path(__file__).parents[1] / "data" / "judge_network.safetensors"
EPOCHS, BATCH, LR, SEED = 3, 128, 3e-3, 20


class JudgeNetwork(nn.Module):
    """Ten-class classifier of (B, 1, 28, 28) images in [-1, 1]; ``features`` gives 128 values."""

    def __init__(self) -> None:
        super().__init__()
        widths = [1, 24, 48, 96]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.GroupNorm(8, b) for b in widths[1:])
        self.project = nn.Linear(96 * 4 * 4, 128)
        self.standardise = nn.BatchNorm1d(128, affine=False)
        self.dropout = nn.Dropout(0.25)
        self.classify = nn.Linear(128, 10)

    def features(self, x: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.silu(norm(convolution(x)))
        return self.standardise(self.project(x.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.dropout(F.silu(self.features(x))))


def train(images: Tensor, labels: Tensor) -> JudgeNetwork:
    """``images`` (N, 1, 28, 28) uint8, ``labels`` (N,)."""
    torch.manual_seed(SEED)
    network = JudgeNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.02)
    x, per_epoch, order = to_unit_range(images), len(images) // BATCH, torch.empty(0, dtype=torch.int64)
    for i in range(EPOCHS * per_epoch):
        if i % per_epoch == 0:
            order = torch.randperm(len(x))
        rows = order[i % per_epoch * BATCH :][:BATCH]
        picked = torch.roll(x[rows], torch.randint(-2, 3, (2,)).tolist(), (2, 3))
        progress = i / (EPOCHS * per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, progress / 0.1) * 0.5 * (1 + math.cos(math.pi * progress))
        loss = F.cross_entropy(network(picked.flip(3) if i % 2 else picked), labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@functools.cache
def judge_network() -> FeatureExtractor:
    """Its features, as the metrics want them."""
    network = JudgeNetwork()
    network.load_state_dict({name: value.float() for name, value in safetensors.torch.load_file(WEIGHTS).items()}, strict=False)
    network.eval().requires_grad_(False)
    return FeatureExtractor(NAME, network.features)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    begin = time.process_time()
    network = train(*read_debian(options.data, "train"))
    weights = {name: value.half().contiguous() for name, value in network.state_dict().items() if value.is_floating_point()}
    network.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    images, labels = read_debian(options.data, "test")
    with torch.no_grad():
        right = torch.cat([network(x) for x in to_unit_range(images).split(500)]).argmax(1).eq(labels).float().mean()
    safetensors.torch.save_file(weights, options.out)
    print(f"{float(right):.4f} of the test images right, {time.process_time() - begin:.0f} s on one core")


if __name__ == "__main__":
    main()
