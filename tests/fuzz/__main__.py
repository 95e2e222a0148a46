"""Try a great many inputs that nobody means, and count crashes.

Every kind of input runs in a process of its own, with limits on memory and time, so that a crash of the process is a finding and not
the end. Inputs are made by hypothesis from a seed: the same seed tries the same inputs, whatever runs beside it. A finding is printed
with the smallest input that shows it, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.fuzz.runner import BATCH, Tally

RESTARTS = 3  # of a process that died; then its kind of input is given up


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    if options.child:
        return _child(options)
    from tests.fuzz.registry import TARGETS

    names = [name for name in TARGETS if not options.only or any(word in name for word in options.only)]
    if not names:
        sys.exit(f"only must be words of {list(TARGETS)}, got {options.only}")
    shares = {name: max(1, round(options.inputs * TARGETS[name].share / sum(TARGETS[n].share for n in names))) for name in names}
    begin = time.time()
    with ThreadPoolExecutor(options.jobs) as pool:
        tried = list(pool.map(lambda name: _tried(name, shares[name], options, begin + options.minutes * 60), names))
    rows = {name: _row(tallies) for name, tallies in zip(names, tried, strict=True)}
    _print(rows, time.time() - begin)
    if options.out is not None:
        _write(options.out, rows, options.seed)
    return int(any(row["faults"] for row in rows.values()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=110_000, help="in all, over the kinds by their shares (%(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop then, whatever has been tried (%(default)g)")
    parser.add_argument("--seed", type=int, default=0, help="another seed tries other inputs (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="kinds of input at a time (%(default)s)")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="kinds whose name has one of these words")
    parser.add_argument("--out", type=Path, help="write the counts as JSON, with machine and versions")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help="the first batch, to see a fault again")
    parser.add_argument("--until", type=float, default=float("inf"), help=argparse.SUPPRESS)
    return parser


def _child(options: argparse.Namespace) -> int:
    from tests.fuzz.registry import TARGETS
    from tests.fuzz.runner import limit_memory, line, tallies

    say = os.fdopen(os.dup(1), "w")  # commands that are tried print, too
    limit_memory()
    for result in tallies(TARGETS[options.child], options.seed, itertools.count(options.first), options.inputs, options.until):
        print(line(result), file=say, flush=True)
    return 0


def _tried(name: str, inputs: int, options: argparse.Namespace, until: float) -> list[Tally]:
    """All batches of one kind; a process that dies costs the batch that it was at."""
    found: list[Tally] = []
    for _ in range(RESTARTS + 1):
        left = inputs - sum(tally.inputs for tally in found)
        if left <= 0 or time.time() > until:
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


def _row(tallies: Sequence[Tally]) -> dict[str, Any]:
    faults = [tally for tally in tallies if tally.fault]
    return {
        "inputs": sum(tally.inputs for tally in tallies),
        "accepted": sum(tally.accepted for tally in tallies),
        "refused": sum(tally.refused for tally in tallies),
        "faults": [f"batch {tally.batch}: {tally.fault}" for tally in faults],
        "seconds": round(sum(tally.seconds for tally in tallies), 1),
    }


def _print(rows: dict[str, dict[str, Any]], seconds: float) -> None:
    print(f"{'kind of input':42}{'inputs':>9}{'accepted':>10}{'refused':>9}{'faults':>8}{'seconds':>9}")
    for name, row in rows.items():
        print(f"{name:42}{row['inputs']:9,}{row['accepted']:10,}{row['refused']:9,}{len(row['faults']):8}{row['seconds']:9.0f}")
    total = {key: sum(row[key] for row in rows.values()) for key in ("inputs", "accepted", "refused")}
    faults = [fault for row in rows.values() for fault in row["faults"]]
    print(f"{'all':42}{total['inputs']:9,}{total['accepted']:10,}{total['refused']:9,}{len(faults):8}{seconds:9.0f}")
    for name, row in rows.items():
        for fault in row["faults"]:
            print(f"\n{name}, {fault}")


def _write(path: Path, rows: dict[str, dict[str, Any]], seed: int) -> None:
    from benchmarks.machine import machine
    from ttune.atomic import write_atomically

    record = {"machine": machine(), "seed": seed, "batch": BATCH, "kinds": rows}
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
