"""The page of all results."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pages import results_page as page


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
