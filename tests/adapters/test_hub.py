"""Push and pull, against a hub that is a folder, and pull through the real library from a server on this machine: nothing here reaches
the real hub. That the real library takes push's arguments is checked by its signatures."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
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


class Hub(BaseHTTPRequestHandler):
    """A server's answers to a download: what a path is, and the file of one commit."""

    content, commit = b"", "0123456789abcdef0123456789abcdef01234567"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/api/models/me/model/paths-info/main"
        info = {"type": "file", "path": "ttune.json", "size": len(self.content), "oid": "abc"}
        self._answer(json.dumps([info]).encode(), "application/json")

    def do_GET(self) -> None:
        assert self.path.split("?")[0] == "/me/model/resolve/main/ttune.json" or self.commit in self.path, self.path
        self._answer(self.content, "application/octet-stream")

    do_HEAD = do_GET

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), ("ETag", '"abc"'), ("X-Repo-Commit", self.commit)):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_the_real_library_pulls_from_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    SCHEDULE.save(tmp_path / "ttune.json")
    answers = type("Answers", (Hub,), {"content": (tmp_path / "ttune.json").read_bytes()})
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        api = library.HfApi(endpoint=f"http://127.0.0.1:{server.server_port}", token=False)
        assert ttune.hub.pull("me/model", noise=NOISE, api=api) == SCHEDULE
        answers.content = b" " * 5_000_000
        with pytest.raises(ValueError, match="a schedule file has at most 4000000 bytes, this one has 5000000"):
            ttune.hub.pull("me/model", api=api)
        server.shutdown()


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"ttune\.hub needs huggingface_hub: pip install 'ttune\[hub\]'"):
        ttune.hub.pull("me/model")
