"""``python -m benchmarks NAME``: one benchmark; each explains itself with --help. Without a name: throughput, with its options."""

import sys
from importlib import import_module

# Module, and function where it is not main. Imported when asked for: the kernels' benchmark runs where packages of others are missing.
BENCHMARKS = {
    "architecture": "pages.architecture",
    "compare": "tuning.compare",
    "distribution": "tuning.distribution",
    "emoji_quality": "tuning.emoji_quality",
    "evaluation": "tuning.evaluation",
    "freeze": "tuning.freeze",
    "hero": "pages.hero",
    "kernels": "kernels.measure",
    "memory": "tuning.memory",
    "originals": "pages.reference_libs",
    "reliability": "reliability.page",
    "sanitizers": "reliability.pytest_runs:sanitizers",
    "soak": "reliability.soak",
    "support": "pages.support",
    "page": "pages.results_page",
    "scale": "pages.scale",
    "throughput": "samplings.throughput",
    "wide_features": "tuning.wide_features",
    "torches": "reliability.pytest_runs:torches",
    "tuning": "tuning.cost",
}
# Names for a part of another benchmark.
PARTS = {"figures": ("compare", "--models", "fashion", "--methods", "endpoint")}

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("--") and arguments != ["--help"]):
        arguments = ["throughput", *arguments]
    name, *options = arguments
    if name in PARTS:
        name, options = PARTS[name][0], [*PARTS[name][1:], *options]
    if name not in BENCHMARKS:
        sys.exit(f"usage: python -m benchmarks {{{','.join([*BENCHMARKS, *PARTS])}}} [options]\n{__doc__}")
    module, _, function = BENCHMARKS[name].partition(":")
    getattr(import_module(f"benchmarks.{module}"), function or "main")(options)
