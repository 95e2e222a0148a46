"""What runs of pytest found, read from its --junitxml: under sanitizers, beside other torches, and for docs/results/reliability.md.

python -m benchmarks sanitizers LOG REPORT.xml                         # of `make sanitize`; benchmarks/results/sanitize.json
python -m benchmarks torches 2.11.0=REPORT.xml 2.14.1=REPORT.xml       # of `make torches`; benchmarks/results/torches.json
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.machine import machine
from benchmarks.result_paths import RESULTS, ROOT, command, parser_of, write_json

# AddressSanitizer's stops the process; UndefinedBehaviorSanitizer's says a line and goes on.
REPORT = re.compile(r"ERROR: AddressSanitizer: .*|^.*: runtime error: .*", re.MULTILINE)


@dataclass(frozen=True)
class PytestRun:
    """What pytest said: its exit status, (test, outcome, why) of each, and the figures that tests recorded."""

    status: int
    cases: tuple[tuple[str, str, str], ...]
    figures: Mapping[str, int]

    @property
    def sound(self) -> bool:
        """Tests ran, and none failed."""
        return self.status == 0

    def __str__(self) -> str:
        said = [f"{n} {outcome}" for outcome, n in Counter(outcome for _, outcome, _ in self.cases).items() if outcome != "skipped"]
        why = Counter(re.sub(r"\s*\(.*?\)", "", reason) for _, outcome, reason in self.cases if outcome == "skipped")
        if why:
            said.append(f"{why.total()} skipped ({', '.join(f'{n}: {reason}' for reason, n in why.most_common())})")
        said += [f"{name}: {value}" for name, value in self.figures.items()]
        return "; ".join(said) if self.cases else f"pytest: exit status {self.status}, no tests"


def run_tests(arguments: Sequence[str]) -> PytestRun:
    """Tests record with pytest's record_property; what is "at most" is the largest over the tests, other figures are added."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # xunit1: the newer format has no place for what tests record.
        options = ["-p", "no:cacheprovider", f"--junitxml={report}", "-o", "junit_family=xunit1", *arguments]
        status = subprocess.run([sys.executable, "-m", "pytest", *options], cwd=ROOT, capture_output=True, check=False).returncode
        root = ElementTree.parse(report).getroot() if report.exists() else ElementTree.Element("testsuites")
    cases, figures = [], {}
    for case in root.iter("testcase"):
        outcome = next((found for found in case if found.tag in ("failure", "error", "skipped")), None)
        tag = "passed" if outcome is None else {"failure": "failed"}.get(outcome.tag, outcome.tag)
        cases.append((case.get("name", ""), tag, "" if outcome is None else outcome.get("message", "")))
        for each in case.iter("property"):
            name, value = each.get("name", ""), int(each.get("value", 0))
            figures[name] = max(figures.get(name, 0), value) if name.endswith("at most") else figures.get(name, 0) + value
    return PytestRun(status, tuple(cases), figures)


def totals(report: Path) -> dict[str, int]:
    """{"passed", "failed", "skipped"}: an error counts as failed."""
    total = Counter()
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        total.update({name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")})
    failed = total["failures"] + total["errors"]
    return {"passed": total["tests"] - failed - total["skipped"], "failed": failed, "skipped": total["skipped"]}


def sanitizers(argv: Sequence[str] | None = None) -> None:
    """Tests passed and failed, and reports of the sanitizers. Exit status 1 where a sanitizer reported or a test failed."""
    parser = parser_of("sanitizers", __doc__)
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
    write_json(arguments.out, {"command": command("sanitizers", argv), "machine": machine(), **found, "reports": reports})
    counted = ", ".join(f"{number} {outcome}" for outcome, number in found.items())
    print(f"{counted}, {len(reports)} reports: {arguments.out.name}", *reports, sep="\n")
    if reports or found["failed"]:
        sys.exit(1)


def torches(argv: Sequence[str] | None = None) -> None:
    """Exit status 1, after all is written, where a test failed or none ran. Releases that are not named keep what was found of them."""
    parser = parser_of("torches", __doc__)
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
    write_json(arguments.out, {"results": [*found.values()]})
    if unsound:
        sys.exit("\n".join(unsound))
