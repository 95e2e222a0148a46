"""``ttune report``: what is in the page, that it is there safely, and what it says where something is missing."""

import dataclasses
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ttune
from tests import tiny_model
from ttune.cli.main import main
from ttune.evaluation.numbers import number
from ttune.report import read_sources, write_page
from ttune.report.figures import validation_by_steps
from ttune.report.measured import measure
from ttune.report.rivals import GRID, START, TUNED
from ttune.tuning.best import LONGEST, compact

VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = "<script>alert('&')</script>\"$x_\x07"


class Page(HTMLParser):
    """A page taken apart; an element that is closed out of turn, or never, is an error."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "caption":
            self.captions.append("")
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> out of turn"

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)
        if "caption" in self.open:
            self.captions[-1] += data
        if {"th", "td"} & set(self.open):
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def table(self, first_head: str, second_head: str) -> list[list[str]]:
        return next(t for t in self.tables if t[0][:2] == [first_head, second_head])


def page_of(*paths: Path, out: Path, **options: Any) -> Page:
    write_page(read_sources(paths), out, **options)
    return checked(out)


def checked(out: Path) -> Page:
    """The page, after everything that must hold of any."""
    text = out.read_text()
    page = Page(text)
    assert not page.all("script")
    assert not page.all("link")
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "href", "data", "action"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:image/png;base64,", "#")), (tag, address)
    assert "@import" not in text
    assert set(re.findall(r"url\(([^)]{,3})", text)) <= {"#" + key for key in re.findall(r"url\(#(..)", text)}
    assert all(picture.get("alt") for picture in page.all("img"))
    assert all(drawing.get("role") == "img" and drawing.get("aria-label") for drawing in page.all("svg"))
    assert len(page.all("table")) == len(page.all("caption"))
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    return page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tuned schedules: two budgets in a file, one with coefficients, one of a sampler with two evaluations a step; and an untuned one."""
    folder = tmp_path_factory.mktemp("report")
    denoiser = tiny_model.factory()
    teacher = ttune.Schedule.build(denoiser.noise, "dpmpp_2m", 12, "log_snr")
    few: dict[str, Any] = {"samples": 4, "validation_samples": 4, "iterations": 1, "progress": False, "teacher": teacher}
    several = [ttune.Schedule.build(denoiser.noise, "dpmpp_2m", k) for k in (2, 3)]
    results = ttune.tune_budgets(denoiser, several, **few)
    ttune.save_schedules({k: result.schedule for k, result in results.items()}, folder / "several.json")
    everything = ("network_times", "times", "coefficients")
    ttune.tune(denoiser, several[0], tune=everything, search_starts=False, **few).schedule.save(folder / "coefficients.json")
    ttune.tune(denoiser, ttune.Schedule.build(denoiser.noise, "heun", 2), **few).schedule.save(folder / "heun.json")
    ttune.Schedule.build(denoiser.noise, "ddim", 4).save(folder / "untuned.json")
    return folder


def test_every_section_of_several_schedules_with_a_model(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    files = [folder / f"{name}.json" for name in ("several", "coefficients", "heun", "untuned")]
    page = page_of(*files, out=out, denoiser=tiny_model.factory(), n=16, shown=3)
    for title in ("Samples from the same noise", "Quality against time", "Times of the steps", "Convergence:", "What the tuning cost"):
        assert title in page.text
    assert {"Provenance of heun, 2 steps", "Measured for this page"} <= set(page.captions)
    # Teacher, start, best untuned grid and tuned for four, of which one searched no grids; the untuned one and its teacher.
    assert len(page.all("img")) == 4 * 4 - 1 + 2
    assert {picture["width"] for picture in page.all("img")} == {str(3 * 8 + 2 * 2)}
    beside = sorted(path.name for path in tmp_path.glob("report-*.png"))
    expected = ("network-times", "times", "cost", "quality-seconds", "samples-0")
    assert {f"report-{name}.png" for name in expected} <= set(beside)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in beside)
    heun = page.tables[page.captions.index("Steps of heun, 2 steps")]  # three evaluations
    schedule = ttune.Schedule.load(folder / "heun.json")
    assert [row[1] for row in heun[1:]] == [f"{t:.5g}" for t in schedule.tableau().times]
    assert [row[2] for row in heun[1:]] == [f"{t:.5g}" for t in schedule.network_times]
    assert any("added to x" in t[0] for t in page.tables)


