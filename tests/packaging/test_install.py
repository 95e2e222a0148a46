"""Installing without a native build, and what is said where the build cannot be."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

tomllib = pytest.importorskip("tomllib")  # since Python 3.11

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files that an installation reads, with a library in the package as a development tree has one."""
    copy = tmp_path / "tree"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "CMakeLists.txt", "LICENSE", "README.md", "MANIFEST.in"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    if not (copy / "README.md").exists():
        (copy / "README.md").write_text("ttune\n")
    shutil.copytree(ROOT / "csrc", copy / "csrc")
    shutil.copytree(ROOT / "ttune", copy / "ttune", ignore=shutil.ignore_patterns("__pycache__", "lib"))
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
def test_native_wheel_is_of_this_platform_and_runs_where_there_is_no_source(tree: Path, tmp_path: Path) -> None:
    result, wheels = wheel(tree)
    assert result.returncode == 0, result.stderr
    (built,) = wheels
    assert not built.name.endswith("-any.whl")
    with zipfile.ZipFile(built) as archive:
        libraries = {name: archive.read(name) for name in archive.namelist() if name.endswith(".so")}
        names = set(archive.namelist())
    assert {name.split("/")[-1].split(".")[0] for name in libraries} >= {"_ops_cpu", "_numpy"}
    for name, library in libraries.items():
        audit(name, library, tmp_path)
        assert library.startswith(b"\x7fELF")
        # No folder of the build machine, neither as a search path nor in a message.
        assert str(tree).encode() not in library
        assert sys.prefix.encode() not in library
    assert {"ttune/py.typed", "ttune/zoo/data/fashion.safetensors", "ttune/zoo/data/FASHION.md", "ttune/zoo/data/LENET64.md"} <= names
    assert {name.rsplit("/", 1)[-1] for name in names if "/licenses/" in name} == {"LICENSE", "LICENSE-fashion-mnist.txt"}
    said = run_installed(built, tmp_path, "cpu")
    assert said["sampled"] == [2, 1, 28, 28]
    assert said["finite"]
    assert said["numpy"] == [1.5, 1.5]


# What a library may be linked to: torch's own, and the C and C++ runtimes that every Linux has.
ALLOWED = re.compile(r"lib(torch|torch_cpu|torch_cuda|c10|c10_cuda|c|m|stdc\+\+|gcc_s|gomp|dl|pthread|rt)\.so(\.\d+)*|ld-linux-.*\.so\.\d+")

# The newest symbols of the C and C++ runtimes that a library may need: those that it needs when it is built with GCC 12 on Debian 12. They
# are glibc's of August 2021 and GCC 11's, so such a wheel runs on RHEL 9, Ubuntu 22.04, Debian 12 and later. A newer machine's headers
# may ask for more, which says nothing of the sources.
NEWEST = {"GLIBC": "2.34", "GLIBCXX": "3.4.29", "CXXABI": "1.3.13"}
MEASURED_ON = (2, 36)  # glibc


def version(number: str) -> tuple[int, ...]:
    return tuple(map(int, number.split(".")))


