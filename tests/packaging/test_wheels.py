"""What `make wheels` has put into dist: wheels that an index can serve."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.packaging.test_install import ROOT, environment, pip, said_there

INDEX = ROOT / "dist"
ABI = f"cp{sysconfig.get_config_var('py_version_nodot')}"


@pytest.fixture(scope="module")
def wheel() -> Path:
    """This Python's. Its NumPy module is why there is one for each: pybind11 has no stable ABI."""
    found = sorted(INDEX.glob(f"ttune-*-{ABI}-{ABI}-manylinux*.whl"))
    if not found:
        pytest.skip("dist has no wheel for this Python: make wheels")
    return found[-1]


def test_it_is_for_every_linux_and_brings_no_torch(wheel: Path) -> None:
    """manylinux_2_34 is RHEL 9's and Ubuntu 22.04's. A repaired wheel has what it needs in ttune.libs, torch's excluded."""
    (libc,) = re.findall(r"manylinux_2_(\d+)_", wheel.name)[:1]
    assert int(libc) <= 34
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if "torch" in name.rsplit("/", 1)[-1] and ".so" in name]
    assert not [name for name in names if name.split("/")[0] == "ttune.libs"]


def test_the_operators_need_nothing_of_python(wheel: Path, tmp_path: Path) -> None:
    """They are on torch's stable ABI and find Python nowhere: one binary would do for every Python."""
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf is missing")
    wanted: dict[str, list[str]] = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".so"):
                symbols = subprocess.run(
                    [readelf, "-Ws", archive.extract(name, tmp_path)], capture_output=True, text=True, check=True
                ).stdout
                wanted[name.rsplit("/", 1)[-1].split(".")[0]] = re.findall(r" UND (_?Py\w+)", symbols)
    assert wanted["_numpy"]
    assert [name for name, symbols in wanted.items() if symbols] == ["_numpy"]


@pytest.mark.slow
def test_pip_installs_it_by_name_from_the_folder(wheel: Path, tmp_path: Path) -> None:
    python, site = environment(tmp_path)
    # ignored: a source tree on PYTHONPATH, which pip takes for an installation
    pip(python, "install", "--ignore-installed", "--no-deps", "--no-index", "--find-links", INDEX, "ttune").check_returncode()
    (site / "beside.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    said = said_there(wheel, python, tmp_path, "cpu")
    assert said["finite"]
    assert said["numpy"] == [1.5, 1.5]