def test_figures_are_those_of_the_file(folder: Path, tmp_path: Path) -> None:
    page = page_of(folder / "several.json", out=tmp_path / "r.html")
    rows = page.table("schedule", "RMSE: start")[1:]
    stored = [entry["tuned"] for entry in json.loads((folder / "several.json").read_text())["schedules"]]
    assert len(rows) == len(stored) == 2
    for row, tuned in zip(rows, stored, strict=True):
        held = tuned["validation"]
        assert row[1:4] == [number(held["rmse_start"]), number(held["best_untuned"]["rmse"]), number(held["rmse"])]
        assert row[4] == f"{number(held['ratio'], '.3f')} [{number(held['low'], '.3f')}, {number(held['high'], '.3f')}]"
        assert row[8:10] == ["4", held["features"]]
        assert "kept the tuned schedule" in row[10]
    spent = page.table("schedule", "probe")
    for row, tuned in zip(spent[1:], stored, strict=True):
        cost = dict(tuned["cost"])
        cost.pop("seconds")
        assert dict(zip(spent[0][1:], row[1:], strict=True))["together"] == f"{sum(cost.values()):,}"
        assert {head: row[i] for i, head in enumerate(spent[0]) if head in cost} == {k: f"{v:,}" for k, v in cost.items()}
    assert "not FID" in page.text
    assert "no --model was given" in page.text
    assert not page.all("img")


def test_what_was_run_is_what_sampling_gives(folder: Path) -> None:
    denoiser = tiny_model.factory()
    (entry, *_) = read_sources([folder / "several.json"]).entries
    measured = measure(denoiser, [entry], n=10, shown=4, batch_size=4, seed=77)
    x_T = ttune.initial_noise(denoiser.noise, (1, 8, 8), seeds=range(77, 87))
    target = ttune.sample(denoiser, measured.runs[entry.name][0].schedule, x_T)
    for role in (START, GRID, TUNED):
        run = measured.run(entry.name, role)
        assert run is not None
        x = ttune.sample(denoiser, run.schedule, x_T)
        torch.testing.assert_close(run.shown, x[:4])
        assert run.rmse == pytest.approx((x - target).double().square().mean().sqrt().item(), rel=1e-6)
        assert run.evaluations == 2
        assert run.seconds > 0
    tuned, grid = measured.run(entry.name, TUNED), measured.run(entry.name, GRID)
    assert tuned is not None
    assert grid is not None
    interval = tuned.over(grid)
    assert interval is not None
    assert interval.ratio == pytest.approx(tuned.rmse / grid.rmse)
    assert [run.schedule.steps for run in next(iter(measured.curves.values()))] == [2, 3, 4]


def test_the_front_of_a_tuning_for_a_distribution(folder: Path, tmp_path: Path) -> None:
    tuned = ttune.Schedule.load(folder / "coefficients.json")
    point = {
        "name": "candidate 1",
        "rmse": 0.06,
        "rmse_error": 0.001,
        "to_teacher": 0.3,
        "to_reference": {"LeNet-64": 0.83},
        "precision": 0.79,
    }
    teacher = {"name": "the teacher", "rmse": 0.0, "to_teacher": 0.0, "to_reference": {"LeNet-64": 1.5}}
    figures = {"features": "LeNet-64", "reference": "fashion", "returned": "candidate 1", "front": [teacher, point]}
    record = {**tuned.tuned, "validation": {**tuned.tuned["validation"], **figures}}
    dataclasses.replace(tuned, tuned=record).save(tmp_path / "front.json")
    page = page_of(tmp_path / "front.json", out=tmp_path / "r.html")
    (row,) = [row for row in page.table("schedule", "RMSE") if row[0] == "candidate 1 *"]
    assert row[1:4] == ["0.0600 ± 0.0010", "0.300", "0.830"]
    assert "distance to fashion 0.83 in LeNet-64 (teacher 1.5), RMSE to the teacher" in page.text


def test_lines_go_by_steps_and_files_of_one_sampler_have_their_own(folder: Path) -> None:
    entries = read_sources([folder / "coefficients.json", folder / "several.json"]).entries
    assert [entry.name for entry in entries] == ["dpmpp_2m, 2 steps (coefficients)", "dpmpp_2m, 2 steps (several)", "dpmpp_2m, 3 steps"]
    lines = validation_by_steps(entries[::-1])
    assert [steps for steps, _ in lines["tuned (several)"]] == [2, 3]
    assert [steps for steps, _ in lines["tuned (coefficients)"]] == [2]
    assert lines[GRID] == [(e.schedule.steps, e.record.validation.best_untuned.rmse) for e in entries[1:]]  # pyright: ignore[reportOptionalMemberAccess]


