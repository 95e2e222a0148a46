"""The choice of backend: what is reported, how a choice begins and ends, and that everything works without libraries."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from ttune import ops
from ttune.kernels import backend, library, linear_update

ROOT = Path(__file__).resolve().parents[2]


def test_every_backend_says_whether_and_why_not() -> None:
    report = ops.backends()
    assert list(report) == ["cuda", "triton", "cpu", "reference"]
    for state in report.values():
        assert state["available"] == (state["reason"] == "")
        assert state["available"] or state["operators"] == []
        assert bool(state["detail"]) == state["available"]
    assert report["reference"]["available"]
    assert {"linear_update", "linear_update_"} <= set(report["reference"]["operators"])


def test_unknown_and_unavailable_names() -> None:
    known = re.escape("backend must be one of ['cpu', 'cuda', 'reference', 'triton'], got 'gpu'")
    with pytest.raises(ValueError, match=known), ops.use_backend("gpu"):
        pass
    for name, state in ops.backends().items():
        if not state["available"]:
            with pytest.raises(RuntimeError, match=f"backend must be available, got '{name}': "), ops.use_backend(name):
                pass


def ran_reference(monkeypatch: pytest.MonkeyPatch) -> bool:
    calls = []
    rows = linear_update._rows
    with monkeypatch.context() as patch:
        patch.setattr(linear_update, "_rows", lambda *arguments: calls.append(1) or rows(*arguments))
        ops.linear_update([torch.ones(3)], torch.ones(1, 1))
    return bool(calls)


def test_choice_begins_ends_and_nests(monkeypatch: pytest.MonkeyPatch) -> None:
    native = ops.backends()["cpu"]["available"]
    assert ran_reference(monkeypatch) is not native
    for _ in range(2):
        with ops.use_backend("reference"):
            assert ran_reference(monkeypatch)
            with ops.use_backend("reference"):
                assert ran_reference(monkeypatch)
            assert ran_reference(monkeypatch)
            if native:
                with ops.use_backend("cpu"):
                    assert not ran_reference(monkeypatch)
            assert ran_reference(monkeypatch)
        assert ran_reference(monkeypatch) is not native
    with pytest.raises(KeyError), ops.use_backend("reference"):
        raise KeyError
    assert ran_reference(monkeypatch) is not native


def test_compiled_code_follows_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x: ops.linear_update([x], torch.ones(1, 1))[0], fullgraph=True, backend=counter)
    x = torch.randn(5)
    for name in ("reference", *(["cpu"] if ops.backends()["cpu"]["available"] else []), "reference"):
        with ops.use_backend(name):
            assert torch.equal(compiled(x), x)
    assert counter.frame_count == 1


def test_without_libraries_the_reference_serves(tmp_path: Path) -> None:
    code = (
        "import pathlib, torch\n"
        "import ttune.kernels.backend as backend\n"
        "from ttune import ops\n"
        "state = ops.backends()['cpu']\n"
        "assert not state['available'] and 'not built' in state['reason'], state\n"
        "assert ops.linear_update([torch.ones(2)], torch.full((1, 1), 3.0))[0].tolist() == [3.0, 3.0]\n"
        "assert ops.philox_normal((4,), [1]).shape == (1, 4)\n"
    )
    package = tmp_path / "ttune"
    package.mkdir()
    for source in (ROOT / "ttune").iterdir():
        if source.name not in ("lib", "__pycache__"):
            (package / source.name).symlink_to(source)
    # Real files where the library's folder is derived from: links would lead back to this tree.
    (package / "kernels").unlink()
    shutil.copytree(ROOT / "ttune" / "kernels", package / "kernels")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], env=environment, cwd=tmp_path, check=True)


def test_a_library_that_does_not_load_is_visible_not_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_ops_cpu.so").write_text("not a library")
    monkeypatch.setattr(library, "_FOLDER", tmp_path)
    try:
        backend.load_native()
        assert "_ops_cpu.so does not load" in ops.backends()["cpu"]["reason"]
    finally:
        monkeypatch.undo()
        backend.load_native()  # what stands in for the missing module gives its place back


@pytest.mark.parametrize(
    ("built", "here", "runs"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 9), True),
        ("sm_86", (8, 0), False),
        ("sm_90", (10, 0), False),  # machine code alone, as CMake's "90-real" gives
        ("sm_90, compute_90", (10, 0), True),
        ("sm_80, sm_90, sm_100, compute_100", (12, 0), True),
        ("sm_80, sm_90, sm_100, compute_100", (7, 5), False),
        ("compute_80", (9, 0), True),
        ("sm_90a, compute_90a", (9, 0), True),
        ("sm_90a, compute_90a", (10, 0), False),
        ("sm_100f", (10, 0), True),
    ],
)
def test_a_gpu_without_code_in_the_native_module_goes_to_triton(
    built: str, here: tuple[int, int], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    monkeypatch.delitem(library.LOAD_ERRORS, "_ops_cuda", raising=False)
    monkeypatch.setattr(backend, "description", lambda *_: built)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=0: here)
    try:
        backend._leave_unknown_gpus()
        assert (("linear_update", "CUDA") in backend._CHOICE.kernels) is not runs
        reason = ops.backends()["cuda"]["reason"]
        assert reason == "" if runs else f"built for {built}, GPU 0 is sm_{here[0]}{here[1]}" in reason
    finally:
        monkeypatch.undo()
        backend._CHOICE.renew()
