"""What pytest's --junitxml says in all."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree


def totals(report: Path) -> dict[str, int]:
    """{"passed", "failed", "skipped"}: an error counts as failed."""
    total = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        total = {name: number + int(suite.get(name, 0)) for name, number in total.items()}
    failed = total["failures"] + total["errors"]
    return {"passed": total["tests"] - failed - total["skipped"], "failed": failed, "skipped": total["skipped"]}
