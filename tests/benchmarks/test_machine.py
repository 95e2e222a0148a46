"""What a result says of its run, and where it lies."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tyro

from benchmarks import machine, result_paths
from benchmarks.__main__ import BENCHMARKS, PARTS
from benchmarks.tuning import compare, memory


def test_a_command_is_what_was_typed_without_places_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["--steps", "3", "5", "--methods", "a=endpoint:tune=network_times+times", "--case", "2m + cfg"]
    expected = "python -m benchmarks x --steps 3 5 --methods a=endpoint:tune=network_times+times --case '2m + cfg'"
    assert result_paths.command("x", typed) == expected
    monkeypatch.setattr("sys.argv", ["/usr/bin/anything", *typed])
    assert result_paths.command("x", None) == expected
    inside = str(result_paths.ROOT / "build" / "x.json")
    absolute = ["--out", inside, f"--work={inside}", "--peer", "/home/somebody/clone"]
    assert result_paths.command("x", absolute) == "python -m benchmarks x --out build/x.json --work=build/x.json --peer clone"
    assert result_paths.command("x", []) == "python -m benchmarks x"


def test_the_commit_is_known_where_git_answers_and_said_to_be_unknown_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, capture_output=True
        )

    monkeypatch.setattr(machine, "ROOT", tmp_path)
    record = machine.machine()
    assert (record["commit"], record["tree"]) == ("unknown", "unknown")
    assert "quick" not in record
    git("init")
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    for path in (tmp_path / "a.py", results / "x.json"):
        path.write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    clean = machine.machine(quick=True)
    assert len(clean["commit"]) >= 7
    assert (clean["tree"], clean["quick"]) == ("as committed", True)
    (results / "x.json").write_text("2")  # a result changes nothing of the code that is measured next
    assert machine.machine()["commit"] == clean["commit"]
    (tmp_path / "a.py").write_text("2")
    changed = machine.machine()
    assert (changed["commit"], changed["tree"]) == (f"{clean['commit']}+changes", "changed: a.py")
    assert machine.tree([*"abcdefg"]) == "changed: a, b, c, d, e and 2 more"


def test_results_to_report_and_others_lie_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_paths, "BUILD", tmp_path / "build")
    monkeypatch.setattr(result_paths, "RESULTS", tmp_path / "results")
    assert result_paths.result_path("x.json", False) == tmp_path / "results" / "x.json"
    assert result_paths.result_path("x.json", True) == tmp_path / "build" / "x.json"
    assert (tmp_path / "build").is_dir()


def test_a_run_is_a_part_if_it_measures_anything_but_the_default() -> None:
    assert not result_paths.is_part(compare.CompareOptions(work=Path("elsewhere"), progress=False, out=Path("x.json")))
    assert result_paths.is_part(compare.CompareOptions(steps=(5,)))
    assert result_paths.is_part(compare.CompareOptions(models=("digits",)))
    assert not result_paths.is_part(compare.CompareOptions(models=("digits",)), "models")


def test_memory_records_its_command_and_a_part_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "apart", lambda measured, steps, **_: {"peak": 200 * steps * 2**20, "cached": 100 * steps * 2**20})
    monkeypatch.setattr(result_paths, "BUILD", tmp_path / "build")
    monkeypatch.setattr(result_paths, "RESULTS", tmp_path / "results")
    memory.main(["--steps", "5"])
    assert not (tmp_path / "results").exists()
    report = json.loads((tmp_path / "build" / "memory-cpu.json").read_text())
    assert report["command"] == "python -m benchmarks memory --steps 5"
    assert [row["ratio"] for row in report["rows"]] == [0.5] * len(memory.KINDS)
    assert report["growth of the peak, MiB, with the steps x"] == {}  # of one point
    memory.main([])
    report = json.loads((tmp_path / "results" / "memory-cpu.json").read_text())
    assert report["command"] == "python -m benchmarks memory"
    assert set(report["growth of the peak, MiB, with the steps x"].values()) == {"~ x^1.00 (within 0.0%)"}


def test_a_comparison_records_its_command_and_a_part_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Compared:
        saved: list[tuple[Path, dict[str, Any]]]

        def table(self) -> str:
            return ""

        def save(self, path: Path, more: dict[str, Any]) -> list[Path]:
            self.saved.append((path, more))
            return [path]

    compared = Compared([])
    monkeypatch.setattr(compare, "compared", lambda args, model: compared)
    compare.main(["--models", "digits"])
    compare.main(["--models", "digits", "--steps", "3"])
    compare.main(["--models", "digits", "--steps", "3", "--out", str(tmp_path)])
    assert [path.parent for path, _ in compared.saved] == [result_paths.RESULTS, result_paths.BUILD, tmp_path]
    assert [more["command"].removeprefix("python -m benchmarks compare --models digits") for _, more in compared.saved] == [
        "",
        " --steps 3",
        f" --steps 3 --out {tmp_path.name}",
    ]


def test_every_name_is_a_benchmark_or_a_part_of_one() -> None:
    for name, place in BENCHMARKS.items():
        module, _, function = place.partition(":")
        assert callable(getattr(import_module(f"benchmarks.{module}"), function or "main")), name
    (model,) = tyro.cli(compare.CompareOptions, args=[*PARTS["figures"][1:], "--steps", "5"]).models
    assert (PARTS["figures"][0], model) == ("compare", "fashion")
