"""Builds the CUDA kernels and their PyTorch operators for the CPU, on which cuda_runtime_api.h beside this emulates a GPU.

The library takes the place of the C++ kernels for CPU tensors in the process that loads it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[2] / "csrc"


def translated(source: str) -> str:
    """C++ of a .cu file: the launches, and the shared memory that a launch sizes."""
    source = source.replace("extern __shared__ double shared[];", "double* const shared = emulation::dynamic_shared;")
    launch = re.compile(r"([\w]+<[\w, ]+>)\s*<<<([^,]+?),\s*([^,]+?),\s*([^,]+?),\s*stream>>>\((.*?)\);", re.DOTALL)
    source, count = launch.subn(r"emulation::launch(\2, \3, \4, [&] { \1(\5); });", source)
    assert count > 0
    assert "<<<" not in source
    return source


def build(folder: Path) -> Path:
    """The library's path. Needs g++ or clang++."""
    objects = []
    sources = [*sorted((CSRC / "cuda").glob("*.cu")), *sorted((CSRC / "torch").glob("*_cuda.cpp"))]
    include = Path(torch.__file__).parent / "include"
    options = ["-std=c++17", "-O1", "-fPIC", "-w", "-ffp-contract=fast", "-march=x86-64-v3"]
    options += ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    options += [f"-I{HERE}", f"-I{CSRC}", f"-isystem{include}"]
    for source in sources:
        path = folder / f"{source.stem}.{source.suffix[1:]}.cpp"
        text = source.read_text()
        kernel = source.suffix == ".cu"
        text = "#include <cuda_runtime_api.h>\n" + translated(text) if kernel else text.replace("(ttune, CUDA, m)", "(ttune, CPU, m)")
        path.write_text(text)
        objects.append(path.with_suffix(".o"))
        subprocess.run(["c++", *options, *["-D__CUDACC__"] * kernel, "-c", str(path), "-o", str(objects[-1])], check=True)
    library = folder / "_ops_cuda_emulated.so"
    torch_cpu = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    subprocess.run(["c++", "-shared", *map(str, objects), str(torch_cpu), "-o", str(library)], check=True)
    return library


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
