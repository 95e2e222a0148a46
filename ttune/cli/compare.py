"""``ttune compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ttune.cli.arguments import ModelFlags, Sampler, check_counts, check_paths
from ttune.cli.bundled import bundled_data, bundled_features
from ttune.tuning.methods.registry import METHODS


def compare(
    out: Path,
    methods: tuple[str, ...] = tuple(METHODS),
    model: str = "fashion",
    samplers: tuple[Sampler, ...] = ("ddim", "dpmpp_2m"),
    steps: tuple[int, ...] = (3, 4, 5, 6, 8, 10),
    curve: int = 20,
    references: tuple[Sampler, ...] = (),
    samples: int = 128,
    validation_samples: int = 256,
    test_samples: int = 1000,
    batch_size: int = 64,
    data: str | None = None,
    loading: ModelFlags = ModelFlags(),  # noqa: B008 (frozen)
    seed: int = 0,
    quiet: bool = False,
) -> None:
    """Tune with several methods on the same x_T, and judge all of them, and the best untuned grids, on x_T that no tuning saw.

    Example: ttune compare --methods endpoint trajectory timetuner:procedure=parallel,iterations=100 --steps 5 --out runs/compare

    A method is written [label=]method[@best][:field=value,...]: the fields are its settings (ttune.tuning's dataclasses), the words
    of a list are joined by +, as in all=endpoint:tune=network_times+times,iterations=50. Without a label the text is the label.
    Tunings start from the leading grid, with @best from the best untuned grid, and are charged for the search.
    The same command goes on where an earlier one stopped; several processes may run it at once with the same --out and share the work.

    Args:
        out: Folder: comparison.json has the settings, cells/ every finished cell, report.json, .txt, .md and .png the outcome.
        methods: Methods and their settings.
        model: As in ttune tune.
        samplers: Samplers.
        steps: Step budgets.
        curve: The best untuned grids of 3 steps up to this many are there to say how many untuned steps a tuned schedule is worth.
        references: More samplers whose best untuned grids are there too, at the budgets and twice that.
        samples: x_T to tune on.
        validation_samples: x_T of each tuning's validation.
        test_samples: x_T that the figures are measured on.
        batch_size: Samples in one network call.
        data: package.module:factory that returns clean samples (n, ...), for the methods that need them (the bundled model has its own).
        loading: How the model is loaded.
        seed: Of the tuning x_T.
        quiet: No progress bars.
    """
    import ttune

    check_paths(out=out, prompts=loading.prompts)
    check_counts(batch_size=batch_size)
    denoiser = loading.load(model)
    clean = _data(data) if data is not None else bundled_data(model) if model == "fashion" else None
    features = bundled_features(model)
    comparison = ttune.compare(
        denoiser,
        methods,
        samplers=samplers,
        steps=steps,
        curve=range(3, curve + 1),
        references=references,
        samples=samples,
        validation_samples=validation_samples,
        test_samples=test_samples,
        batch_size=batch_size,
        data=clean,
        features=features,
        real=_real_statistics(model, clean, features),
        seed=seed,
        work=out,
        progress=not quiet,
    )
    files = comparison.save(out / "report.json")
    print(comparison.table())
    print(f"Wrote {', '.join(map(str, files))}")
    if comparison.failed:
        raise ValueError(f"{len(comparison.failed)} cells failed (see above); the same command tries them again")


def _data(name: str) -> Any:
    """What the function of this name returns."""
    import torch

    from ttune.cli.models import imported

    made: Any = imported("data", name)()
    images = made[0] if isinstance(made, tuple) and len(made) == 2 else made
    if not isinstance(images, torch.Tensor):
        raise TypeError(
            f"data: {name!r} must return a tensor of clean samples (n, ...), or (samples, conditions), got {type(images).__name__}"
        )
    return made


def _real_statistics(model: str, clean: Any, features: Any) -> Any:
    """Of real images in the features that samples are compared in."""
    from ttune.evaluation import lenet64_train_statistics
    from ttune.evaluation.features.feature_statistics import FeatureStatistics
    from ttune.evaluation.features.pooled_pixels import pooled_features

    if features is not None:
        return lenet64_train_statistics()
    images = clean[0] if isinstance(clean, tuple) else clean
    return None if images is None else FeatureStatistics.of_features(pooled_features(images), "pooled pixels")
