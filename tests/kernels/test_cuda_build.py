"""The CUDA module without a GPU: its kernels' registers, that it loads beside any torch, and what it says without a GPU."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ttune.kernels import backend

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "ttune" / "lib" / "_ops_cuda.so"
KERNELS = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))

built = pytest.mark.skipif(
    not LIBRARY.exists(), reason="_ops_cuda.so is not built: no nvcc was found at installation, or it was switched off"
)


def architectures() -> list[str]:
    known = subprocess.run(["nvcc", "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    return [name for name in ("sm_80", "sm_90", "sm_100") if name in known]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here")
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda path: path.stem)
def test_no_kernel_spills_registers(kernel: Path, tmp_path: Path) -> None:
    options = [f"-gencode=arch=compute_{name[3:]},code={name}" for name in architectures()]
    command = [
        "nvcc",
        "-std=c++17",
        "-O3",
        "-Xptxas=-v",
        *options,
        f"-I{ROOT / 'csrc'}",
        "-c",
        str(kernel),
        "-o",
        str(tmp_path / "kernel.o"),
    ]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    entries = re.findall(
        r"entry function '(\w+)' for '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers", report, re.DOTALL
    )
    assert len(entries) >= len(architectures())
    for name, architecture, stores, loads, registers in sorted(entries):
        print(f"{architecture} {registers:>4} registers  {name}")
        assert (stores, loads) == ("0", "0"), f"{name} spills for {architecture}"


IN_A_FRESH_PROCESS = """
import sys
import torch
from torch._C import DispatchKey, DispatchKeySet
import ttune
from ttune.kernels import library

if torch.version.cuda is None:  # else importing ttune has loaded it
    torch.ops.load_library(sys.argv[1])
for name in library.REFERENCES:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"ttune::{name}", "CUDA"), name

x, one = torch.ones(2), torch.ones(1, 1)
cuda, op = DispatchKeySet(DispatchKey.CUDA), torch.ops.ttune
calls = [
    ("terms[0]", op.linear_update.default, [x], one, None, None),
    ("outs[0]", op.linear_update_.default, [x], [x], one, None, None, None, None),
    ("t", op.timestep_embedding.default, x, 4, 1e4, False, 1.0, 1.0),
    ("table", op.embedding_lookup.default, x, x),
    ("a[0]", op.inner_products.default, [x], [x]),
    ("terms[0]", op.trajectory_loss.default, [x], one, x, None, None, None, "l2", 1.0),
    ("terms[0]", op.trajectory_loss_gradient.default, [x], one, x, None, None, None, "l2", 1.0),
]
assert len(calls) == len(library.REFERENCES)
for name, operator, *arguments in calls:
    try:
        operator.redispatch(cuda, *arguments)
        raise SystemExit(f"{operator} ran on the CPU")
    except ValueError as error:
        assert str(error).startswith(f"{name} must be on a CUDA device, got cpu"), error
"""


@built
def test_loads_beside_this_torch_and_has_every_operator() -> None:
    subprocess.run([sys.executable, "-c", IN_A_FRESH_PROCESS, str(LIBRARY)], cwd=ROOT, check=True)


@built
def test_says_its_architectures_and_no_folder_of_the_build_machine() -> None:
    describe = ctypes.CDLL(str(LIBRARY)).ttune_cuda_architectures
    describe.restype = ctypes.c_char_p
    assert re.fullmatch(r"(sm|compute)_\d+(, (sm|compute)_\d+)*", describe().decode())
    assert str(ROOT).encode() not in LIBRARY.read_bytes()
    assert sys.prefix.encode() not in LIBRARY.read_bytes()


@built
def test_the_backend_says_why_it_cannot_run() -> None:
    state = backend.backends()["cuda"]
    assert state["available"] or re.match(r"this torch .* has no CUDA|torch finds no CUDA device", state["reason"])