def audit(name: str, library: bytes, folder: Path) -> None:
    """Only what is allowed is linked, no newer than stated, and nothing is searched for in a folder of the machine that it was built on."""
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is missing")
    file = folder / "library.so"
    file.write_bytes(library)
    entries = subprocess.run([readelf, "-dW", file], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", entries)
    assert needed
    assert [linked for linked in needed if not ALLOWED.fullmatch(linked)] == [], name
    if version(platform.libc_ver()[1]) <= MEASURED_ON:
        versions = subprocess.run([readelf, "-VW", file], capture_output=True, text=True, check=True).stdout
        found = re.findall(r"Name: (GLIBC|GLIBCXX|CXXABI)_(\d[\d.]*)", versions)
        assert {what for what, _ in found} >= {"GLIBC", "GLIBCXX"}
        assert [f"{what}_{number}" for what, number in found if version(number) > version(NEWEST[what])] == [], name
    for searched in re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", entries):
        assert all(part.startswith("$ORIGIN") for part in searched.split(":")), name


PROGRAM = """
import json, sys, torch, ttune
from importlib.metadata import metadata, version
from ttune.cli.main import main
said = {"file": ttune.__file__, "torch": torch.__file__, "versions": [ttune.__version__, version("ttune")]}
denoiser = ttune.zoo.load("fashion")
schedule = ttune.zoo.schedule("ddim_5")
x_T = ttune.initial_noise(denoiser.noise, (1, 28, 28), range(2))
images = ttune.sample(denoiser, schedule, x_T, conditions={"class_label": torch.arange(2)}, backend=sys.argv[1])
said |= {"sampled": list(images.shape), "finite": bool(images.isfinite().all())}
if sys.argv[1] == "cpu":
    import numpy as np
    from ttune import numpy as tnp
    said["numpy"] = tnp.linear_update([np.ones(2)], [[1.5]])[0].tolist()
main(["info"])
print(json.dumps(said))
"""


def run_installed(wheel: Path, folder: Path, backend: str) -> dict[str, Any]:
    """What the installed package says of itself in an environment of its own, which has all packages but not this source."""
    python, site = environment(folder)
    pip(python, "install", "--no-deps", "--no-index", wheel).check_returncode()
    # Path files in that folder, and with them this source, are not read from there.
    (site / "beside.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return said_there(wheel, python, folder, backend)


def environment(folder: Path) -> tuple[Path, Path]:
    """An environment with nothing in it: its Python, and where its packages go."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "environment"], check=True)
    (site,) = folder.glob("environment/lib/python*/site-packages")
    return folder / "environment" / "bin" / "python", site


def pip(python: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """This environment's pip, at work on that one."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "-q", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def said_there(wheel: Path, python: Path, folder: Path, backend: str) -> dict[str, Any]:
    """What ``PROGRAM`` says, of the package that was installed from ``wheel``."""
    (site,) = python.parent.parent.glob("lib/python*/site-packages")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run([python, "-c", PROGRAM, backend], cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout.splitlines()[-1])
    assert Path(said["file"]).is_relative_to(site)
    assert said["versions"][0] == said["versions"][1] == wheel.name.split("-")[1]
    assert f"ttune {said['versions'][0]}" in run.stdout
    return said


def source_archive(tree: Path, folder: Path) -> Path:
    build = "import sys, setuptools.build_meta as b; print(b.build_sdist(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, folder], cwd=tree, capture_output=True, check=True)
    (archive,) = folder.glob("*.tar.gz")
    return archive


def test_the_source_archive_makes_a_wheel_that_runs(tree: Path, tmp_path: Path) -> None:
    """Without a compiler: sdist, from it a wheel, from that an installation."""
    archive = source_archive(tree, tmp_path)
    with tarfile.open(archive) as file:
        names = {name.split("/", 1)[-1] for name in file.getnames()}
    assert {"CMakeLists.txt", "LICENSE", "csrc/math/philox.h", "ttune/zoo/data/fashion.safetensors"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
    result, wheels = wheel(archive, TTUNE_SKIP_BUILD="1")
    assert result.returncode == 0, result.stderr
    (built,) = wheels
    assert run_installed(built, tmp_path, "reference")["finite"]


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Path]:
    """A folder that is removed at once: with torch in it, it is a gigabyte and more."""
    folder = tmp_path / "fresh"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler here")
def test_the_source_archive_makes_a_native_wheel_that_runs_where_only_its_dependencies_are(tree: Path, tmp_path: Path, fresh: Path) -> None:
    """All of a release: sdist, from it a wheel with libraries, and an environment that pip fills as the wheel's metadata says."""
    result, wheels = wheel(source_archive(tree, tmp_path))
    assert result.returncode == 0, result.stderr
    (built,) = wheels
    python, site = environment(fresh)
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    got = pip(python, "install", "--retries", "1", "-c", ROOT / "constraints.txt", *dependencies)
    if got.returncode != 0:
        pytest.skip(f"pip gets no dependencies here: {got.stderr.strip().splitlines()[-1]}")
    installed = pip(python, "install", "--no-index", built)  # with its dependencies, which are to be there
    assert installed.returncode == 0, installed.stderr
    checked = pip(python, "check")
    assert checked.returncode == 0, checked.stdout
    said = said_there(built, python, fresh, "cpu")
    assert Path(said["torch"]).is_relative_to(site)
    assert said["finite"]
    assert said["numpy"] == [1.5, 1.5]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python.parent / "ttune", "sample", "--steps", "2", "--samples", "2", "--backend", "cpu", "--out", "a.npz"]
    run = subprocess.run(command, cwd=fresh, env=clean, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert (fresh / "a.npz").exists()


def test_all_has_every_extra_of_users() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    (everything,) = extras["all"]
    named = set(everything.removeprefix("ttune[").removesuffix("]").split(","))
    assert named == extras.keys() - {"all", "test", "docs", "dev"}
