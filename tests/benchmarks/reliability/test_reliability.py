"""The page of what was tried to break ttune: what it counts is what it says, and it is measured where it says so."""

from __future__ import annotations

import ast
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import result_paths
from benchmarks.isolated_process import apart
from benchmarks.reliability import findings, page, repeats, rounding, soak
from benchmarks.reliability.pytest_runs import PytestRun, run_tests, torches
from benchmarks.result_paths import RESULTS
from ttune import ops

KERNELS = page.ROOT / "tests" / "kernels"
CHECKS = {"gradcheck": {"gradcheck", "gradgradcheck"}, "opcheck": {"opcheck"}}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of benchmarks/results."""
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr(result_paths, "RESULTS", folder)
    return folder


# ------------------------------------------------------------------------------------------------------------- markers


def called(function: ast.FunctionDef) -> set[str]:
    """The names that the body of a function calls, without what is before them."""
    calls = [node.func for statement in function.body for node in ast.walk(statement) if isinstance(node, ast.Call)]
    return {call.attr if isinstance(call, ast.Attribute) else call.id for call in calls if isinstance(call, (ast.Attribute, ast.Name))}


def checking(text: str, checks: set[str]) -> tuple[set[str], set[str]]:
    """The tests of a file that call one of ``checks``, directly or through functions of that file; and the tests that say so."""
    functions = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    names, before = set(checks), set()
    while names != before:
        before = set(names)
        names |= {name for name, function in functions.items() if called(function) & names}
    marker = {"gradgradcheck": "gradcheck"}.get(min(checks), min(checks))
    marked = {name for name, f in functions.items() if any(ast.unparse(d) == f"pytest.mark.{marker}" for d in f.decorator_list)}
    return {name for name in names if name.startswith("test_")}, marked


@pytest.mark.parametrize("marker", CHECKS)
def test_who_is_marked_does_check_and_no_other(marker: str) -> None:
    found = {path.name: checking(path.read_text(), CHECKS[marker]) for path in sorted(KERNELS.glob("test_*.py"))}
    assert {name: calling for name, (calling, _) in found.items()} == {name: marked for name, (_, marked) in found.items()}
    assert sum(len(calling) for calling, _ in found.values()) >= 5


def test_a_check_through_a_function_of_the_file_is_seen() -> None:
    text = (
        "def helper(): torch.autograd.gradcheck(f, x)\ndef test_a(): helper()\n@pytest.mark.gradcheck\ndef test_gradients(): x.backward()\n"
    )
    assert checking(text, CHECKS["gradcheck"]) == ({"test_a"}, {"test_gradients"})


def test_the_sizes_of_the_largest_tensors_are_those_of_the_tests() -> None:
    text = {path.name: path.read_text() for path in KERNELS.glob("test_*.py")}
    functions = [node for source in text.values() for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    huge = {f.name: ast.unparse(f) for f in functions if any(ast.unparse(d) == "pytest.mark.huge" for d in f.decorator_list)}
    assert huge.keys() == page.HUGE.keys()
    for name, (elements, dtype, _) in page.HUGE.items():
        assert f"= 2 ** 31 + {elements - 2**31}\n" in huge[name]
        assert f"torch.{dtype}" in huge[name]


# --------------------------------------------------------------------------------------------------------------- tests


def test_what_pytest_finds_is_reported_with_reasons_and_figures(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(
        "import pytest\n"
        "def test_a(record_property):\n    record_property('kills', 3)\n    record_property('lost, at most', 2)\n"
        "def test_b(record_property):\n    record_property('kills', 4)\n    record_property('lost, at most', 1)\n    assert False\n"
        "@pytest.mark.parametrize('n', [1, 2])\ndef test_c(n):\n    pytest.skip('no GPU (of any kind)')\n"
    )
    run = run_tests([str(file)])
    assert not run.sound
    assert str(run) == "1 passed; 1 failed; 2 skipped (2: no GPU); kills: 7; lost, at most: 2"
    file.write_text("")
    assert not run_tests([str(file)]).sound
    assert "no tests" in str(run_tests([str(file)]))


def test_the_page_has_what_was_measured_and_a_failed_test_is_reported_after_it(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((rounding, "rounding"), (repeats, "compilation"), (repeats, "repeats")):
        monkeypatch.setattr(module, name, lambda name=name: [("measured", name)])
    bad = tmp_path / "test_bad.py"
    bad.write_text("def test_bad():\n    assert False\n")
    good = ("tests/test_concurrency.py", "-k", "another_order")
    monkeypatch.setattr(page, "TESTS", {"threads": good})
    out = tmp_path / "page.md"
    page.main(["--out", str(out)])
    text = out.read_text()
    assert "| threads | 1 passed |" in text
    for absent in ("inputs of `make fuzz`", "`make soak`", "largest tensors (`pytest -m huge tests/kernels`)"):
        assert f"| {absent} | not run |" in text
    assert "Sanitizer | not run |" in text
    assert ("no GPU that torch finds" in text) != torch.cuda.is_available()
    monkeypatch.setattr(page, "TESTS", {"threads": good, "bad ones": (str(bad),)})
    with pytest.raises(SystemExit, match="must pass, and these did not: bad ones") as stop:
        page.main(["--out", str(out)])
    assert isinstance(stop.value.code, str)  # which the interpreter prints, and exits with 1
    assert "| bad ones | 1 failed |" in out.read_text()
    page.main(["--out", str(out), "--no-tests"])
    monkeypatch.setattr(page, "measured", None)  # --page measures nothing
    (results / "torches.json").write_text(json.dumps({"results": [{"torch": "2.11.0", "passed": 1234, "failed": 0}]}))
    page.main(["--out", str(out), "--page"])
    before, after = set(text.splitlines()), set(out.read_text().splitlines())
    assert before - after == {"| threads | 1 passed |", "| `make torches` | not run |"}
    assert len(after - before) == 1
    assert "1,234 passed, 0 failed" in (after - before).pop()
    with pytest.raises(SystemExit, match="--page needs other"):
        page.main(["--out", str(tmp_path / "other.md"), "--page"])


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    assert page.PAGE.read_text() == page.page(json.loads((RESULTS / "reliability.json").read_text()))


def test_the_largest_tensors_are_reported_with_their_outcome() -> None:
    run = PytestRun(0, (("test_more_elements_than_32_bits_count", "skipped", "needs 12 GiB of free memory"),), {})
    assert page.largest(run) == [("largest tensor, CPU: 2,147,487,747 elements, bfloat16", "skipped (needs 12 GiB of free memory)")]


# ------------------------------------------------------------------------------------------------------------ rounding


def test_units_are_those_of_the_last_place() -> None:
    exact = np.array([Fraction(3, 2), Fraction(1)], object)
    assert rounding.units(torch.tensor([1.5, 1.0]), exact, torch.float32) == 0
    assert rounding.units(torch.tensor([1.5, 1 + 3 * 2.0**-23]), exact, torch.float32) == 3
    assert rounding.units(torch.tensor([1.5, 1 + 2.0**-7]), 1 * exact, torch.bfloat16) == 1
    assert rounding.units(torch.tensor([3.0, 2 + 2.0**-7]), 2 * exact, torch.bfloat16) == 0.5
    assert rounding.units(torch.tensor([0.5]), np.array([0.75], np.longdouble), torch.float64) == 2.0**51


def test_no_operator_is_worse_than_twice_eager_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which a unit in the last place is the least that is asked for; and an operator that is worse shows."""
    monkeypatch.setattr(rounding, "SEEDS", 1)
    monkeypatch.setattr(rounding, "SHAPES", ((2, 3, 5), (1, 101)))
    rows = rounding.rounding()
    number = lambda text: float(text.replace(",", ""))  # noqa: E731
    rows = [row for row in rows if row[3] != "not measured"]
    assert [row[:2] for row in rows if number(row[3]) > 2 * max(number(row[4]), 1)] == []
    assert {row[0] for row in rows} == set(rounding.TRIALS)
    assert {row[1] for row in rows} == {"float64", "float32", "bfloat16", "float16"}
    correct = ops.embedding_lookup
    monkeypatch.setattr(rounding.ops, "embedding_lookup", lambda table, t: correct(table, t) * (1 + 40 * torch.finfo(table.dtype).eps))
    monkeypatch.setattr(rounding, "TRIALS", {"lookup": rounding.TRIALS["`embedding_lookup`"]})
    assert all(number(row[3]) > 20 for row in rounding.rounding())


