"""Real samples to come near to: one half to tune on, the other to judge by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttune.evaluation.features.extractor import lenet64_train_statistics
from ttune.evaluation.features.feature_statistics import FeatureStatistics
from ttune.evaluation.images.arrays import read_npz
from ttune.evaluation.images.image_source import Pictures
from ttune.evaluation.images.references import open_reference
from ttune.network.conditions import digest
from ttune.network.denoiser import Conditions
from ttune.tuning.conditions import conditions_from
from ttune.tuning.distribution.feature_maps import Part
from ttune.zoo.fashion_mnist import load_test_images, to_unit_range

BUNDLED = "fashion"
MOST = 20_000  # samples of a reference that are looked at
BATCH = 256
LEAST = 16  # samples of a reference: half of them tune, half judge


@dataclass(frozen=True)
class Reference:
    """Real samples by ``name``, or nothing but ``statistics`` of them in some features, or both.

    ``conditions`` of the samples, one row each: a tuning draws its own as they are distributed.
    """

    name: str
    samples: Pictures | None = None
    statistics: tuple[FeatureStatistics, ...] = ()
    conditions: Mapping[str, Tensor] | None = None

    def draw(self, seed: int) -> Callable[[Tensor], Conditions] | None:
        """Conditions of seeds as the reference has them; None where it has none."""
        return None if self.conditions is None else conditions_from(self.conditions, seed=seed)

    def knows(self, part: Part) -> bool:
        return self.samples is not None or any(s.features == part.name for s in self.statistics)

    def identity(self) -> dict[str, Any]:
        """For a checkpoint's fingerprint."""
        samples = None if self.samples is None else self.samples.digest(min(MOST, len(self.samples)))
        moments = [digest(torch.from_numpy(np.array(a))) for s in self.statistics for a in (s.mean, s.covariance)]
        return {"name": self.name, "samples": samples, "statistics": moments, "conditions": digest(dict(self.conditions or {}))}

    def to_tune(self, part: Part) -> FeatureStatistics:
        """In the features of ``part``: given statistics where there are any, else of every second sample."""
        for given in self.statistics:
            if given.features == part.name:
                return given
        return FeatureStatistics.of_features(self._features(part, 0, MOST), part.name)

    def to_judge(self, part: Part, most: int = MOST) -> NDArray[np.float64] | FeatureStatistics:
        """Features (n, F) of the samples that :meth:`to_tune` leaves out, or statistics where there are no samples."""
        return self.to_tune(part) if self.samples is None else self._features(part, 1, most)

    def _features(self, part: Part, first: int, most: int) -> NDArray[np.float64]:
        assert self.samples is not None
        count, found = min(len(self.samples), 2 * most, MOST), []
        for rows in _blocks(count):
            for batch in self.samples.read(rows):
                mine = batch[first::2]  # blocks and batches of one size begin at even rows
                found.append(part(mine, {}).numpy())
        return np.concatenate(found)


def _blocks(count: int) -> Iterator[range]:
    return (range(i, min(i + BATCH, count)) for i in range(0, count, BATCH))


@dataclass(frozen=True)
class TensorSamples:
    """Samples in memory: (N, ...), floating, in the network's range."""

    name: str
    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def digest(self, count: int) -> str:
        return digest(self.values[:count])

    def read(self, rows: range) -> Iterator[Tensor]:
        yield self.values[rows.start : rows.stop]


def as_reference(reference: Any, shape: Sequence[int], names: Sequence[str] = ()) -> Reference:
    """What the caller of :func:`ttune.tune` may give as ``reference``.

    "fashion" (the bundled images; LeNet-64 is tuned on the training images' statistics), a path to a folder, .npz, .npy or
    .safetensors as ``ttune evaluate`` reads it, samples (N, ...), (samples, conditions), or :class:`FeatureStatistics`. Labels in an .npz
    ("labels") are the condition of that kind where the denoiser draws exactly one (``names``).

    Raises:
        TypeError, ValueError: anything else, or too few samples. FileNotFoundError: no such file.
    """
    if isinstance(reference, Reference):
        return reference
    if isinstance(reference, FeatureStatistics):
        return Reference(reference.features, statistics=(reference,))
    if isinstance(reference, str) and reference == BUNDLED and not Path(reference).exists():
        real = TensorSamples("Fashion-MNIST", to_unit_range(load_test_images()[0]))
        return Reference(real.name, real, (lenet64_train_statistics(),))  # as many of each class, as the bundled model draws them
    if isinstance(reference, (str, PathLike)):
        return _opened(Path(reference), shape, names)
    samples, conditions = reference if isinstance(reference, tuple) and len(reference) == 2 else (reference, None)
    floating = isinstance(samples, Tensor) and samples.is_floating_point()
    if not isinstance(samples, Tensor) or not floating or (shape and samples.shape[1:] != tuple(shape)):
        got = f"{samples.dtype} {tuple(samples.shape)}" if isinstance(samples, Tensor) else type(samples).__name__
        wanted = ", ".join(map(str, shape)) or "..."
        raise TypeError(
            f"reference must be '{BUNDLED}', a path, FeatureStatistics, floating samples (N, {wanted}), or such "
            f"samples and their conditions, got {got}"
        )
    return _checked(Reference("given samples", TensorSamples("given samples", samples), (), conditions))


def _opened(path: Path, shape: Sequence[int], names: Sequence[str]) -> Reference:
    if path.suffix == ".safetensors":
        return Reference(str(path), statistics=(FeatureStatistics.load(path),))
    opened = open_reference(path, "unnamed", shape[0] if len(shape) == 3 else None)
    if isinstance(opened, FeatureStatistics):
        raise ValueError(
            f"reference: {path} holds statistics that do not say of what features; save them with FeatureStatistics.save, which says it"
        )
    labels = read_npz(path, ["labels"], 8 * MOST * 64)[0].get("labels") if path.suffix == ".npz" else None
    own = None
    if labels is not None and len(names) == 1 and len(labels) == len(opened):
        own = {names[0]: torch.from_numpy(np.asarray(labels).astype(np.int64))}
    return _checked(Reference(str(path), opened, (), own))


def _checked(reference: Reference) -> Reference:
    assert reference.samples is not None
    if len(reference.samples) < LEAST:
        raise ValueError(
            f"reference must hold at least {LEAST} samples, half to tune on and half to judge by, got {len(reference.samples)}"
        )
    return reference
