"""Cost of tuning, scale on paper, and the page of all results."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks import apart, page, places, scale, tuning
from benchmarks.growth import Growth


class Outline(HTMLParser):
    """Open elements, headings and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables, self.sources, self.images_without_words = 0, [], 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.tables += tag == "table"
        values = dict(attrs)
        self.sources += [v for k, v in attrs if k in ("src", "href")]
        self.images_without_words += tag == "img" and not values.get("alt")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_draws_every_committed_result(tmp_path: Path) -> None:
    for path in page.RESULTS.iterdir():
        if path.suffix in (".json", ".md", ".png"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    page.main(["--results", str(tmp_path)])
    text = (tmp_path / "index.html").read_text()
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    assert outline.images_without_words == 0
    assert all(str(s).startswith(("#", "data:image/png;base64,")) for s in outline.sources)
    assert outline.tables >= len(list(tmp_path.glob("*.json")))
    sections = dict(zip(*[iter(re.split(r'<h2 id="([^"]+)">', text)[1:])] * 2, strict=True))
    assert set(sections) == {path.stem for path in tmp_path.glob("*.json")}
    for name, section in sections.items():
        result = json.loads((tmp_path / f"{name}.json").read_text())
        assert re.search(r"<tbody><tr><td", section), name
        assert "<code>" in section, name
        machines = [result["machine"]] if "machine" in result else [record["machine"] for record in result["results"]]
        for machine in machines:
            assert f"cpu {machine['cpu']}" in section, name
            commit = machine["commit"]
            assert (f"commit {commit}" if commit not in ("", "unknown") else "no commit recorded") in section, name


def test_records_are_drawn_wherever_they_lie(tmp_path: Path) -> None:
    """In lists, under names, and a result that has none; each record's machine; and what a file does not say, in words."""
    kinds = {"files": {"inputs": 12, "faults": ["died", "hung"]}, "arrays": {"inputs": 7, "faults": []}}
    rows = [{"n": n, "machine": {"cpu": f"cpu{n}", "commit": f"c0ffee{n}"}, "command": f"run {n}"} for n in (1, 2, 2)]
    results = {"fuzz": {"machine": {"cpu": "a", "commit": "unknown"}, "kinds": kinds}, "freeze-cpu": {"results": rows}}
    results |= {
        "sanitize": {"machine": {"cpu": "a", "commit": "b0b"}, "passed": 5, "failed": 1, "reports": []},
        "other": {"rows": [{"a": 1}]},
    }
    sections = {}
    for name, result in results.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
        sections[name] = page.section(tmp_path / f"{name}.json")
    assert "<td>files</td><td>12</td><td>2</td>" in sections["fuzz"]
    assert "<td>arrays</td><td>7</td><td>0</td>" in sections["fuzz"]
    assert "no commit recorded" in sections["fuzz"]
    assert "make fuzz" in sections["fuzz"]
    assert [sections["freeze-cpu"].count(f'"machine">cpu cpu{n}, commit c0ffee{n}<') for n in (1, 2)] == [1, 1]
    assert [sections["freeze-cpu"].count(f"<code>run {n}</code>") for n in (1, 2)] == [1, 1]
    assert "<td>2</td><td>c0ffee2</td>" in sections["freeze-cpu"]
    assert "<td>5</td><td>1</td><td>0</td>" in sections["sanitize"]
    assert "no machine and no commit recorded" in sections["other"]


def test_ratios_of_kernels_are_drawn(tmp_path: Path) -> None:
    def record(dtype: str, median: float, at_most: float | None) -> dict[str, Any]:
        ratio = {"subject": "ttune", "rival": "a<b", "value": {"median": median, "low": median, "high": median}, "at_most": at_most}
        return {"case": "clip", "shape": [2, 3], "dtype": dtype, "ratios": [ratio | {"met": at_most is None or median <= at_most}]}

    records = [record("float32", 0.25, 1.0), record("bfloat16", 4.0, 1.0), record("float64", 1.0, None)]
    (tmp_path / "kernels-cpu.json").write_text(json.dumps({"results": records}))
    drawn = page.section(tmp_path / "kernels-cpu.json")
    assert "clip: ttune / a&lt;b" in drawn
    places = {said: float(x) for x, said in re.findall(r'<circle cx="([\d.]+)".*?<title>(.*?)</title>', drawn)}
    fast, slow, same = (
        places[f"{r} at 2x3 {d}"] for r, d in (("0.25", "float32"), ("4.00", "bfloat16, target missed"), ("1.00", "float64"))
    )
    assert same - fast == pytest.approx(slow - same, abs=0.2)  # logarithmic
    assert fast < same
    assert drawn.count('fill="none"') == 1  # what misses its target


def test_the_page_escapes_what_it_shows(tmp_path: Path) -> None:
    (tmp_path / "x-cpu.json").write_text(json.dumps({"machine": {"cpu": "<script>"}, "rows": [{"a": "<b>", "b": 1.5}]}))
    page.main(["--results", str(tmp_path)])
    text = (tmp_path / "index.html").read_text()
    assert "<script>" not in text
    assert "&lt;b&gt;" in text
    with pytest.raises(SystemExit, match="results must be a folder with result files"):
        page.main(["--results", str(tmp_path / "empty")])


def test_growth_is_a_constant_a_power_law_or_a_line_and_otherwise_none() -> None:
    sizes = [1, 2, 4, 8]
    assert Growth.of(sizes, [3 * x**2 for x in sizes]).words == "~ x^2.00"
    assert Growth.of(sizes, [5 + 2 * x for x in sizes]).words == "5 + 2 x"
    assert Growth.of(sizes, [7.0, 7.1, 7.0, 6.9]).words == "constant: 7"
    jump = Growth.of([32, 64, 128, 256, 512], [6.6, 13.2, 17.9, 17.9, 17.9], batch_size=64)
    assert (jump.words, jump.worst) == ("constant beyond one chunk: 17.9", 0)
    none = Growth.of(sizes, [80, 224, 80, 334])
    assert not none.describes
    assert none.words == "no curve: 80 to 334"
    scatter = Growth.of(sizes, [1.23, 1.08, 1.14, 1.22])  # a line would miss no point by a tenth, and say nothing
    assert scatter.worst < 0.1
    assert scatter.words == "no curve: 1.08 to 1.23"
    with pytest.raises(ValueError, match="at least 3, got 2"):
        Growth.of([1, 2], [1, 2])


@pytest.mark.parametrize("kind", tuning.KINDS)
def test_evaluations_of_an_iteration_are_counted_and_memory_grows_with_pixels(kind: str) -> None:
    """Five steps, ten parameters: by differences a base run, and a restart for each. A backward pass counts two."""
    small, large = (tuning.iteration(kind, n, 8) for n in (64, 256))
    assert small["evaluations"] == large["evaluations"] == {"differences": 280, "backpropagation": 240}[kind]
    assert 3 < large["peak_bytes"] / small["peak_bytes"] < 4.5
    assert 0 < small["seconds"]["low"] <= small["seconds"]["median"] <= small["seconds"]["high"]


def test_a_quick_run_lies_in_build_and_fits_three_budgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "count_on_cpu", lambda call: (None, 7000))  # the profiler takes a minute; it is tested above
    peaks = {"3": 300, "5": 500, "8": 800}
    monkeypatch.setattr(tuning, "apart", lambda *options: {"peak": peaks[options[options.index("--steps") + 1]]})
    monkeypatch.setattr(places, "BUILD", tmp_path / "build")
    monkeypatch.setattr(places, "RESULTS", tmp_path / "results")
    options = [
        "--quick",
        "--methods",
        "trajectory",
        "timetuner",
        "--sampler",
        "heun",
        "--sides",
        "2",
        "4",
        "8",
        "--samples",
        "8",
        "16",
        "32",
    ]
    tuning.main([*options, "--work", str(tmp_path / "work")])
    out = tmp_path / "build" / "tuning-cpu.json"
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "work").exists()  # finished: another run measures again
    report = json.loads(out.read_text())
    assert report["command"] == f"python -m benchmarks tuning {' '.join(options)} --work work"
    assert report["machine"]["quick"] is True
    assert report["machine"]["threads"] == 1
    refused = [row for row in report["methods"] if "refused" in row]
    assert {row["method"] for row in refused} == {"timetuner"}  # Heun has two evaluations a step
    fits = {(fit["of"], fit["with"], fit["figure"]): fit for fit in report["fits"]}
    assert fits["trajectory", "K", "peak MB"]["words"] == "~ x^1.00"
    assert {figure for of, by, figure in fits if (of, by) == ("trajectory", "K")} == set(tuning.FIGURES)
    assert not [of for of, _, _ in fits if of == "timetuner"]
    assert {by for _, by, _ in fits} == {"K", "pixels", "x_T"}
    page_of_it = out.with_suffix(".md").read_text()
    assert "refused: " in page_of_it
    assert report["command"] in page_of_it


