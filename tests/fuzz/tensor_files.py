"""Safetensors files: weights, feature statistics, what a tuning remembers. Taken only if every value is one that may be there."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from hypothesis import strategies as st

from tests.fuzz.corpus import cases, small
from tests.fuzz.mutation import as_json, damaged, edited
from tests.fuzz.target import Target, folder
from ttune.distributed import ALONE
from ttune.evaluation.features.feature_statistics import FeatureStatistics
from ttune.storage.tensor_file import load_tensors
from ttune.tuning.checkpoint import Journal

SHAPES: dict[str, tuple[int | None, ...]] = {"weight": (3, 2), "bias": (3,), "scale": (), "samples": (None, 2)}


@cache
def weights() -> bytes:
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tuple(size or 4 for size in shape) for name, shape in SHAPES.items()}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return safetensors.torch.save(tensors | {"bias": tensors["bias"].half()})


@cache
def statistics() -> bytes:
    features = np.random.default_rng(0).normal(size=(9, 3))
    FeatureStatistics.of_features(features, "three numbers").save(folder() / "statistics")
    return (folder() / "statistics").read_bytes()


@st.composite
def _damaged(draw: st.DrawFn, base: bytes, kind: str) -> bytes:
    """Bytes changed anywhere, or the header's values, with the values behind it left alone."""
    if draw(st.booleans()):
        return draw(damaged([base], small(kind)))
    length = int.from_bytes(base[:8], "little")
    header = as_json(draw(edited([json.loads(base[8 : 8 + length])])))
    return len(header).to_bytes(8, "little") + header + base[8 + length :]


def _read_weights(data: bytes) -> bool:
    path = folder() / "fuzzed.safetensors"
    path.write_bytes(data)
    try:
        tensors = load_tensors(path, SHAPES, "remove it")
    except ValueError as error:
        assert str(error).startswith(f"{path}: "), error
        assert str(error).endswith("; remove it"), error
        return False
    assert tensors.keys() == SHAPES.keys()
    for name, value in tensors.items():
        assert value.ndim == len(SHAPES[name])
        assert all(want in (None, size) for want, size in zip(SHAPES[name], value.shape, strict=True))
        assert value.is_floating_point()
        assert value.double().isfinite().all()
    return True


def _read_statistics(data: bytes) -> bool:
    path = folder() / "fuzzed.statistics"
    path.write_bytes(data)
    try:
        found = FeatureStatistics.load(path)
    except ValueError as error:
        assert str(path) in str(error), error
        return False
    assert found.mean.shape == (len(found.mean),)
    assert found.covariance.shape == (len(found.mean),) * 2
    assert found.covariance.dtype == found.mean.dtype == np.float64
    assert np.isfinite(found.mean).all()
    assert np.isfinite(found.covariance).all()
    assert (found.covariance.diagonal() >= 0).all()
    assert found.count is None or found.count >= 2  # None: the file says that it does not know
    assert found.features
    found.save(folder() / "again")
    again = FeatureStatistics.load(folder() / "again", found.features)
    assert again.covariance.tobytes() == found.covariance.tobytes()
    return True


FINGERPRINT = {"method": "endpoint", "seed": 0, "start": [1.5, {"kind": "edm"}]}
PIECES = {"ledger": {"teacher": 128, "seconds": 0.25}, "endpoint": [[0.5, 0.25], [0.125]], "é": None}


@cache
def journal() -> tuple[bytes, bytes]:
    """The two files of a journal with pieces and a tensor."""
    path = folder() / "journal"
    path.unlink(missing_ok=True)
    mine = Journal(path, FINGERPRINT, resume=False)
    for name, value in PIECES.items():
        mine.put(name, value)
    mine.tensor("teacher", ALONE.share(5, 2), lambda: [torch.ones(2, 3), torch.zeros(2, 3), torch.ones(1, 3)])
    return path.read_bytes(), path.with_name("journal.teacher.safetensors").read_bytes()


def _resume(files: tuple[bytes, bytes]) -> bool:
    """What is gone on from is what was remembered, to the last bit, whatever happened to either file."""
    path = folder() / "fuzzed.journal"
    path.write_bytes(files[0])
    path.with_name("fuzzed.journal.teacher.safetensors").write_bytes(files[1])
    try:
        found = Journal(path, FINGERPRINT, resume=True)
        tensor = found.tensor("teacher", ALONE.share(5, 2), lambda: [])
    except ValueError as error:
        assert str(error).startswith(f"checkpoint: {path}"), error
        assert "remove" in str(error), error
        return False
    assert {name: value for name, value in found.pieces.items() if name != "teacher"} == PIECES
    assert torch.equal(tensor, torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0])[:, None].expand(5, 3))
    return True


@st.composite
def _journals(draw: st.DrawFn) -> tuple[bytes, bytes]:
    record, tensor = journal()
    which = draw(st.integers(0, 2))
    if which == 0:
        content: list[dict[str, Any]] = [json.loads(record)]
        return as_json(draw(edited(content))), tensor
    return (draw(damaged([record])), tensor) if which == 1 else (record, draw(damaged([tensor])))


def _pair(record: Path) -> tuple[bytes, bytes]:
    return record.read_bytes(), record.with_suffix(".safetensors").read_bytes()


WEIGHTS = Target("safetensors, weights", st.deferred(lambda: _damaged(weights(), "weights")), _read_weights, 10, lambda: cases("weights"))
STATISTICS = Target(
    "safetensors, statistics", st.deferred(lambda: _damaged(statistics(), "statistics")), _read_statistics, 8, lambda: cases("statistics")
)
JOURNALS = Target("checkpoints", st.deferred(_journals), _resume, 8, lambda: cases("checkpoints", _pair, "*.json"))