# ---------------------------------------------------------------------------------------------- compilation and repeats


class Broken(repeats.Convolutions):
    """A network that no one graph holds."""

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        x = 2 * x
        torch._dynamo.graph_break()
        return super().forward(x, tau)


def test_graphs_and_breaks_are_counted() -> None:
    """One graph a shape with the sampler's defaults; with torch's one for each of four kinds of step, and no more than two of each."""
    rows = repeats.compilation()
    assert [row[1:] for row in rows[:4]] == [("1, 0", "4, 0"), ("0, 0", "0, 0"), ("1, 0", "4, 0"), ("1, 0", "0, 0")]
    assert rows[4][1:] == ("1, 0", "4, 0")
    graphs, breaks = map(int, repeats.compilation(Broken, [{"fullgraph": False}])[0][1].split(", "))
    assert graphs > 1
    assert breaks > 0


def test_repeats_that_differ_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([1.0, 1.0, 2.0, 1.0])
    monkeypatch.setattr(repeats, "works", lambda: {"work": (lambda: [torch.tensor(next(values))], 4)})
    found = {1: torch.tensor(1.0), 2: torch.tensor(1.0), 4: torch.tensor(3.0)}
    monkeypatch.setattr(repeats, "apart", lambda digests, threads: {"work": repeats.digest([found[threads]])})
    assert repeats.repeats() == [("work", 4, 1, "same bits", "same bits", "other bits")]


