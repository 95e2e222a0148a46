"""Train LeNet-64, the bundled classifier whose features measure generated Fashion-MNIST images.

    apt-get install dataset-fashion-mnist
    python examples/train_lenet.py --out runs/lenet

Writes ``lenet64.safetensors`` (float16 weights) and ``lenet64_train_statistics.safetensors`` (mean and
covariance of the features of the 60,000 training images), the two files that ttune ships in
``ttune/zoo/data``. Accuracy and statistics are those of the weights as stored, after the rounding to
float16. One CPU thread: the result then does not depend on how a sum is split between threads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from pathlib import Path

import safetensors.torch
import torch
import tyro
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ttune.evaluation.features.feature_statistics import StatisticsBuilder
from ttune.storage.atomic_write import write_atomically
from ttune.zoo.fashion_mnist import DEBIAN_FOLDER, read_debian, to_unit_range
from ttune.zoo.lenet import NAME, TRAIN_STATISTICS, WEIGHTS, LeNet64, from_weights, half_weights


@dataclasses.dataclass
class Args:
    """Train LeNet-64 on Fashion-MNIST and write its weights and feature statistics."""

    out: Path = Path("runs/lenet")
    data: Path = DEBIAN_FOLDER
    """Folder with the four ``*-ubyte.gz`` files of Fashion-MNIST."""
    epochs: int = 14
    batch: int = 128
    lr: float = 3e-3
    """Peak learning rate of AdamW; linear warm-up over the first tenth, then cosine decay to 0."""
    weight_decay: float = 0.02
    seed: int = 0


def learning_rate(args: Args, progress: float) -> float:
    return args.lr * min(1.0, progress / 0.1) * 0.5 * (1 + math.cos(math.pi * max(0.0, (progress - 0.1) / 0.9)))


def train(args: Args, images: Tensor, labels: Tensor) -> LeNet64:
    torch.manual_seed(args.seed)
    network = LeNet64()
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, weight_decay=args.weight_decay, fused=True)
    per_epoch = len(images) // args.batch
    order = torch.empty(0, dtype=torch.int64)
    bar = tqdm(range(args.epochs * per_epoch), mininterval=10)
    for i in bar:
        if i % per_epoch == 0:
            order = torch.randperm(len(images))
        pick = order[(i % per_epoch) * args.batch :][: args.batch]
        x = to_unit_range(images[pick])
        # Clothes are nearly symmetric, so a mirrored image is a new one of the same class.
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(args, (i + 1) / (args.epochs * per_epoch))
        loss = F.cross_entropy(network(x), labels[pick], label_smoothing=0.05)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return network


@torch.no_grad()
def standardise_exactly(network: LeNet64, images: Tensor) -> LeNet64:
    """Replace the running averages of the last normalisation, up to 0.2 off, by the moments of all ``images``."""
    builder = StatisticsBuilder(NAME)
    for x in images.split(500):
        builder.add(network.features(to_unit_range(x)))
    statistics = builder.build()
    mean, variance = network.standardise.running_mean, network.standardise.running_var
    assert mean is not None
    assert variance is not None
    mean += torch.tensor(statistics.mean, dtype=torch.float32) * (variance + network.standardise.eps).sqrt()
    variance *= torch.tensor(statistics.covariance.diagonal().copy(), dtype=torch.float32)
    return network


@torch.no_grad()
def accuracy(network: LeNet64, images: Tensor, labels: Tensor) -> float:
    right = [(network(to_unit_range(x)).argmax(1) == y).sum().item() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return sum(right) / len(labels)


def main(args: Args) -> None:
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    images, labels = read_debian(args.data, "train")
    begin = time.time()
    rounded = from_weights(half_weights(train(args, images, labels)))
    stored = half_weights(standardise_exactly(rounded, images))
    network = from_weights(stored)
    test_accuracy = accuracy(network, *read_debian(args.data, "test"))

    weights = args.out / WEIGHTS.name
    metadata = {"name": NAME, "epochs": str(args.epochs), "seed": str(args.seed), "test_accuracy": f"{test_accuracy:.4f}"}
    write_atomically(weights, safetensors.torch.save(stored, metadata))

    builder = StatisticsBuilder(NAME)
    with torch.no_grad():
        for x in images.split(500):
            builder.add(network.features(to_unit_range(x)))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    builder.build().save(
        args.out / TRAIN_STATISTICS.name,
        {"images": "Fashion-MNIST train", "weights_sha256": digest, "test_accuracy": f"{test_accuracy:.4f}"},
    )
    print(f"test accuracy {test_accuracy:.2%} after {time.time() - begin:.0f} s; wrote {weights} and {TRAIN_STATISTICS.name}")


if __name__ == "__main__":
    main(tyro.cli(Args))