def test_the_bundled_model_and_a_schedule_from_before_there_was_a_history(tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    file = Path(ttune.__file__).parent / "zoo" / "data" / "ddim_5.json"
    main(["report", str(file), "--model", "fashion", "--samples", "2", "--shown", "1", "--quiet", "--out", str(out)])
    page = checked(out)
    held = ttune.Schedule.load(file).tuned["validation"]
    row = page.table("schedule", "RMSE: start")[1]
    assert (row[0], row[3], row[9]) == ("ddim, 5 steps", number(held["rmse"]), "LeNet-64")
    assert [picture["alt"] for picture in page.all("img")] == [
        f"1 sample of ddim, 5 steps: {role}, {steps} steps"
        for role, steps in (("teacher", 128), ("untuned, leading grid", 5), ("tuned", 5))
    ]


def test_an_untuned_schedule_and_one_without_history_say_what_is_missing(folder: Path, tmp_path: Path) -> None:
    page = page_of(folder / "untuned.json", out=tmp_path / "a.html")
    assert "untuned, or a tuning that returned its start" in page.text
    assert "No figures of validation" in page.text
    assert "Convergence" not in page.text
    schedule = ttune.Schedule.load(folder / "heun.json")
    old = {k: v for k, v in schedule.tuned.items() if k not in ("history", "start", "best_untuned")}
    schedule.replace(tuned=old).save(tmp_path / "old.json")
    page = page_of(tmp_path / "old.json", out=tmp_path / "b.html", denoiser=tiny_model.factory(), n=4, shown=2)
    assert "its file does not hold the history" in page.text
    assert "untuned, leading grid" in page.text  # not called the start: the file does not say what that was
    assert GRID not in [row[1] for row in page.table("schedule", "what")]


def test_hostile_names_are_words(folder: Path, tmp_path: Path) -> None:
    schedule = ttune.Schedule.load(folder / "heun.json")
    validation = {**schedule.tuned["validation"], "features": HOSTILE, "chosen": HOSTILE, "refused": [HOSTILE]}
    history = {HOSTILE: {"at": [0, 1], "values": [1.0, 0.5]}}
    cost = {HOSTILE: 5, "teacher": 7}
    tuned = {**schedule.tuned, "method": HOSTILE, "validation": validation, "history": history, "cost": cost, "unfinished": HOSTILE}
    path = tmp_path / "evil<b>.json"
    schedule.replace(model={"name": HOSTILE}, tuned=tuned).save(path)
    schedule.save(tmp_path / "other.json")
    row = {"name": HOSTILE, "steps": 3, "rmse_to_teacher": 0.5, "seconds": 2.0, "frechet": {"value": 1.0, "features": HOSTILE, "n": 9}}
    (tmp_path / "evaluated.json").write_text(json.dumps({"model": HOSTILE, "rows": [row]}))
    page = page_of(path, tmp_path / "other.json", tmp_path / "evaluated.json", out=tmp_path / "r.html")
    assert "<script>alert('&')</script>" in page.text  # as words, in the table of the evaluation and elsewhere
    assert not page.all("b")


def test_a_record_that_makes_no_sense_costs_its_own_field_only(folder: Path, tmp_path: Path) -> None:
    schedule = ttune.Schedule.load(folder / "heun.json")
    odd = {"history": {"a": {"at": [0], "values": []}}, "start": {"sampler": "heun", "times": [1, 2]}, "cost": "much", "seed": "x"}
    schedule.replace(tuned={**schedule.tuned, **odd}).save(tmp_path / "odd.json")
    page = page_of(tmp_path / "odd.json", out=tmp_path / "r.html", denoiser=tiny_model.factory(), n=4, shown=1)
    for name in ("history of 'a'", "'start' is not a schedule", "'cost' cannot be read", "'seed' cannot be read"):
        assert name in page.text
    assert page.table("schedule", "RMSE: start")[1][3] == number(schedule.tuned["validation"]["rmse"])


def test_samples_that_are_no_pictures_are_measured_all_the_same(tmp_path: Path) -> None:
    noise = ttune.NoiseSchedule.linear()
    denoiser = ttune.Denoiser(lambda x, tau: 0.1 * x, noise, sample_shape=(6,), name="vector")
    ttune.Schedule.build(noise, "ddim", 3).save(tmp_path / "t.json")
    page = page_of(tmp_path / "t.json", out=tmp_path / "r.html", denoiser=denoiser, n=4)
    assert "samples of shape (6,) are no pictures" in page.text
    assert not page.all("img")
    assert [row[1] for row in page.table("schedule", "what")[1:]] == ["teacher", "untuned"]
    unknown = ttune.Denoiser(lambda x, tau: 0.1 * x, noise, name="no shape")
    assert "does not say what shape" in page_of(tmp_path / "t.json", out=tmp_path / "s.html", denoiser=unknown).text


def test_colour_pictures_and_a_network_of_whole_times(tmp_path: Path) -> None:
    noise = ttune.NoiseSchedule.linear()
    denoiser = ttune.Denoiser(lambda x, tau: 0.1 * x, noise, sample_shape=(3, 4, 200), integer_time=True)
    ttune.Schedule.build(noise, "ddim", 3).save(tmp_path / "t.json")
    page = page_of(tmp_path / "t.json", out=tmp_path / "r.html", denoiser=denoiser, n=2, shown=2)
    assert [picture["width"] for picture in page.all("img")] == ["202"] * 2  # two of 200 pixels, averaged over pairs of them


def test_the_folder_of_a_comparison(tmp_path: Path) -> None:
    quick = [
        "--samplers",
        "ddim",
        "--steps",
        "3",
        "--curve",
        "4",
        "--samples",
        "8",
        "--validation-samples",
        "8",
        "--test-samples",
        "8",
        "--quiet",
    ]
    model = ["--model", "tests.tiny_model:factory"]
    main(["compare", "--methods", "ays", "my <i>=trajectory", *model, *quick, "--untuned-samplers", "ddim", "--out", str(tmp_path / "cmp")])
    main(["report", str(tmp_path / "cmp"), "--out", str(tmp_path / "r.html"), "--quiet"])
    page = checked(tmp_path / "r.html")
    rows = page.table("K", "sampler")[1:]
    stored = json.loads((tmp_path / "cmp" / "report.json").read_text())["rows"]
    assert [(row[2], row[3].strip("*")) for row in rows] == [(row["label"], f"{row['rmse']:.4f}") for row in stored]
    assert "my <i>" in [row[2] for row in rows]
    assert "RMSE to the teacher, ddim" in page.text


def test_command_line_reports_on_what_evaluate_writes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "real.npy", torch.rand(24, 1, 8, 8).mul(255).byte().movedim(1, 3).numpy())
    files, model = [str(folder / "several.json")], ["--model", "tests.tiny_model:factory", "--samples", "24", "--quiet"]
    metrics = ["fid", "kid", "precision_recall", "rmse", "psnr"]
    measured = ["--features", "pixels", "--reference", str(tmp_path / "real.npy"), "--metrics", *metrics, "--splits", "2"]
    main(["evaluate", *files, *model, *measured, "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "e.json")])
    main(["report", *files, str(tmp_path / "e.json"), *model, "--shown", "2", "--out", str(tmp_path / "r.html")])
    assert "PNGs beside it" in capsys.readouterr().out
    page = checked(tmp_path / "r.html")
    stored = json.loads((tmp_path / "e.json").read_text())["rows"]
    rows = page.table("method", "steps")[1:]
    assert [row[:2] for row in rows] == [[row["name"], str(row["steps"])] for row in stored]
    assert [row[2] for row in rows] == [number(row["rmse_to_teacher"]) for row in stored]
    detail = {(row[0], row[1].split(" (")[0]): row[2:] for row in page.table("method", "figure")[1:]}
    for row in stored:
        assert detail[row["name"], "recall"][0] == number(row["precision_recall"]["recall"])
        assert detail[row["name"], row["kernel"]["name"].split(" (")[0]][0] == number(row["kernel"]["value"], ".6f")
        low, high = row["frechet"]["interval"]["low"], row["frechet"]["interval"]["high"]
        assert detail[row["name"], "Fréchet distance"][1] == f"[{number(low)}, {number(high)}]"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must be a JSON object"),
        ("{", "not readable"),
        ('{"a": 1}', r"got JSON with the fields \['a'\]"),
        ('{"rows": 3}', "looks like an evaluation, and cannot be read as one"),
    ],
)
def test_other_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_sources([tmp_path / "x.json"])


