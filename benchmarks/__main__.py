"""``python -m benchmarks NAME``: one benchmark; each explains itself with --help. Without a name: throughput, with its options."""

import sys
from importlib import import_module

# By name, and imported when asked for: the kernels' benchmark runs where the packages of the other are missing.
BENCHMARKS = (
    "architecture",
    "compare",
    "evaluation",
    "figures",
    "freeze",
    "kernels",
    "memory",
    "originals",
    "reliability",
    "sanitizers",
    "soak",
    "support",
    "page",
    "scale",
    "throughput",
    "torches",
    "tuning",
)

arguments = sys.argv[1:]
if not arguments or (arguments[0].startswith("--") and arguments != ["--help"]):
    arguments = ["throughput", *arguments]
name, *options = arguments
if name not in BENCHMARKS:
    sys.exit(f"usage: python -m benchmarks {{{','.join(BENCHMARKS)}}} [options]\n{__doc__}")
import_module(f"benchmarks.{name}").main(options)
