"""What other commands found, for the page of reliability: each result with its own machine and commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.result_paths import read_result

Rows = list[tuple[str, str]]  # (what, figure)


def placed(result: Mapping[str, Any]) -> str:
    """The machine and the commit of a result."""
    about = result.get("machine", {})
    return f"{about.get('cpu') or 'machine not recorded'}, commit {about.get('commit') or 'not recorded'}"


def sanitized() -> Rows:
    what, result = "tests of the kernels under AddressSanitizer and UndefinedBehaviorSanitizer", read_result("sanitize.json")
    if not result:
        return [(what, "not run")]
    reports = result["reports"]
    number = len(reports) if isinstance(reports, list) else reports
    return [(f"{what} ({placed(result)})", f"{result['passed']} passed, {result['failed']} failed, {number} reports of the sanitizers")]


def torches() -> Rows:
    what = "tests of the operators, the loops and the tuner beside torch"
    rows = read_result("torches.json").get("results", ())
    return [(f"{what} {row['torch']} ({placed(row)})", f"{row['passed']:,} passed, {row['failed']} failed") for row in rows] or [
        ("`make torches`", "not run")
    ]


def fuzzed() -> Rows:
    result = read_result("fuzz.json")
    rows = []
    for name, row in result.get("kinds", {}).items():
        asked = f" of {row['asked']:,} asked for" if row.get("asked", 0) > row["inputs"] else ""
        what = f"fuzzing, {name}: inputs, of them accepted, faults ({placed(result)})"
        rows.append((what, f"{row['inputs']:,}{asked}, {row['accepted']:,}, {len(row['faults'])}"))
    return rows or [("inputs of `make fuzz`", "not run")]


def soaked() -> Rows:
    result = read_result("soak.json")
    rows = []
    for name, row in result.get("work", {}).items():
        states = [row.get(state) for state in ("first", "warm", "end")]
        memory = ["not recorded" if state is None else f"{state['bytes'] / 2**20:.1f}" for state in states]
        figure = "resident memory of the whole process in MiB after 1, a tenth and all"
        rows.append((f"{row['times']:,} {name} in one process ({placed(result)}): {figure}", ", ".join(memory)))
    return rows or [("`make soak`", "not run")]