def test_wrong_arguments_are_refused(folder: Path, tmp_path: Path) -> None:
    sources = read_sources([folder / "untuned.json"])
    with pytest.raises(ValueError, match=r"out must end in \.html"):
        write_page(sources, tmp_path / "r.pdf")
    with pytest.raises(ValueError, match="neither"):
        read_sources([tmp_path])
    with pytest.raises(ValueError, match="noise schedule"):
        write_page(
            sources, tmp_path / "r.html", denoiser=ttune.Denoiser(lambda x, t: x, ttune.NoiseSchedule.cosine(), sample_shape=(1, 2, 2))
        )
    assert not (tmp_path / "r.html").exists()


def test_drawing_leaves_matplotlib_as_it_was(folder: Path, tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    page_of(folder / "heun.json", out=tmp_path / "r.html")
    assert dict(matplotlib.rcParams) == before


def test_history_is_kept_short_and_whole() -> None:
    values = np.geomspace(1, 1e-3, 1000).tolist()
    line = compact({"long": values, "none": []})
    assert len(line["long"]["at"]) == LONGEST
    assert (line["long"]["at"][0], line["long"]["at"][-1]) == (0, 999)
    assert line["long"]["values"][-1] == pytest.approx(values[-1], rel=1e-4)
    assert line["none"] == {"at": [], "values": []}
