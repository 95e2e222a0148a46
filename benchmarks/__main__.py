"""``python -m benchmarks kernels | figures | compare | memory | freeze | originals``: one benchmark; each explains itself with --help."""

import sys
from importlib import import_module

# By name, and imported when asked for: the kernels' benchmark runs where the packages of the other are missing.
BENCHMARKS = ("compare", "figures", "freeze", "kernels", "memory", "originals")

if len(sys.argv) < 2 or sys.argv[1] not in BENCHMARKS:
    sys.exit(f"usage: python -m benchmarks {{{','.join(BENCHMARKS)}}} [options]")
import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])
