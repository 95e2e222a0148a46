"""Push and pull, against a hub that is a folder: nothing here reaches the real one. That the real library takes these arguments is
checked by its signatures."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ttune
from tests.adapters.small import tuned
from ttune import NoiseSchedule

NOISE = NoiseSchedule.linear()
SCHEDULE = tuned(NOISE, "ddim", 4)


@dataclass
class Info:
    size: int


class Folder:
    """As much of ``HfApi`` as is used, with the real signatures where huggingface_hub is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _file(self, repo_id: str, name: str, revision: str | None) -> Path:
        return self.folder / repo_id / (revision or "main") / name

    def create_repo(self, repo_id: str, **kwargs: Any) -> None:
        _fits("create_repo", repo_id, **kwargs)
        (self.folder / repo_id).mkdir(parents=True, exist_ok=kwargs["exist_ok"])

    def upload_file(self, **kwargs: Any) -> str:
        _fits("upload_file", **kwargs)
        file = self._file(kwargs["repo_id"], kwargs["path_in_repo"], kwargs["revision"])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(kwargs["path_or_fileobj"])
        return f"hub://{kwargs['repo_id']}: {kwargs['commit_message']}"

    def get_paths_info(self, repo_id: str, paths: list[str], **kwargs: Any) -> list[Info]:
        _fits("get_paths_info", repo_id, paths, **kwargs)
        files = [self._file(repo_id, path, kwargs["revision"]) for path in paths]
        return [Info(file.stat().st_size) for file in files if file.exists()]

    def hf_hub_download(self, repo_id: str, filename: str, **kwargs: Any) -> str:
        _fits("hf_hub_download", repo_id, filename, **kwargs)
        return str(self._file(repo_id, filename, kwargs["revision"]))


def _fits(method: str, *args: Any, **kwargs: Any) -> None:
    library = pytest.importorskip("huggingface_hub")
    inspect.signature(getattr(library.HfApi, method)).bind(None, *args, **kwargs)  # TypeError if it would not


def test_a_schedule_comes_back_as_it_was_pushed(tmp_path: Path) -> None:
    api: Any = Folder(tmp_path)
    assert ttune.hub.push(SCHEDULE, "me/model", api=api) == "hub://me/model: ttune: ddim schedule of 4 steps"
    assert ttune.hub.pull("me/model", api=api) == SCHEDULE
    assert ttune.hub.pull("me/model", noise=NOISE, sampler="ddim", steps=4, api=api) == SCHEDULE
    ttune.hub.push([SCHEDULE, tuned(NOISE, "ddim", 6)], "me/model", "all.json", revision="dev", private=True, api=api)
    assert ttune.hub.pull("me/model", "all.json", revision="dev", steps=6, api=api).steps == 6


def test_what_is_pulled_is_checked(tmp_path: Path) -> None:
    api: Any = Folder(tmp_path)
    ttune.hub.push(SCHEDULE, "me/model", api=api)
    with pytest.raises(ValueError, match="was made for the noise schedule"):
        ttune.hub.pull("me/model", noise=NoiseSchedule.cosine(), api=api)
    file = tmp_path / "me/model/main/ttune.json"
    file.write_text(file.read_text().replace('"network_times"', '"network_time"'))
    with pytest.raises(ValueError, match=r"ttune\.json"):
        ttune.hub.pull("me/model", api=api)
    file.write_bytes(b" " * 5_000_000)
    with pytest.raises(ValueError, match=r"me/model/ttune\.json: a schedule file has at most 4000000 bytes"):
        ttune.hub.pull("me/model", api=api)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"ttune\.hub needs huggingface_hub: pip install 'ttune\[hub\]'"):
        ttune.hub.pull("me/model")
