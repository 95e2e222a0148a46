"""Several processes at one comparison: every cell once, and none lost with the process that was at it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARING = """
import importlib, os, sys
from tests import tiny_model
from ttune.comparison import cells, compare
made, original = [], cells.method_cell
def counted(bench, start, label, *rest):
    made.append(f"{label}-{start.steps}")
    if len(sys.argv) > 2 and len(made) == 2:
        os._exit(9)  # in the middle of a cell, its claim still held
    return original(bench, start, label, *rest)
importlib.import_module("ttune.comparison.compare").method_cell = counted
found = compare(tiny_model.factory(), ["trajectory", "local"], samplers=("ddim",), steps=(3, 4), curve=(), samples=8, validation_samples=8,
                test_samples=16, untuned_samplers=(), work=sys.argv[1], progress=False)
print(*made)
print(len(found.rows))
"""


def test_processes_share_the_cells_and_take_over_those_of_a_dead_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SHARING, str(tmp_path)]
    dead = subprocess.run([*command, "die"], cwd=ROOT, capture_output=True, text=True)
    assert dead.returncode == 9, dead.stderr
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    made = [cell for out, _ in outputs for cell in out.splitlines()[0].split()]
    assert sorted(made) == ["local-3", "local-4", "trajectory-4"]  # the dead one finished trajectory-3
    assert {out.splitlines()[1] for out, _ in outputs} == {str(2 * 4)}  # and both know all
