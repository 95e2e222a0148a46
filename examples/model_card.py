"""The picture and the figures of the bundled model's card: 100 samples of 100 steps, and Fréchet distances.

python examples/model_card.py --picture ttune/zoo/data/fashion_samples.png
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import tyro

import ttune
from ttune import zoo
from ttune.evaluation import frechet_distance, frechet_standard_error, lenet64, lenet64_train_statistics, save_grid
from ttune.evaluation.features.feature_statistics import FeatureStatistics
from ttune.evaluation.judge import CandidateMetrics
from ttune.tuning.starting_points import drawn_points
from ttune.zoo.fashion_mnist import load_test_images, to_unit_range
from ttune.zoo.lenet import load_lenet64


@dataclasses.dataclass
class Args:
    """Sample the bundled model at 100 DDIM steps and judge it."""

    picture: Path = Path("fashion_samples.png")
    weights: Path | None = None
    """Other weights than the bundled ones, to judge a training run."""
    steps: int = 100
    n: int = 2000


def main(args: Args) -> None:
    denoiser = zoo.fashion(args.weights)
    x_T, conditions = drawn_points(denoiser, torch.arange(args.n))
    judge = CandidateMetrics(denoiser, x_T, conditions, lenet64(), lenet64_train_statistics())
    images = judge.samples(ttune.Schedule.build(denoiser.noise, "ddim", args.steps, "trailing"))
    # Column c of the picture is class c: the label is the seed modulo 10.
    save_grid(args.picture, images[:100], 10)
    features, real = judge.features(images), lenet64_train_statistics()
    distance = frechet_distance(FeatureStatistics.of_features(features, real.features), real)
    test = judge.features(to_unit_range(load_test_images()[0][: args.n]))
    floor = frechet_distance(FeatureStatistics.of_features(test, real.features), real)
    with torch.no_grad():
        named = load_lenet64()(images).argmax(1)
    agreement = (named == conditions["class_label"]).float().mean().item()
    print(f"Fréchet distance (LeNet-64), {args.n} samples, {args.steps} steps, against 60,000 training images: ", end="")
    print(f"{distance:.2f} ± {frechet_standard_error(features, real):.2f}; {args.n} real test images: {floor:.2f}")
    print(f"LeNet-64 names the class that was asked for in {agreement:.1%} of the samples")


if __name__ == "__main__":
    main(tyro.cli(Args))
