"""What `make sanitize` found, as benchmarks/results/sanitize.json: tests passed and failed, and reports of the sanitizers.

python -m benchmarks sanitizers LOG REPORT.xml      # what pytest printed, and its --junitxml
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.reliability.junit import totals
from benchmarks.result_paths import RESULTS, command
from ttune.storage.atomic_write import write_atomically

# AddressSanitizer's stops the process; UndefinedBehaviorSanitizer's says a line and goes on.
REPORT = re.compile(r"ERROR: AddressSanitizer: .*|^.*: runtime error: .*", re.MULTILINE)


def main(argv: Sequence[str] | None = None) -> None:
    """Exit status 1 where a sanitizer reported or a test failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks sanitizers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path, help="what the tests printed")
    parser.add_argument("report", type=Path, help="pytest's --junitxml; where it is missing, the process was stopped")
    parser.add_argument("--out", type=Path, default=RESULTS / "sanitize.json", help="(default: benchmarks/results/sanitize.json)")
    arguments = parser.parse_args(argv)
    reports = REPORT.findall(arguments.log.read_text(errors="replace"))
    found = {"passed": 0, "failed": 0, "skipped": 0}
    if arguments.report.exists():
        found = totals(arguments.report)
    elif not reports:
        reports = ["the process ended without a report of its tests"]
    record = {"command": command("sanitizers", argv), "machine": machine(), **found, "reports": reports}
    write_atomically(arguments.out, (json.dumps(record, indent=1) + "\n").encode())
    print(
        f"{record['passed']} passed, {record['failed']} failed, {record['skipped']} skipped, {len(reports)} reports: {arguments.out.name}"
    )
    print(*reports, sep="\n")
    if reports or record["failed"]:
        sys.exit(1)
