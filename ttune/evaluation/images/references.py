"""What generated images are held against: statistics or features of real ones, computed once and kept."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ttune.evaluation.features.extractor import FeatureExtractor
from ttune.evaluation.features.feature_statistics import MAX_FEATURES, FeatureStatistics, StatisticsBuilder
from ttune.evaluation.images.arrays import check_regular, read_npz
from ttune.evaluation.images.image_source import Pictures, open_pictures
from ttune.storage.chunk_folder import ChunkFolder
from ttune.storage.file_lock import locked
from ttune.storage.results import key_of

_MOMENT = 8 * MAX_FEATURES**2 + 2**16  # bytes of "sigma" in float64, with its header
FORMAT = 1  # of what is kept; another number finds nothing of the old
SAME = 0.01  # of the largest value: batches and threads change float32 features by some 1e-6, another network changes all of them


@dataclass(frozen=True)
class Reference:
    """Real images, by ``name``, in some features: ``statistics`` for Fréchet distances, ``features`` (N, F) for the others."""

    name: str
    statistics: FeatureStatistics | None
    features: NDArray[Any] | None = None


def cache_folder() -> Path:
    """Where references are kept: $TTUNE_CACHE, or ttune in $XDG_CACHE_HOME, or in ~/.cache."""
    if given := os.environ.get("TTUNE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ttune"


def open_reference(path: str | Path, features: str, channels: int | None = None) -> Pictures | FeatureStatistics:
    """Real images (see :func:`ttune.evaluation.images.image_source.open_pictures`), or their statistics in the features of this name.

    Statistics are a .safetensors file of :meth:`FeatureStatistics.save`, which says what features it is of, or an .npz with
    "mu" and "sigma", as clean-fid and others keep them, which does not: it is taken at the caller's word.

    Raises:
        FileNotFoundError, ValueError: not such a file or folder, or statistics of other features.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        check_regular(path)
        return FeatureStatistics.load(path, features=features)
    moments = _moments(path) if path.suffix == ".npz" and path.is_file() else None
    return open_pictures(path, channels) if moments is None else FeatureStatistics(moments[0], moments[1], None, features)


def _moments(path: Path) -> list[NDArray[np.float64]] | None:
    """ "mu" and "sigma" of an .npz, if it has them."""
    names = ("mu", "sigma")
    found, _ = read_npz(path, names, _MOMENT)
    if not set(names) <= set(found):
        return None
    for name, array in found.items():
        if array.ndim > 2 or max(array.shape, default=0) > MAX_FEATURES or array.dtype.kind not in "fiu":
            raise ValueError(
                f"reference: {name} must be numbers of at most {MAX_FEATURES} features in one or two dimensions, got {array.dtype} "
                f"{array.shape} in {path}"
            )
    return [np.asarray(found[name], np.float64) for name in names]


def reference_of(
    source: Pictures | FeatureStatistics,
    extractor: FeatureExtractor,
    *,
    name: str | None = None,
    count: int | None = None,
    features: bool = False,
    cache: Path | None = None,
    progress: bool = True,
) -> Reference:
    """``source`` in the features of ``extractor``: its first ``count`` images (all), or statistics as they are.

    What is computed is kept in ``cache`` under a digest of the images' contents, the features' name and weights, and the
    count: the next call, of this or another process, finds it. One process computes while others wait; one that is killed loses a
    batch. Extractors of one name and without a digest, such as plain functions, are taken for the same as long as the features of
    the first images are.

    Args:
        name: how the reference is called; by default as the images are.
        features: whether the features are needed, and not only their statistics; they stay on disk.
        cache: by default :func:`cache_folder`.

    Raises:
        ValueError: statistics of other features, or with a count, or where features are needed; a count beyond the images; what is
            kept under this name is not what ``extractor`` returns.
        OSError: the cache cannot be written.
    """
    if isinstance(source, FeatureStatistics):
        if count is not None:
            raise ValueError(f"reference_samples: statistics cannot be cut down to their first images, got {count}")
        if source.features != extractor.name:
            raise ValueError(f"reference: must be of the features {extractor.name!r}, got {source.features!r}")
        if features:
            raise ValueError(
                "reference: kid and precision_recall need real images, got statistics, from which no image's features come back"
            )
        return Reference(name or "statistics", source)
    if count is not None and not 2 <= count <= len(source):
        raise ValueError(f"reference_samples must lie in [2, {len(source)}], the images in {source.name}, got {count}")
    count = len(source) if count is None else count
    folder = _folder(source, extractor, count, cache_folder() if cache is None else cache)
    if not folder.missing():
        _check_same(source, extractor, folder)
    else:
        with locked(folder.path.with_suffix(".lock"), wait=True):
            _check_same(source, extractor, folder)  # what a killed process, or one that was waited for, left
            _extract(source, extractor, folder, progress)
    return Reference(name or source.name, _statistics(folder, extractor.name), folder.table("features") if features else None)


def _folder(source: Pictures, extractor: FeatureExtractor, count: int, cache: Path) -> ChunkFolder:
    digest = source.digest(count)
    key = [FORMAT, digest, count, extractor.name, extractor.digest, extractor.batch]
    return ChunkFolder(cache / "references" / key_of(key)[:32], count, extractor.batch)


def _extract(source: Pictures, extractor: FeatureExtractor, folder: ChunkFolder, progress: bool) -> None:
    for k in tqdm(folder.missing(), desc=f"{extractor.name} of {source.name}", disable=not progress, leave=False):
        rows = folder.rows(k)
        parts = [extractor(images).numpy().astype(np.float32) for images in source.read(range(rows.start, rows.stop))]
        folder.write(k, {"features": np.concatenate(parts)})


def _check_same(source: Pictures, extractor: FeatureExtractor, folder: ChunkFolder) -> None:
    """The first images that are kept, of whichever chunk, are computed once more."""
    k = next((k for k in range(len(folder)) if folder.has(k)), None)
    if k is None:
        return
    rows = folder.rows(k)
    images = next(source.read(range(rows.start, min(rows.start + 2, rows.stop))))
    stored, now = folder.read(k, "features")[: len(images)], extractor(images).numpy()
    if stored.shape != now.shape or not np.abs(stored - now).max() <= SAME * np.abs(stored).max():  # so that NaN is not the same
        raise ValueError(
            f"cache: what {folder.path} holds of the features {extractor.name!r} is not what they are now; "
            f"give the extractor another name or digest, or remove the folder"
        )


def _statistics(folder: ChunkFolder, name: str) -> FeatureStatistics:
    """Kept beside the chunks, for with 2048 features they take longer than reading does."""
    file = folder.path / "statistics"
    try:
        return FeatureStatistics.load(file, features=name)
    except (FileNotFoundError, ValueError):  # not yet there, or not whole: they can be made again
        pass
    builder = StatisticsBuilder(name)
    for k in range(len(folder)):
        builder.add(folder.read(k, "features"))
    statistics = builder.build()
    statistics.save(file)
    return statistics
