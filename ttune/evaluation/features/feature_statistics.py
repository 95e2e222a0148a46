"""Mean and covariance of image features: all that a Fréchet distance needs to know of a set of images."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from torch import Tensor

from ttune.storage.atomic_write import write_atomically

FORMAT = "ttune.feature_statistics"
VERSION = "1"
MAX_FEATURES = 16_384  # Inception has 2,048; a covariance of so many fills 2 GiB
# Above the rounding of a float64 sum over some 1e5 rows of 2048 features, far below any real asymmetry.
_SYMMETRY = 1e-9
_DIGITS = 4300  # of a count in a file: Python reads no longer number
BLOCK = 4096  # rows in float64 at a time, 64 MiB of 2048 features: arrays on disk are never in memory as a whole


def features_of(function: Callable[[Tensor], NDArray | Tensor], x: Tensor) -> NDArray[np.float64]:
    """:func:`as_features` of ``function(x)`` in memory of its own: a function may return the same at every call, and write into ``x``."""
    return np.array(as_features(function(x.clone())))


def as_features(features: NDArray | Tensor, argument: str = "features") -> NDArray[np.float64]:
    """Check and convert to a float64 array (N, F).

    Raises:
        ValueError: not two-dimensional, no column, or not finite.
    """
    array = features.detach().cpu().numpy() if isinstance(features, Tensor) else np.asarray(features)
    array = array.astype(np.float64, copy=False)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{argument}: must be (N, F) with F >= 1, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{argument}: must be finite, got {int((~np.isfinite(array)).sum())} values that are not")
    return array


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean (F,) and unbiased covariance (F, F), both float64, of ``count`` feature vectors from the extractor ``features``.

    ``count`` is None where a file from elsewhere does not say.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, an asymmetric covariance or a negative
            variance, a count below 2, or an empty ``features`` name.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    count: int | None
    features: str

    def __post_init__(self) -> None:
        for name in ("mean", "covariance"):
            value = getattr(self, name)
            if not isinstance(value, np.ndarray) or value.dtype != np.float64:
                raise ValueError(f"{name}: must be a float64 array, got {getattr(value, 'dtype', type(value).__name__)}")
            if not np.isfinite(value).all():
                raise ValueError(f"{name}: must be finite, got {int((~np.isfinite(value)).sum())} values that are not")
        if self.mean.ndim != 1 or self.mean.size == 0:
            raise ValueError(f"mean: must be (F,) with F >= 1, got shape {self.mean.shape}")
        if self.covariance.shape != (self.mean.size, self.mean.size):
            raise ValueError(f"covariance: must be {(self.mean.size, self.mean.size)} as mean is, got shape {self.covariance.shape}")
        asymmetry = float(np.abs(self.covariance - self.covariance.T).max())
        if asymmetry > _SYMMETRY * float(np.abs(self.covariance).max()):
            raise ValueError(f"covariance: must be symmetric, got entries that differ by {asymmetry:g} from their transposes")
        if self.covariance.diagonal().min() < 0:
            raise ValueError(f"covariance: variances must be >= 0, got {self.covariance.diagonal().min():g}")
        if self.count is not None and self.count < 2:
            raise ValueError(f"count: must be at least 2, got {self.count}")
        if not self.features:
            raise ValueError("features: must name the feature extractor, got an empty string")
        for name in ("mean", "covariance"):  # read-only, since the bundled statistics are one object for all callers
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    @classmethod
    def of_features(cls, array: NDArray | Tensor, features: str, argument: str = "features") -> FeatureStatistics:
        """Statistics of the feature vectors ``array`` (N, F), N >= 2, made by the extractor named ``features``."""
        builder = StatisticsBuilder(features)
        for start in range(0, max(1, len(array)), BLOCK):
            builder.add(array[start : start + BLOCK], argument)
        return builder.build()

    def save(self, path: str | os.PathLike[str], metadata: dict[str, str] | None = None) -> None:
        """Write to ``path`` as safetensors, with ``metadata`` beside the count and the extractor's name."""
        header = {**(metadata or {}), "format": FORMAT, "version": VERSION, "features": self.features}
        header["count"] = "unknown" if self.count is None else str(self.count)
        tensors = {"mean": np.ascontiguousarray(self.mean), "covariance": np.ascontiguousarray(self.covariance)}
        write_atomically(path, safetensors.numpy.save(tensors, header))

    @classmethod
    def load(cls, path: str | os.PathLike[str], features: str | None = None) -> FeatureStatistics:
        """Read and check a file of ``save``; with ``features``, the file must be of that extractor.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: not such a file, or its contents break a rule of this class.
        """
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                header = file.metadata() or {}
                sizes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a mapping)
                # Before they fill the memory, or have more dimensions than NumPy knows.
                if any(len(size) > 2 or max(size, default=0) > MAX_FEATURES for size in sizes.values()):
                    raise ValueError(
                        f"path: must hold at most {MAX_FEATURES} features in one or two dimensions, got {os.fspath(path)} with "
                        f"{reprlib.repr(sizes)}"
                    )
                tensors = {name: file.get_tensor(name) for name in sizes}
        except (safetensors.SafetensorError, AttributeError, TypeError) as error:  # the latter: dtypes that NumPy has not
            raise ValueError(f"path: must be a safetensors file of feature statistics, got {os.fspath(path)} ({error})") from error
        if header.get("format") != FORMAT or header.get("version") != VERSION or tensors.keys() != {"mean", "covariance"}:
            raise ValueError(
                f"path: must hold mean and covariance in format {FORMAT} {VERSION}, got {os.fspath(path)} with "
                f"{sorted(tensors)} in format {header.get('format')} {header.get('version')}"
            )
        count = header.get("count", "")
        if count != "unknown" and not (count.isascii() and count.isdigit() and len(count) <= _DIGITS):
            raise ValueError(
                f"count: must be a whole number of at most {_DIGITS} digits, got {reprlib.repr(header.get('count'))} in {os.fspath(path)}"
            )
        if features is not None and header.get("features") != features:
            raise ValueError(f"features: must be {features!r}, got {header.get('features')!r} in {os.fspath(path)}")
        try:
            return cls(tensors["mean"], tensors["covariance"], None if count == "unknown" else int(count), header.get("features", ""))
        except ValueError as error:
            raise ValueError(f"{error} in {os.fspath(path)}") from None


