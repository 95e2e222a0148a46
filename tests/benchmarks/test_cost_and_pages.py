"""Cost of tuning, scale on paper, and the page of all results."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks import page, scale, tuning


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
    for path in tmp_path.glob("*.json"):
        assert f'id="{path.stem}"' in text
        commit = json.loads(path.read_text()).get("machine", {}).get("commit")
        assert commit is None or commit in text


def test_the_page_escapes_what_it_shows(tmp_path: Path) -> None:
    (tmp_path / "x-cpu.json").write_text(json.dumps({"machine": {"cpu": "<script>"}, "rows": [{"a": "<b>", "b": 1.5}]}))
    page.main(["--results", str(tmp_path)])
    text = (tmp_path / "index.html").read_text()
    assert "<script>" not in text
    assert "&lt;b&gt;" in text
    with pytest.raises(SystemExit, match="results must be a folder with result files"):
        page.main(["--results", str(tmp_path / "empty")])


def test_exponents_are_those_of_power_laws() -> None:
    assert tuning.power([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)


def test_evaluations_of_an_iteration_are_counted_and_memory_grows_with_pixels() -> None:
    """Five steps, ten parameters: a base run, and a restart for each; a backward pass counts two."""
    small, large = (tuning.iteration("differences", n, 8) for n in (64, 256))
    assert small["evaluations"] == large["evaluations"] > 8 * 5
    assert 3 < large["peak_bytes"] / small["peak_bytes"] < 4.5


def test_a_quick_run_writes_table_and_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "tuning.json"
    tuning.main(["--quick", "--methods", "trajectory", "shifted", "timetuner", "--sampler", "heun", "--out", str(out)])
    report = json.loads(out.read_text())
    refused = [row for row in report["methods"] if "refused" in row]
    assert "timetuner" in {row["method"] for row in refused}  # Heun has two evaluations a step
    assert report["fits"]["trajectory: tuning evaluations with K"] > 0
    assert "refused: " in out.with_suffix(".md").read_text()


def test_scale_divides_whole_chunks_only(tmp_path: Path) -> None:
    args = scale.Args(out=tmp_path / "scale.md")
    model = scale.Model("m", operations=args.peak * args.utilisation, calls=1, source="")  # one second per evaluation
    assert scale.hours(model, 3600, args, 1, 16) == pytest.approx(1)
    assert scale.hours(model, 3600, args, 8, 16) == pytest.approx(1 / 8)
    assert scale.hours(model, 3600, args, 64, 16) == pytest.approx(1 / 16)
    assert scale.hours(model, 3600, args, 8, 9) == pytest.approx(2 / 9)
    scale.main(["--out", str(args.out)])
    text = args.out.read_text()
    assert "Nothing here was run at this size" in text
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 2 + 3 * len(scale.MODELS)
    assert math.isfinite(scale.evaluations(5)[0])
