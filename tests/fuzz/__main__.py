"""Try a great many inputs that nobody means, and count crashes.

Every kind of input runs in a process of its own, with limits on memory and time, so that a crash of the process is a finding and not
the end. First come the files of tests/fuzz/corpus, all of them, then inputs that hypothesis makes from a seed: the same seed tries the
same inputs, whatever runs beside it. A finding is printed with the smallest input that shows it.

Exit status: 0 if all inputs that were asked for were tried without a fault; 1 if there was a fault; 3 if there was none, but fewer
inputs were tried, be it that --minutes were over.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.result import Result
from tests.fuzz.runner import CORPUS, Tally

INPUTS = 110_000
MINUTES = 180.0  # 6,000 inputs took 5 on a core shared with others, so all of them take 95
RESTARTS = 3  # of a process that died; then its kind of input is given up


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.child:
        return _child(options)
    from tests.fuzz.registry import TARGETS

    names = [name for name in TARGETS if not options.only or any(word in name for word in options.only)]
    if not names:
        parser.error(f"only must be words of {list(TARGETS)}, got {options.only}")
    asked = _shared(options.inputs, {name: TARGETS[name].share for name in names})
    begin = time.time()
    with ThreadPoolExecutor(options.jobs) as pool:
        tried = list(pool.map(lambda name: _tried(name, asked[name], options, begin + options.minutes * 60), names))
    result = Result(asked, dict(zip(names, tried, strict=True)), options.seed, time.time() - begin)
    print(result.text())
    if options.out is not None:
        place = result.write(options.out)
        elsewhere = place.resolve() != options.out.resolve()
        print(
            f"written to {place}"
            + (f": {options.out} holds a result of more inputs or other kinds, and is left alone" if elsewhere else "")
        )
    return result.status()


def _shared(inputs: int, shares: Mapping[str, float]) -> dict[str, int]:
    """``inputs`` in all, over the kinds by their shares."""
    ends = [round(inputs * end / sum(shares.values())) for end in itertools.accumulate(shares.values())]
    return {name: end - begin for name, begin, end in zip(shares, [0, *ends], ends, strict=False)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=INPUTS, help="in all, over the kinds by their shares (%(default)s)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="stop then, whatever has been tried (%(default)g)")
    parser.add_argument("--seed", type=int, default=0, help="another seed tries other inputs (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="kinds of input at a time (%(default)s)")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="kinds whose name has one of these words")
    parser.add_argument(
        "--out",
        type=Path,
        help="write the counts as JSON, with machine and versions; a file that holds a result of more inputs, or of kinds "
        "that were not tried now, is left alone, and this one written to build/ under the same name",
    )
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=CORPUS, help="the first batch, to see a fault again; %(default)s is the corpus")
    parser.add_argument("--until", type=float, default=float("inf"), help=argparse.SUPPRESS)
    return parser


def _child(options: argparse.Namespace) -> int:
    from tests.fuzz.registry import TARGETS
    from tests.fuzz.runner import limit_memory, line, tallies

    say = os.fdopen(os.dup(1), "w")  # commands that are tried print, too
    limit_memory()
    for result in tallies(TARGETS[options.child], options.seed, options.first, options.inputs, options.until):
        print(line(result), file=say, flush=True)
    return 0


def _tried(name: str, inputs: int, options: argparse.Namespace, until: float) -> list[Tally]:
    """All batches of one kind; a process that dies costs the batch that it was at."""
    found: list[Tally] = []
    for _ in range(RESTARTS + 1):
        left = inputs - sum(tally.inputs for tally in found if tally.batch != CORPUS)
        if found and (left <= 0 or time.time() > until):
            break
        first = options.first if not found else found[-1].batch + 1
        arguments = ["--inputs", left, "--seed", options.seed, "--first", first, "--until", until, "--child", name]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        said, errors = process.communicate()
        found += [Tally(**json.loads(line)) for line in said.splitlines()]
        if process.returncode == 0:
            break
        at = found[-1].batch + 1 if found else first
        found.append(Tally(at, fault=f"the process ended with status {process.returncode} in batch {at}:\n{errors[-4000:]}"))
    return found


if __name__ == "__main__":
    sys.exit(main())
