"""The table, the picture and the JSON file of a comparison."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ttune.evaluation import ReportRow, image_grid, print_table, save_grid, write_picture, write_report
from ttune.zoo.fashion_mnist import load_test_images, to_unit_range

ROWS: list[ReportRow] = [
    {
        "name": "DDIM",
        "sampler": "ddim",
        "method": "untuned",
        "steps": 5,
        "rmse_to_teacher": 0.123456,
        "frechet": {"value": 12.3456, "features": "LeNet-64", "n": 2000, "standard_error": 0.21},
        "frechet_to_teacher": 3.25,
        "network_evaluations": 10_000,
        "seconds": 12.34,
    },
    {"name": "teacher", "steps": 128, "rmse_to_teacher": None, "frechet": {"value": 3.0, "features": "LeNet-64", "n": 2000}},
    {"name": "nothing known"},
]


def test_print_table() -> None:
    lines = print_table(ROWS).split("\n")
    assert lines[0] == "Fréchet here: Fréchet distance (LeNet-64), n = 2,000"
    assert lines[1].split("  ")[0] == "method"
    assert set(lines[2]) == {"-"}
    assert lines[3].split() == ["DDIM", "5", "0.1235", "12.346", "±", "0.210", "3.250", "10,000", "12.3"]
    assert lines[4].split() == ["teacher", "128", "–", "3.000", "–", "–", "–"]
    assert lines[5].split() == ["nothing", "known", "–", "–", "–", "–", "–", "–"]
    # Right-aligned columns end together.
    assert len({len(line) for line in lines[1:]}) == 1


def test_table_names_fid_and_says_when_n_differs() -> None:
    rows: list[ReportRow] = [
        {"name": "a", "frechet": {"value": 1.0, "features": "Inception (clean-fid)", "n": 1000}},
        {"name": "b", "frechet": {"value": 1.0, "features": "Inception (clean-fid)", "n": 50_000}},
    ]
    assert print_table(rows).startswith("Fréchet here: FID, n from 1,000 to 50,000: biased at small n, compare equal n only\n")
    assert print_table([{"name": "a"}]).startswith("method")
    with pytest.raises(ValueError, match=r"rows: .* must be in the same features, got \['Inception \(clean-fid\)', 'LeNet-64'\]"):
        print_table([*rows, ROWS[0]])


def test_write_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_report(path, {"rows": ROWS, "τ": np.array([1.0, 2.5]), "n": np.int64(3)})
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["rows"][0] == ROWS[0]
    assert data["τ"] == [1.0, 2.5]
    assert data["n"] == 3
    before = path.read_bytes()
    for bad, error, message in (
        ({"x": float("nan")}, ValueError, "data: must be finite to be written as JSON"),
        ({"x": {"y": [np.float64("inf")]}}, ValueError, "data: must be finite"),
        ({"x": object()}, TypeError, "data: must hold JSON values or NumPy numbers and arrays, got object"),
    ):
        with pytest.raises(error, match=message):
            write_report(path, bad)
    assert path.read_bytes() == before


def test_an_interrupted_report_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    write_report(path, {"run": 1})

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(path, {"run": 2})
    assert json.loads(path.read_text()) == {"run": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return to_unit_range(load_test_images()[0][:24])


def test_image_grid_and_save_grid(images: torch.Tensor, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    grid = image_grid(images[:7], 3)
    assert grid.size == (3 * 30 - 2, 3 * 30 - 2)
    pixels = np.asarray(grid)
    np.testing.assert_array_equal(pixels[30:58, 30:58, 0], load_test_images()[0][4, 0].numpy())
    assert (pixels[60:, 30:] == 255).all()
    save_grid(tmp_path / "grid.png", images[:7], 3)
    np.testing.assert_array_equal(np.asarray(image.open(tmp_path / "grid.png")), pixels)
    for bad, columns, message in (
        (images[:0], 3, r"images: must be \(N >= 1, 1 or 3, H, W\), got shape \(0, 1, 28, 28\)"),
        (torch.zeros(2, 4, 8, 8), 3, r"got shape \(2, 4, 8, 8\)"),
        (images, 0, "columns: must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            image_grid(bad, columns)


def test_write_picture_shows_every_pixel_of_every_image(images: torch.Tensor, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    rows = [("teacher, 128 steps", images[:8]), ("DDIM, 5 steps, tuned network_times and times", images[8:16])]
    path = tmp_path / "picture.png"
    write_picture(path, rows)
    pixels = np.asarray(image.open(path).convert("L"))
    raw = load_test_images()[0][:16, 0].numpy()
    # The strips are at whole pixels, four to an image's pixel: find the first by exact match.
    strip = np.kron(raw[0], np.ones((4, 4), np.uint8))
    top, left = next(
        (y, x)
        for y in range(40)
        for x in range(100, 320)
        if pixels[y, x + 56] == strip[0, 56] and np.array_equal(pixels[y : y + 112, x : x + 112], strip)
    )
    for i in range(16):
        y, x = top + i // 8 * 122, left + i % 8 * 118
        np.testing.assert_array_equal(pixels[y : y + 112 : 4, x : x + 112 : 4], raw[i])
    write_picture(tmp_path / "again.png", rows)
    assert (tmp_path / "again.png").read_bytes() == path.read_bytes()


def test_write_picture_of_other_sizes(images: torch.Tensor, tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    before = dict(matplotlib.rcParams)
    for name, shape in (("large", (8, 3, 512, 512)), ("small", (3, 1, 8, 8)), ("odd", (2, 3, 130, 130))):
        write_picture(tmp_path / f"{name}.png", [("one", torch.zeros(shape)), ("two", torch.ones(shape))])
        assert image.open(tmp_path / f"{name}.png").width < 1300
    assert dict(matplotlib.rcParams) == before


def test_write_picture_refuses(images: torch.Tensor, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "picture.png"
    with pytest.raises(ValueError, match="rows: must hold at least one"):
        write_picture(path, [])
    with pytest.raises(ValueError, match="rows: images must have the same shape in every row"):
        write_picture(path, [("a", images[:8]), ("b", images[:7])])
    assert not path.exists()
