"""``python -m benchmarks kernels | figures``: run one benchmark; each explains itself with --help."""

import sys

from benchmarks import figures, kernels

BENCHMARKS = {"figures": figures.main, "kernels": kernels.main}

if len(sys.argv) < 2 or sys.argv[1] not in BENCHMARKS:
    sys.exit(f"usage: python -m benchmarks {{{','.join(sorted(BENCHMARKS))}}} [options]")
BENCHMARKS[sys.argv[1]](sys.argv[2:])