class StatisticsBuilder:
    """Accumulates feature vectors chunk by chunk in float64, without keeping them.

    Chunks are merged about their own means (Chan, Golub and LeVeque 1983, eq. 1.5), so a mean far from
    zero costs no digits and the order and size of the chunks change rounding only.
    """

    def __init__(self, features: str) -> None:
        self.features = features
        self.count = 0
        self._mean: NDArray[np.float64] = np.zeros(0)  # (F,), once F is known
        self._scatter: NDArray[np.float64] = np.zeros((0, 0))  # sum of (x - mean)(x - mean)^T

    def add(self, features: NDArray | Tensor, argument: str = "features") -> StatisticsBuilder:
        """Take in a chunk (N, F), N >= 0; returns the builder itself."""
        chunk = as_features(features, argument)
        if self._mean.size == 0:
            self._mean, self._scatter = np.zeros(chunk.shape[1]), np.zeros((chunk.shape[1], chunk.shape[1]))
        columns = len(self._mean)
        if chunk.shape[1] != columns:
            raise ValueError(f"features: must have {columns} columns like the earlier chunks, got shape {chunk.shape}")
        if len(chunk) == 0:
            return self
        mean = chunk.mean(0)
        centred = chunk - mean
        total = self.count + len(chunk)
        shift = mean - self._mean
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self.count * len(chunk) / total)
        self._mean += shift * (len(chunk) / total)
        self.count = total
        return self

    def build(self) -> FeatureStatistics:
        """The statistics of all chunks so far.

        Raises:
            ValueError: fewer than two feature vectors were added.
        """
        if self.count < 2:
            raise ValueError(f"count: a covariance needs at least 2 feature vectors, got {self.count}")
        covariance = self._scatter / (self.count - 1)
        return FeatureStatistics(self._mean.copy(), (covariance + covariance.T) / 2, self.count, self.features)
