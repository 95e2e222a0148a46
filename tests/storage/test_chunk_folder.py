"""Chunks on disk: whole or missing, in order, and more of them when more samples are wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ttune.storage.chunk_folder import ChunkFolder


def filled(path: Path, count: int, size: int) -> tuple[ChunkFolder, np.ndarray]:
    folder, x = ChunkFolder(path, count, size), np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    for k in reversed(range(len(folder))):
        rows = folder.rows(k)
        folder.write(k, {"features": x[rows], "error": x[rows, 0].astype(np.float64)})
    return folder, x


def test_columns_and_tables_are_in_the_order_of_the_samples(tmp_path: Path) -> None:
    folder, x = filled(tmp_path, 10, 4)
    assert [folder.rows(k) for k in range(len(folder))] == [slice(0, 4), slice(4, 8), slice(8, 10)]
    before = sorted(file.name for file in tmp_path.iterdir())
    table = folder.table("features")
    assert np.array_equal(table, x)
    assert not table.flags.writeable
    assert np.array_equal(table[[7, 2]], x[[7, 2]])
    assert np.array_equal(folder.column("error"), x[:, 0].astype(np.float64))
    assert sorted(file.name for file in tmp_path.iterdir()) == before == ["000000.safetensors", "000001.safetensors", "000002.safetensors"]


def test_more_samples_keep_whole_chunks_only(tmp_path: Path) -> None:
    folder, _ = filled(tmp_path, 10, 4)
    assert folder.missing() == []
    assert ChunkFolder(tmp_path, 17, 4).missing() == [2, 3, 4]  # chunk 2 had two samples
    assert ChunkFolder(tmp_path, 6, 4).missing() == [1]


def test_a_chunk_that_is_not_whole_is_missing(tmp_path: Path) -> None:
    folder, x = filled(tmp_path, 10, 4)
    file = tmp_path / "000001.safetensors"
    data = file.read_bytes()
    for broken in (data[:-1], data[: len(data) // 2], b"", b"\xff" * 100):
        file.write_bytes(broken)
        assert folder.missing() == [1]
    folder.write(1, {"features": x[4:8], "error": x[4:8, 0].astype(np.float64)})
    assert np.array_equal(folder.table("features"), x)


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".000000.safetensors.abc.unfinished").write_bytes(b"half")
    folder, _ = filled(tmp_path, 4, 4)
    assert [file.name for file in tmp_path.iterdir()] == ["000000.safetensors"]
    assert folder.bytes() == (tmp_path / "000000.safetensors").stat().st_size
