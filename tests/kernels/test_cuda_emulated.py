"""The CUDA kernels without a GPU: their index arithmetic, barriers and alignment on the emulation in ``cuda_emulation``.

It is not a GPU: no two threads run at once, and the arithmetic is the host's. What it finds are wrong indices, tails,
aliasing and barriers that not all threads reach.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.cuda_emulation.build import build
from ttune import ops

ROOT = Path(__file__).resolve().parents[2]
FILES = ("linear_update", "philox", "timestep_embedding", "embedding_lookup", "trajectory_loss", "inner_products")
# The tests of the C++ kernels, whose place the emulated ones take. Not those of the compiler, who sees no kernel; and a
# step outside the table cannot raise on a GPU.
SELECTED = "not reference and not triton and not compile and not opcheck and not kept_graph and not (step and not timestep)"
RUN = """
import sys
import pytest
import torch
import ttune
torch.ops.load_library(sys.argv[1])
for name in ttune.kernels.library.REFERENCES:
    kernel = next(line for line in torch._C._dispatch_dump(f"ttune::{name}").splitlines() if line.startswith("CPU:"))
    assert "_cuda" in kernel, kernel


class Count:
    def __init__(self):
        self.passed = set()

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid.split("::")[0])


count = Count()
status = pytest.main(sys.argv[2:], plugins=[count])
idle = [word for word in sys.argv if word.startswith("tests/") and word not in count.passed]
assert not idle, f"no test of {idle} passed"
sys.exit(status)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler here")
    if not ops.backends()["cpu"]["available"]:
        pytest.skip("the C++ kernels, whose tests are run, are not here")
    return build(tmp_path_factory.mktemp("emulation"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "machine",
    [
        {"TTUNE_EMULATED_MULTIPROCESSORS": "1"},  # few blocks, which go round the tensor several times
        {"TTUNE_EMULATED_BACKWARDS": "1"},  # threads in reverse: a race between barriers would show
    ],
    ids=lambda machine: next(iter(machine)),
)
def test_the_tests_of_the_cpu_kernels_pass(library: Path, machine: dict[str, str]) -> None:
    files = [f"tests/kernels/test_{name}.py" for name in FILES]
    command = [sys.executable, "-c", RUN, str(library), "-q", "-p", "no:cacheprovider", "--tb=short", "-k", SELECTED, *files]
    result = subprocess.run(command, cwd=ROOT, env={**os.environ, **machine}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
