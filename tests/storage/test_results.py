"""Finished results: read as they were written, refused where they are of something else or damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ttune.storage.results import ResultFolder, difference, key_of, read_tensors, save_tensors

TENSORS = {"x": torch.arange(6.0).view(2, 3).T, "y": torch.tensor(3)}


def folder(path: Path, **fingerprint: object) -> ResultFolder:
    return ResultFolder(path, fingerprint, "about.json")


def test_a_result_is_there_when_its_record_is(tmp_path: Path) -> None:
    results = folder(tmp_path, seed=0, steps=(3, 4))
    assert results.record("a", {}) is None
    results.file("a", "checkpoint.safetensors").touch()
    results.finish("a", {"rmse": 0.1, "settings": {"tune": ("times",)}}, TENSORS)
    again = folder(tmp_path, steps=[3, 4], seed=0)
    assert again.record("a", {"tune": ["times"]}) == {"rmse": 0.1, "settings": {"tune": ["times"]}}
    assert {name: value.tolist() for name, value in again.tensors("a").items()} == {k: v.tolist() for k, v in TENSORS.items()}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "a.safetensors", "about.json", "about.lock"]
    with pytest.raises(
        ValueError, match=r"a.json was made with the settings .*'times'.*, now they are \{\}; give this method another label"
    ):
        again.record("a", {})


def test_what_is_shared_is_computed_once_and_a_claim_is_one_process_own(tmp_path: Path) -> None:
    results, calls = folder(tmp_path), []
    for _ in range(2):
        assert results.shared("teacher", lambda: calls.append(1) or TENSORS)["y"] == 3
    assert calls == [1]
    with results.claimed("a") as mine, results.claimed("a") as another:
        assert (mine, another) == (True, False)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, seed=0)
    with pytest.raises(ValueError, match=r"work folder: .* is of something else: seed was 0, is 1; name another folder or remove it"):
        folder(tmp_path, seed=1)


def test_damaged_tensors_are_refused(tmp_path: Path) -> None:
    results, file = folder(tmp_path), tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match=r"work folder: .*a.safetensors is missing; remove what the folder has of that name"):
        results.tensors("a")
    saved = save_tensors(file, TENSORS)
    assert read_tensors(file, saved)["x"].tolist() == TENSORS["x"].tolist()
    whole = file.read_bytes()
    for changed in (whole[:-1] + b"\x01", whole[:-8]):
        file.write_bytes(changed)
        with pytest.raises(ValueError, match=r"a.safetensors is not as it was written, it was damaged or changed"):
            read_tensors(file, saved)
    with pytest.raises(ValueError, match=r"work folder: .*a.safetensors is not readable .*; remove it, and it is made again"):
        results.tensors("a")
    save_tensors(file, {"x": torch.tensor([torch.nan])})
    with pytest.raises(ValueError, match="has NaN or infinity in x; remove it"):
        results.tensors("a")


def test_a_difference_is_said_without_hashes() -> None:
    assert difference({"a": 1, "b": 2}, {"b": 2, "a": 1}) is None
    assert difference({"a": 1, "old": 2}, {"a": 1}) == "old was 2, is None"
    assert difference({"a": 1, "b": 2}, {"b": 3, "a": 4}, ignored=("a",)) == "b was 2, is 3"
    assert difference({"weights": "0" * 64}, {"weights": "1" * 64}) == "weights was another, is not the same now"
    before, now = ({"name": name, "weights": name * 64} for name in "ab")
    assert difference({"model": before}, {"model": now}) == "model was another, is not the same now (name was 'a', is 'b')"


def test_a_key_does_not_depend_on_the_order() -> None:
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1}) != key_of({"a": 1, "b": [3]})