def test_another_process_tells_the_bits_of_every_work() -> None:
    assert apart(repeats.digests, threads=2).keys() == repeats.works().keys()


# -------------------------------------------------------------------------------------------------- results of others


def test_results_are_named_with_their_own_machine_and_commit(results: Path) -> None:
    def write(name: str, **result: Any) -> None:
        (results / name).write_text(json.dumps({"machine": {"cpu": "a processor", "commit": "c0ffee"}, **result}))

    write("fuzz.json", kinds={"files": {"inputs": 1200, "asked": 2000, "accepted": 7, "faults": ["x"]}})
    assert findings.fuzzed() == [
        ("fuzzing, files: inputs, of them accepted, faults (a processor, commit c0ffee)", "1,200 of 2,000 asked for, 7, 1")
    ]
    states = {name: {"bytes": n * 2**20} for n, name in enumerate(("first", "warm", "end"), 5)}
    write("soak.json", work={"tunings": {"times": 1000, **states}, "samplings": {"times": 50, **states, "first": None}})
    assert [figure for _, figure in findings.soaked()] == ["5.0, 6.0, 7.0", "not recorded, 6.0, 7.0"]
    assert "resident memory of the whole process in MiB after 1, a tenth and all" in findings.soaked()[0][0]
    write("sanitize.json", passed=800, failed=2, reports=["heap-buffer-overflow"])
    assert findings.sanitized()[0][1] == "800 passed, 2 failed, 1 reports of the sanitizers"
    assert "(a processor, commit c0ffee)" in findings.sanitized()[0][0]


def test_a_soak_looks_after_one_a_tenth_and_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    monkeypatch.setattr(soak.State, "now", staticmethod(lambda: soak.State(len(done) * 2**20, 0, 0)))
    for times, states in ((30, (1, 3, 30)), (1, (1, 1, 1))):
        done.clear()
        result = soak.soaked(done.append, times)
        assert tuple(state.bytes // 2**20 for state in (result.first, result.warm, result.end)) == states
    assert soak.Soaked(30, 1.0, soak.State(0, 0, 0), soak.State(0, 0, 0), soak.State(0, 1, 0)).grew == ["tensors by 1"]


def test_a_soak_that_fits_nowhere_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    about = soak.machine() | {"commit": "unknown"}
    monkeypatch.setattr(soak, "machine", lambda: dict(about))
    out = tmp_path / "soak.json"
    few = ["--tunings", "1", "--samplings", "1", "--out", str(out)]
    with pytest.raises(SystemExit):
        soak.main(few)
    assert "commit must be recorded, and git does not know it, got 'unknown': name it with --commit" in capsys.readouterr().err
    assert not out.exists()
    with pytest.raises(SystemExit):
        soak.main([*few, "--commit", "c0ffee"])
    assert json.loads(out.read_text())["machine"]["commit"] == "c0ffee"


def test_releases_of_torch_keep_what_was_found_beside_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, out = tmp_path / "report.xml", tmp_path / "torches.json"

    def record(version: str, tests: int, failures: int) -> None:
        report.write_text(f'<testsuites><testsuite tests="{tests}" failures="{failures}" errors="0" skipped="2"/></testsuites>')
        torches([f"{version}={report}", "--out", str(out)])

    record("2.11.0", 12, 0)
    with pytest.raises(SystemExit):
        record("2.12.0", 12, 1)
    with pytest.raises(SystemExit):
        record("2.13.0", 2, 0)  # none ran
    found = {row["torch"]: (row["passed"], row["failed"]) for row in json.loads(out.read_text())["results"]}
    assert found == {"2.11.0": (10, 0), "2.12.0": (9, 1), "2.13.0": (0, 0)}
    report.write_text('<testsuites><testsuite tests="9" failures="0" errors="0" skipped="2"/></testsuites>')
    with pytest.raises(SystemExit, match=r"gone.xml of torch 2.11.0 does not exist"):
        torches([f"2.11.0={tmp_path / 'gone.xml'}", f"2.14.1={report}", "--out", str(out)])
    assert [row["torch"] for row in json.loads(out.read_text())["results"]] == ["2.12.0", "2.13.0", "2.14.1"]  # the other one is kept
