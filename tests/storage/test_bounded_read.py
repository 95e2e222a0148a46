"""What others made is read with an end, or refused in words: nothing waits for ever, nothing takes the memory."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ttune
from ttune.cli.exchange import _list
from ttune.report import read_sources
from ttune.storage.bounded_read import read_bytes
from ttune.storage.results import read_record, read_tensors
from ttune.tuning.checkpoint import Journal


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(range(100)))
    (tmp_path / "link").symlink_to("f")
    assert read_bytes(tmp_path / "link", 100, "a file") == bytes(range(100))
    with pytest.raises(ValueError, match=r"f: a file has at most 60 bytes, this one has 100 \(0\.0001 MB\)"):
        read_bytes(tmp_path / "f", 60, "a file")
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none", 60, "a file")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs a file of which the system does not know the size")
def test_a_file_of_unknown_size_has_the_limit_too() -> None:
    assert b"VmHWM" in read_bytes("/proc/self/status", 100_000, "a file")
    with pytest.raises(ValueError, match="a file has at most 60 bytes, this one has more"):
        read_bytes("/proc/self/status", 60, "a file")


@pytest.mark.parametrize(
    "read",
    [
        lambda path: read_bytes(path, 60, "a file"),
        ttune.Schedule.load,
        lambda path: read_sources([path]),
        _list,
        read_record,
        read_tensors,
        lambda path: Journal(path, {}, resume=True),
    ],
)
def test_what_is_no_file_is_refused_and_not_waited_for(read: Callable[[Path], Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "link.json").symlink_to("fifo.json")
    for name in ("fifo.json", "link.json"):
        with within(10), pytest.raises(ValueError, match=rf"{name}: .* must be a regular file, this is a FIFO"):
            read(tmp_path / name)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="a file must be a regular file, this is a folder"):
        read_bytes(tmp_path, 60, "a file")


def test_a_report_on_a_folder_passes_by_what_is_no_file(tmp_path: Path) -> None:
    ttune.Schedule.build(ttune.NoiseSchedule.linear(), "ddim", 2).save(tmp_path / "a.json")
    os.mkfifo(tmp_path / "b.json")
    with within(10):
        assert [entry.file.name for entry in read_sources([tmp_path]).entries] == ["a.json"]
