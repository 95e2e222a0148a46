"""What `make torches` found, as benchmarks/results/torches.json: tests passed and failed beside each release of torch.

python -m benchmarks torches 2.11.0=REPORT.xml 2.14.1=REPORT.xml      # of each release, pytest's --junitxml
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.reliability.junit import totals
from benchmarks.result_paths import RESULTS, command
from ttune.storage.atomic_write import write_atomically


def main(argv: Sequence[str] | None = None) -> None:
    """Exit status 1, after all is written, where a test failed or none ran. Releases that are not named keep what was found of them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks torches", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reports", nargs="+", metavar="VERSION=REPORT.xml", help="a release and what pytest wrote beside it")
    parser.add_argument("--out", type=Path, default=RESULTS / "torches.json", help="(default: benchmarks/results/torches.json)")
    arguments = parser.parse_args(argv)
    before = json.loads(arguments.out.read_text())["results"] if arguments.out.exists() else []
    found = {row["torch"]: row for row in before}
    about, unsound = machine(), []
    for each in arguments.reports:
        version, equals, report = each.partition("=")
        if not equals:
            parser.error(f"reports must be VERSION=REPORT.xml, got {each!r}")
        if not Path(report).exists():
            found.pop(version, None)
            unsound.append(f"{Path(report).name} of torch {version} does not exist: its tests ended without one")
            continue
        made = {"command": command("torches", argv), "machine": about | {"torch": version}}
        found[version] = {"torch": version} | totals(Path(report)) | made
        if found[version]["failed"] or not found[version]["passed"]:
            unsound.append(f"torch {version}: tests must run, and none fail")
        print("torch {torch}: {passed} passed, {failed} failed, {skipped} skipped".format(**found[version]))
    write_atomically(arguments.out, (json.dumps({"results": [*found.values()]}, indent=1) + "\n").encode())
    if unsound:
        sys.exit("\n".join(unsound))
