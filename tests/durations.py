"""Makes tests/durations.json of a JUnit report of all tests: python -m tests.durations report.xml (`make durations` runs both)."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

SLOW = 1.0  # seconds


def main(report: str) -> None:
    found = ElementTree.parse(report).iter("testcase")
    # Others are files that could not be collected.
    cases = [(node_of(case), float(case.get("time", 0))) for case in found if str(case.get("classname")).startswith("tests.")]
    durations = {
        "slow": sorted({node for node, seconds in cases if seconds > SLOW}),
        "tests": sorted({node.partition("[")[0] for node, _ in cases}),
    }
    (Path(__file__).parent / "durations.json").write_text(json.dumps(durations, indent=0) + "\n")
    print(f"{len(durations['tests'])} tests, {len(cases)} cases, {len(durations['slow'])} of them slower than {SLOW:g} s")


def node_of(case: ElementTree.Element) -> str:
    """The node id that pytest knows a test of the report by."""
    parts = str(case.get("classname")).split(".")
    for n in range(len(parts), 0, -1):
        if Path(*parts[:n]).with_suffix(".py").exists():
            return "::".join(["/".join(parts[:n]) + ".py", *parts[n:], str(case.get("name"))])
    raise ValueError(f"{case.get('classname')} is no module here: run this from the top of the project")


if __name__ == "__main__":
    main(sys.argv[1])
