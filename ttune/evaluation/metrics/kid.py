"""The kernel distance between sets of feature vectors, by clean-fid's own function; in Inception features it is called KID."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttune.evaluation.features.cleanfid import import_cleanfid
from ttune.evaluation.features.inception import INCEPTION

# clean-fid's defaults.
SUBSETS, SUBSET_SIZE = 100, 1000


def kernel_metric_name(features: str) -> str:
    """How a kernel distance in ``features`` is called: "KID" for Inception through clean-fid, else "kernel distance (name)"."""
    return "KID" if features == INCEPTION else f"kernel distance ({features})"


def kernel_distance(
    features: NDArray[Any], reference: NDArray[Any], *, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = 0
) -> float:
    """Squared maximum mean discrepancy under the kernel (x . y / F + 1)^3, unbiased: it may fall below zero.

    The mean over random subsets of min(N, M, ``subset_size``) of each side, which clean-fid draws from NumPy's global
    generator; that is set to ``seed`` meanwhile and then put back.

    Args:
        features: (N, F) of generated images; arrays on disk stay there, a subset is read at a time.
        reference: (M, F) of real ones.
        subsets, subset_size: clean-fid's ``num_subsets`` and ``max_subset_size``.

    Raises:
        ValueError: not two tables of the same width with at least two rows.
        ModuleNotFoundError: clean-fid is not installed (extra ``fid``).

    Source: Bińkowski et al., ICLR 2018; clean-fid 0.1.35, ``fid.kernel_distance``.
    """
    for name, array in (("features", features), ("reference", reference)):
        if array.ndim != 2 or len(array) < 2:
            raise ValueError(f"{name}: must be (N, F) with N >= 2, got shape {array.shape}")
    if features.shape[1] != reference.shape[1]:
        raise ValueError(f"reference: must have {features.shape[1]} features as the generated images do, got {reference.shape[1]}")
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"subsets must be at least 1 and subset_size at least 2, got {subsets} and {subset_size}")
    distance = import_cleanfid("fid").kernel_distance
    with _seeded(seed):
        return distance(reference, features, num_subsets=subsets, max_subset_size=subset_size)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """NumPy's global generator at ``seed``, and afterwards as it was."""
    before = np.random.get_state()  # noqa: NPY002 (the generator that clean-fid draws from)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
