"""Every tuning method against the others and the best untuned grids, on the bundled model and on two exact-score oracles.

    python -m benchmarks compare                            # all: hours on two cores; resumable, and several processes share the work
    python -m benchmarks compare --models digits mixture    # the oracles only: minutes
    python -m benchmarks compare --methods endpoint all=endpoint:tune=network_times+times+coefficients
    python -m benchmarks figures                            # the default method on the bundled model alone, into build/
    python -m benchmarks compare --redraw                   # only the pictures, anew from the results that are there

1,000 test x_T; writes benchmarks/results/compare-MODEL.json, .txt, .md and .png. The cells are those of ``ttune compare`` and
lie in WORK/MODEL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import tyro

import ttune
from benchmarks import oracles
from benchmarks.machine import machine
from benchmarks.result_paths import BUILD, RESULTS, command, is_part
from ttune import zoo
from ttune.comparison import Comparison, parse_methods
from ttune.comparison.plot import write_plot
from ttune.evaluation import FeatureStatistics, lenet64, lenet64_train_statistics
from ttune.evaluation.features.pooled_pixels import pooled_features
from ttune.tuning.methods.registry import METHODS
from ttune.zoo.fashion_mnist import load_test_images, to_unit_range


@dataclass
class CompareOptions:
    """Compare tuning methods at several budgets."""

    models: tuple[str, ...] = ("digits", "mixture", "fashion")
    methods: tuple[str, ...] = (*METHODS, *(f"{name}@best" for name in METHODS if METHODS[name]().changes == ("network_times",)))
    """Methods and their settings, as in ``ttune compare``; those that cannot move the steps start from the best grid too."""
    steps: tuple[int, ...] = (3, 4, 5, 6, 8, 10)
    samplers: tuple[str, ...] = ("ddim", "dpmpp_2m")
    untuned_samplers: tuple[str, ...] = ("ipndm", "unipc", "dpmpp_3m")
    """Samplers that are not tuned, but may be the best untuned one: untuned, they are the best at few steps on these models."""
    curve: int = 20
    """Best untuned grids from 3 steps to this many."""
    test_samples: int = 1000
    """x_T that the figures are measured on."""
    tuning: int = 128
    """x_T that schedules are tuned on."""
    progress: bool = True
    work: Path = Path("runs/compare")
    """Finished cells and checkpoints; an interrupted run goes on from here."""
    redraw: bool = False
    """Measure nothing: draw the pictures of all compare-*.json in OUT again."""
    out: Path | None = None
    """Folder of the results; by default benchmarks/results, and build where anything above but the models is not the default."""


def main(argv: Sequence[str] | None = None) -> None:
    args = tyro.cli(CompareOptions, args=argv, prog="python -m benchmarks compare", description=__doc__)
    out = args.out or (BUILD if is_part(args, "models", "redraw") else RESULTS)
    if args.redraw:
        for file in sorted(out.glob("compare-*.json")):
            print(f"Wrote {write_plot(msgspec.json.decode(file.read_bytes()), file.with_suffix('.png'))}")
        return
    report = {"command": command("compare", argv), "machine": machine()}
    for model in args.models:
        comparison = compared(args, model)
        print(comparison.table())
        files = comparison.save(out / f"compare-{model}.json", report)
        print(f"Wrote {', '.join(map(str, files))}")


def compared(args: CompareOptions, model: str) -> Comparison:
    """The comparison on one model."""
    if model not in MODELS:
        raise ValueError(f"models must be among {list(MODELS)}, got {model!r}")
    denoiser, data, features, real = MODELS[model]()
    return ttune.compare(
        denoiser,
        parse_methods(args.methods),
        samplers=args.samplers,
        steps=args.steps,
        curve=range(3, args.curve + 1),
        untuned_samplers=args.untuned_samplers,
        samples=args.tuning,
        test_samples=args.test_samples,
        data=data,
        features=features,
        real=real,
        work=args.work / model,
        progress=args.progress,
    )


Model = tuple[ttune.Denoiser, Any, Any, FeatureStatistics]  # denoiser, clean data, features (None: pooled pixels), real images in them


def _fashion() -> Model:
    images, labels = load_test_images()
    return zoo.load("fashion"), (to_unit_range(images), {"class_label": labels}), lenet64(), lenet64_train_statistics()


def _oracle(name: str) -> Callable[[], Model]:
    def model() -> Model:
        data = getattr(oracles, f"{name}_data")()
        return getattr(oracles, name)(), data, None, FeatureStatistics.of_features(pooled_features(data), "pooled pixels")

    return model


MODELS: dict[str, Callable[[], Model]] = {"fashion": _fashion, "digits": _oracle("digits"), "mixture": _oracle("mixture")}
