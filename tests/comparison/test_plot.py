"""The plot of a comparison: lines in the order of steps, whatever order they were asked for in, and what was not returned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ttune.comparison import plot
from ttune.report.figures import compared


def report(steps: tuple[int, ...], chosen: str = "tuned") -> dict[str, Any]:
    def row(label: str, k: int, rmse: float, **more: Any) -> dict[str, Any]:
        worth = {"steps": 2.0 * k, "bound": ""}
        return {"label": label, "sampler": "ddim", "steps": k, "rmse": rmse, "frechet": rmse, "equivalent_rmse_same_sampler": worth, **more}

    rows = [r for k in steps for r in (row("start", k, 1 / k), row("endpoint", k, 0.5 / k, chosen=chosen))]
    figures = {"rmse": 0.8, "frechet": 0.8}
    curve = [{"sampler": "ddim", "steps": k, "best untuned grid": figures, "best untuned grid by Fréchet": figures} for k in steps]
    return {"model": "m", "rows": rows, "untuned_curve": curve}


def drawn(content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The figure that is written."""
    matplotlib = pytest.importorskip("matplotlib.figure")
    kept: list[Any] = []
    save = matplotlib.Figure.savefig
    monkeypatch.setattr(matplotlib.Figure, "savefig", lambda figure, *a, **k: (kept.append(figure), save(figure, *a, **k)))
    assert plot.write_plot(content, tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    return kept[0]


def test_lines_go_from_few_steps_to_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawn(report((5, 3, 4)), tmp_path, monkeypatch)
    lines = [line for axes in figure.axes for line in axes.get_lines() if len(line.get_xdata()) > 1]
    assert len(lines) == 2 * (2 + 2) + 2 + 2  # start, endpoint and two untuned curves, twice; K, 2 K, start, endpoint
    assert all(list(line.get_xdata()) == [3, 4, 5] for line in lines)
    rows = [row for row in report((5, 3, 4))["rows"] if row["label"] == "endpoint"]
    page = compared(rows, "ddim", "rmse", "key", "RMSE", "")
    assert page is not None
    assert [list(line.get_xdata()) for line in page.figure.axes[0].get_lines()] == [[3, 4, 5]]


@pytest.mark.parametrize(("chosen", "crossed"), [("tuned", False), ("best untuned grid", True), ("start", True)])
def test_what_was_not_returned_is_crossed_and_labels_stay_inside(
    chosen: str, crossed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = report((5,), chosen)
    for row in content["rows"]:
        if row["label"] == "endpoint":
            row["label"] = "endpoint:tune=network_times+times+coefficients"
    figure = drawn(content, tmp_path, monkeypatch)
    (legend,) = figure.legends
    assert ("not returned: no better than untuned" in [text.get_text() for text in legend.get_texts()]) == crossed
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    (untuned, *_) = figure.axes[0].get_lines()
    assert untuned.get_marker() == "."  # a line of one point is not seen
