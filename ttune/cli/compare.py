"""``ttune compare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttune.cli.arguments import ModelFlags, Sampler, check_counts, check_paths
from ttune.cli.models import bundled_data, bundled_features, imported
from ttune.tuning.methods.registry import METHODS


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Tune with several methods from the same noises, and measure all of them, and the best untuned schedules, on noises that none saw.

    Example: ttune compare --methods endpoint trajectory timetuner:procedure=parallel,iterations=100 --steps 5 --out runs/compare

    A method is written [label=]method[@best][:field=value,...]: the fields are its settings (see ttune info), the words of a list are
    joined by +, as in all=endpoint:tune=network_times+times,iterations=50. Without a label the text is the label.
    Tunings start from the leading spacing, with @best from the best untuned schedule, and are charged for the search.
    The same command goes on where an earlier one stopped; several processes may run it at once with the same --out and share the work.
    """

    out: Path
    """Folder: comparison.json has the settings, cells/ every finished cell, report.json, .txt, .md and .png the outcome."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Methods and their settings."""
    model: str = "fashion"
    """As in ttune tune."""
    samplers: tuple[Sampler, ...] = ("ddim", "dpmpp_2m")
    """Samplers to tune for."""
    steps: tuple[int, ...] = (3, 4, 5, 6, 8, 10)
    """Numbers of steps."""
    samples: int = 128
    """Starting noises to tune on."""
    validation_samples: int = 256
    """Starting noises of each tuning's validation."""
    test_samples: int = 1000
    """Starting noises that the figures are measured on."""
    curve: int = 20
    """Untuned schedules of 3 to so many steps are there too, to say how many untuned steps a tuned schedule is worth."""
    untuned_samplers: tuple[Sampler, ...] | None = None
    """More samplers whose best untuned schedules are there, with the steps and twice as many: no method, the steps are spent. By default
    all deterministic ones with one evaluation a step."""
    max_evaluations: int | None = None
    """Network evaluations of each tuning, without those of the teacher's samples: the same for every method that knows a limit."""
    batch_size: int = 64
    """Samples in one network call."""
    data: str | None = None
    """package.module:factory that returns clean samples (n, ...), for the methods that need them (the bundled model has its own)."""
    seed: int = 0
    """Random seed of the starting noises to tune on."""
    quiet: bool = False
    """No progress bars."""
    loading: ModelFlags = ModelFlags()

    def run(self) -> None:
        import ttune

        check_paths(out=self.out, prompts=self.loading.prompts)
        check_counts(batch_size=self.batch_size)
        denoiser = self.loading.load(self.model)
        clean = _data(self.data) if self.data is not None else bundled_data(self.model) if self.model == "fashion" else None
        features = bundled_features(self.model)
        same = ("samplers", "steps", "samples", "validation_samples", "test_samples", "batch_size", "seed")
        comparison = ttune.compare(
            denoiser,
            self.methods,
            **{name: getattr(self, name) for name in same},
            curve=range(3, self.curve + 1),
            untuned_samplers=self.untuned_samplers,
            max_evaluations=self.max_evaluations,
            data=clean,
            features=features,
            real=_real_statistics(clean, features),
            work=self.out,
            progress=not self.quiet,
        )
        files = comparison.save(self.out / "report.json")
        print(comparison.table())
        print(f"Wrote {', '.join(map(str, files))}")
        if comparison.failed:
            raise ValueError(f"{len(comparison.failed)} cells failed (see above); the same command tries them again")


def _data(name: str) -> Any:
    """What the function of this name returns."""
    import torch

    made: Any = imported("data", name)()
    images = made[0] if isinstance(made, tuple) and len(made) == 2 else made
    if not isinstance(images, torch.Tensor):
        raise TypeError(
            f"data: {name!r} must return a tensor of clean samples (n, ...), or (samples, conditions), got {type(images).__name__}"
        )
    return made


def _real_statistics(clean: Any, features: Any) -> Any:
    """Of real images in the features that samples are compared in."""
    from ttune.evaluation import lenet64_train_statistics
    from ttune.evaluation.features.feature_statistics import FeatureStatistics
    from ttune.evaluation.features.pooled_pixels import pooled_features

    if features is not None:
        return lenet64_train_statistics()
    images = clean[0] if isinstance(clean, tuple) else clean
    return None if images is None else FeatureStatistics.of_features(pooled_features(images), "pooled pixels")
