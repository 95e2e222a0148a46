"""Every file of the corpus, in every test run."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.corpus import FOLDER, Case, cases
from tests.fuzz.registry import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_files_are_taken_or_refused_as_their_folders_say(name: str) -> None:
    faults = {case.name: fault for case in TARGETS[name].cases() if (fault := fault_of(case, TARGETS[name].check))}
    assert not faults


def fault_of(case: Case, check: Callable[[Any], bool]) -> str:
    """What is wrong with ``case``; empty where it is taken or refused as it should be. So one fault does not hide the next."""
    try:
        case.replay(check)
    except Exception:
        return traceback.format_exc(limit=-3)
    return ""


def test_every_file_is_of_some_kind() -> None:
    tried = {case.path for target in TARGETS.values() for case in target.cases()}
    pairs = {path.with_suffix(".safetensors") for path in tried if path.match("checkpoints/*/*.json")}
    assert {path for path in FOLDER.glob("*/**/*") if path.is_file()} == tried | pairs
    assert {path.parent.name for path in tried} == {"accepted", "refused"}


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 180_000


def test_a_file_in_the_wrong_folder_is_a_fault() -> None:
    case = cases("command_lines")[0]
    with pytest.raises(AssertionError, match=r"must be accepted, but ttune refused it|must be refused, but ttune took it"):
        case.replay(lambda _: not case.accepted)
    assert case.replay(lambda _: case.accepted) == case.accepted


def test_large_files_are_no_bases_of_mutations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fuzz import corpus

    (tmp_path / "bytes" / "refused").mkdir(parents=True)
    for name, size in (("a", 0), ("b", 3), ("c", corpus.LARGE)):
        (tmp_path / "bytes" / "refused" / name).write_bytes(b"x" * size)
    monkeypatch.setattr(corpus, "FOLDER", tmp_path)
    assert corpus.small("bytes") == [b"xxx"]
