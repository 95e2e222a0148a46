"""Installing without a native build, and what is said where the build cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files that an installation reads, with a library in the package as a development tree has one."""
    copy = tmp_path / "tree"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "CMakeLists.txt", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    if not (copy / "README.md").exists():
        (copy / "README.md").write_text("ttune\n")
    shutil.copytree(ROOT / "csrc", copy / "csrc")
    shutil.copytree(ROOT / "ttune", copy / "ttune", ignore=shutil.ignore_patterns("__pycache__", "lib", "data"))
    (copy / "ttune" / "lib").mkdir()
    (copy / "ttune" / "lib" / "_ops_cpu.so").write_text("of an earlier build")
    return copy


def wheel(tree: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[Path]]:
    target = tree.parent / "wheels"
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--no-build-isolation", "-w", target, tree]
    clean = {name: value for name, value in os.environ.items() if name not in ("CXX", "TTUNE_SKIP_BUILD")}
    # The CUDA module has tests of its own, and takes longer than all the rest.
    result = subprocess.run(
        list(map(str, command)), env={**clean, "TTUNE_CUDA": "OFF", **environment}, cwd=tree.parent, capture_output=True, text=True
    )
    return result, sorted(target.glob("*.whl"))


def test_pure_python_wheel_has_no_library_and_runs_no_cmake(tree: Path) -> None:
    # A compiler that does not exist: had CMake been asked, this would fail.
    result, wheels = wheel(tree, TTUNE_SKIP_BUILD="1", CXX="no-such-compiler")
    assert result.returncode == 0, result.stderr
    (built,) = wheels
    assert built.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(built).namelist()
    assert not [name for name in names if name.endswith(".so")]
    assert "ttune/kernels/linear_update.py" in names
    assert not (tree / "build" / "CMakeCache.txt").exists()


def test_without_a_compiler_one_sentence_says_what_to_do(tree: Path) -> None:
    result, wheels = wheel(tree, CXX="no-such-compiler")
    assert result.returncode != 0
    assert not wheels
    output = result.stdout + result.stderr
    sentence = "ttune needs a C++ compiler and found none of ['no-such-compiler']: install g++ >= 11 or clang++ >= 14, "
    assert sentence + "or set TTUNE_SKIP_BUILD=1 to install the slower pure-Python backend." in output
    assert "Traceback" not in output


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler here")
def test_native_wheel_is_of_this_platform_and_has_the_library(tree: Path) -> None:
    result, wheels = wheel(tree)
    assert result.returncode == 0, result.stderr
    (built,) = wheels
    assert not built.name.endswith("-any.whl")
    with zipfile.ZipFile(built) as archive:
        libraries = {name: archive.read(name) for name in archive.namelist() if name.endswith(".so")}
    assert {name.split("/")[-1].split(".")[0] for name in libraries} >= {"_ops_cpu", "_numpy"}
    for library in libraries.values():
        assert library.startswith(b"\x7fELF")
        # No folder of the build machine, neither as a search path nor in a message.
        assert str(tree).encode() not in library
        assert sys.prefix.encode() not in library