def test_quick_runs_are_repeated_only_where_they_are_to_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "apart", lambda *options: {"peak": 1})
    fast, slow = ([1.0, 3.0, 2.0], [21.0])
    result = tuning.tuning("ays", "dpmpp_2m", 3)(True)
    for times, quick, runs in ((fast, False, 3), (fast, True, 1), (slow, False, 1)):
        clock = iter(times)
        monkeypatch.setattr(tuning, "_timed", lambda run, quick, clock=clock: (next(clock), result))
        row = tuning.by_method("ays", "dpmpp_2m", 3, quick=quick)
        assert row["runs"] == runs
        assert row["seconds"] == {"median": sorted(times[:runs])[runs // 2], "low": min(times[:runs]), "high": max(times[:runs])}
        assert row["evaluations"] == sum(row["cost"].values()) > 0


def test_the_peak_of_a_tuning_is_measured_in_a_process_of_its_own() -> None:
    assert 0 < apart.apart("tuning", "--only", "trajectory", "--steps", "3", "--quick")["peak"] < 100e6
    with pytest.raises(RuntimeError, match="tuning --only no-such-method failed"):
        apart.apart("tuning", "--only", "no-such-method")


def test_an_interrupted_run_goes_on_with_the_cells_of_its_code(tmp_path: Path) -> None:
    measured: list[int] = []

    def cell(n: int, *, quick: bool) -> dict[str, int]:
        measured.append(n)
        return {"n": n, "of": len(measured)}

    rows = [tuning.Cells(tmp_path, code).row(cell, n, quick=False) for code in ("a", "a", "b") for n in (1, 2)]
    assert measured == [1, 2, 1, 2]
    assert rows[:2] == rows[2:4] != rows[4:]


def test_scale_divides_whole_chunks_only() -> None:
    args = scale.ScaleOptions()
    model = replace(scale.MODELS[0], operations=args.peak * args.utilisation, calls=1)  # one second per evaluation
    assert scale.hours(model, 3600, args, 1, 16) == pytest.approx(1)
    assert scale.hours(model, 3600, args, 8, 16) == pytest.approx(1 / 8)
    assert scale.hours(model, 3600, args, 64, 16) == pytest.approx(1 / 16)
    assert scale.hours(model, 3600, args, 8, 9) == pytest.approx(2 / 9)


def test_memory_at_scale_is_weights_activations_and_states() -> None:
    model = replace(scale.MODELS[0], parameters=1.0, activations=0.5, calls=2, shape=(10, 10, 10))
    assert scale.gigabytes(model, batch_size=4, held=0) == pytest.approx(2 + 0.5 * 2 * 4)
    assert scale.gigabytes(model, batch_size=4, held=1000) == pytest.approx(2 + 4 + 1000 * 4 * 1000 * 4 / 1e9)


def test_scale_reads_every_budget_from_one_model_and_names_file_and_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(name: str, **content: object) -> None:
        (tmp_path / name).write_text(json.dumps(content | {"machine": {"commit": "c0ffee"}}))

    monkeypatch.setattr(scale, "RESULTS", tmp_path)
    write("tuning-cpu.json", methods=[{"method": "endpoint", "steps": k, "evaluations": 1000 * k} for k in (5, 10)])
    peaks = [{"steps": k, "kind": kind, "peak": p} for k in (5, 10) for kind, p in (("sampling", 1000), ("differences", 1000 + 784 * k))]
    write("memory-cpu.json", rows=peaks, settings={"batch_size": 1})
    for model in ("fashion", "digits", "mixture"):  # a model that was compared at some budgets only must not fill in
        write(f"compare-{model}.json", rows=[{"label": "endpoint", "sampler": "dpmpp_2m", "steps": 5, "evaluations": 7}])
    assert scale.evaluations(5) == (5000, "tuning-cpu.json, c0ffee")
    assert scale.evaluations(10) == (10000, "tuning-cpu.json, c0ffee")
    assert scale.states(10) == (pytest.approx(10 / 4), "memory-cpu.json, c0ffee")
    scale.main(["--out", str(tmp_path / "scale.md")])
    text = (tmp_path / "scale.md").read_text()
    assert "Nothing here was run at this size" in text
    assert "python -m benchmarks scale --out scale.md" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 3 * len(scale.MODELS)
    assert all("| tuning-cpu.json, c0ffee |" in row for row in rows if "tuning, " in row)
    assert "7 (compare-fashion.json, c0ffee)" in text
    assert "10 steps: not measured" in text
    with pytest.raises(SystemExit, match="python -m benchmarks tuning --steps 6"):
        scale.evaluations(6)
    with pytest.raises(SystemExit, match="python -m benchmarks memory --steps 6"):
        scale.states(6)


def test_the_committed_page_of_scale_is_that_of_the_committed_results(tmp_path: Path) -> None:
    scale.main(["--out", str(tmp_path / "scale.md")])
    written, committed = ((folder / "scale.md").read_text().splitlines() for folder in (tmp_path, places.ROOT / "docs"))
    assert committed[2].startswith("Written by `python -m benchmarks scale`")
    assert written[3:] == committed[3:]
