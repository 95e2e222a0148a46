"""An evaluation from beginning to end: samples are made, chunk by chunk, and figures of them, by the first of the ranks."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from ttune.distributed import Ranks
from ttune.evaluation.cached_samples import CachedSamples, Candidate
from ttune.evaluation.features.feature_statistics import FeatureStatistics
from ttune.evaluation.images.decoded import LATENTS, pictures_of
from ttune.evaluation.images.image_source import Pictures
from ttune.evaluation.images.references import Reference, reference_of
from ttune.evaluation.metric_rows import Figures
from ttune.evaluation.metrics.confidence import SPLITS
from ttune.evaluation.metrics.registry import needs_real_features
from ttune.evaluation.report_rows import ReportRow
from ttune.storage.file_lock import locked


@dataclass(frozen=True)
class Real:
    """Real images, not looked at yet: ``source`` is what :func:`ttune.evaluation.images.references.open_reference` returns.

    Attributes:
        statistics: what Fréchet distances are to, if not to ``source``; ``statistics_name`` is how they are called.
        count: the first so many images only.
        cache: where their features are kept; by default the user's cache folder.
    """

    name: str
    source: Pictures | FeatureStatistics
    statistics: FeatureStatistics | None = None
    statistics_name: str = ""
    count: int | None = None
    cache: Path | None = None


def evaluate(
    samples: CachedSamples,
    candidates: Sequence[Candidate],
    *,
    metrics: Sequence[str] = ("fid", "rmse"),
    real: Real | None = None,
    splits: int = SPLITS,
    resamples: int = 20,
) -> list[ReportRow]:
    """The figures of ``candidates``, and of the teacher of ``samples`` if there is one, as rows of a table; on ranks but the first none.

    Memory does not grow with the number of samples: images are dropped when their features are on disk, and features are read a
    block at a time. See :class:`ttune.evaluation.cached_samples.CachedSamples` for what is kept and found again, and
    :class:`ttune.evaluation.metric_rows.Figures` for ``metrics`` (without real images "fid" is left to the teacher's samples),
    ``splits`` and ``resamples``.

    Raises:
        ValueError: metrics that need real images, their features, or a teacher, where there are none; real images or statistics that
            cannot be used, before any sample is made.
        FloatingPointError: a sample that is not finite.
    """
    plain = Figures(samples.features, tuple(metrics), splits=splits, resamples=resamples)
    _check(plain.metrics, samples, real)
    found: list[tuple[Reference | None, Reference | None]] = []
    # First, for a broken image must not cost the samples; on the first rank alone, and what it finds is too large to be passed on.
    samples.ranks.from_first(lambda: found.append((None, None) if real is None else _references(real, plain, samples)))
    samples.make(candidates)
    if not samples.ranks.first:
        return []
    ((statistics, features),) = found
    stored = None if samples.teacher is None else samples.folder(samples.teacher)
    teacher = None if stored is None else stored.table("features")
    space = LATENTS if samples.denoiser.decode is not None else ""
    figures = Figures(samples.features, plain.metrics, statistics, features, teacher, splits, resamples, space)
    bar = tqdm(candidates, desc="figures", disable=not samples.progress, leave=False)
    rows = [figures.row(candidate, samples.folder(candidate)) for candidate in bar]
    if samples.teacher is not None and stored is not None:
        rows.append(figures.row(samples.teacher, stored, is_teacher=True))
    return rows


@contextmanager
def work_folder(given: Path | None, ranks: Ranks) -> Iterator[Path]:
    """The folder that the ranks share: ``given``, or a temporary one that is gone afterwards.

    Raises:
        ValueError: some rank does not see the folder that the first one made; another run is using it.
    """
    with ExitStack() as held:
        ranks.from_first(lambda: _lock(held, given))
        with _seen_by_all(given, ranks) as folder:
            yield folder


def _lock(held: ExitStack, given: Path | None) -> None:
    """Two runs in one folder would take each other's unfinished files for those of a killed one."""
    if given is not None and not held.enter_context(locked(given / ".lock", wait=False)):
        raise ValueError(f"work: another evaluation is using {given}; wait for it, or name another folder")


@contextmanager
def _seen_by_all(given: Path | None, ranks: Ranks) -> Iterator[Path]:
    temporary = ranks.from_first(lambda: tempfile.mkdtemp(prefix="ttune-evaluate-") if given is None else "")
    folder = Path(temporary) if given is None else given
    try:
        mark = folder / f".{ranks.from_first(lambda: uuid.uuid4().hex)}.seen"
        ranks.from_first(lambda: _marked(mark))
        blind = [rank for rank, sees in enumerate(ranks.everyones(mark.exists())) if not sees]
        if ranks.first:
            mark.unlink()
        if blind:
            raise ValueError(f"work: all ranks must see {folder}, ranks {blind} do not; name a folder on a disk that they share (--work)")
        yield folder
    finally:
        if given is None and ranks.first:
            shutil.rmtree(folder, ignore_errors=True)


def _marked(mark: Path) -> None:
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def _check(metrics: Sequence[str], samples: CachedSamples, real: Real | None) -> None:
    """What cannot come out well is refused before hours of sampling."""
    for name in needs_real_features(metrics):
        if real is None:
            raise ValueError(f"metrics: {name} needs real images; name some with reference")
        if isinstance(real.source, FeatureStatistics):
            raise ValueError(f"metrics: {name} needs real images, got statistics, from which no image's features come back")
    needy = [name for name in ("psnr", "rmse") if name in metrics]
    # Beside other metrics rmse, a default, is left out without a teacher; alone it would leave nothing.
    if samples.teacher is None and needy and ("psnr" in needy or list(metrics) == needy):
        raise ValueError(f"metrics: {needy[0]} needs the teacher's samples, got no teacher")
    if "kid" in metrics:
        from ttune.evaluation.features.cleanfid import import_cleanfid

        import_cleanfid("fid")


def _references(real: Real, figures: Figures, samples: CachedSamples) -> tuple[Reference, Reference | None]:
    """(for Fréchet distances, for what needs features)."""
    needed = bool(needs_real_features(figures.metrics))
    own = Reference(real.statistics_name, real.statistics)
    for given in (real.statistics, real.source):
        if isinstance(given, FeatureStatistics):
            _check_width(given, samples)
    if real.statistics is not None and not needed:
        return own, None
    options = {"name": real.name, "count": real.count, "cache": real.cache, "progress": samples.progress}
    found = reference_of(real.source, samples.features, features=needed, **options)
    return (found if real.statistics is None else own), (found if needed else None)


def _check_width(statistics: FeatureStatistics, samples: CachedSamples) -> None:
    """An .npz does not say what features it is of: one picture, of a starting point, tells how many there are."""
    x_T, _ = samples.points(torch.tensor([samples.seed]))
    width = samples.features(pictures_of(samples.denoiser, x_T.clamp(-1, 1))).shape[1]
    if width != statistics.mean.size:
        raise ValueError(
            f"reference: must be statistics of {width} features, as many as {samples.features.name!r} makes, got {statistics.mean.size}"
        )
