"""Scale on paper."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import result_paths
from benchmarks.pages import scale


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

    monkeypatch.setattr(result_paths, "RESULTS", tmp_path)
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
    written, committed = ((folder / "scale.md").read_text().splitlines() for folder in (tmp_path, result_paths.ROOT / "docs" / "results"))
    assert committed[2].startswith("Written by `python -m benchmarks scale`")
    assert written[3:] == committed[3:]
