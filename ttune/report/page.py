"""One self-contained page: sections of tables, figures and pictures, written as HTML that loads nothing from anywhere."""

from __future__ import annotations

import base64
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ttune.evaluation.drawing import drawing, png_of, svg_of
from ttune.evaluation.images.decoded import why_no_pictures
from ttune.evaluation.numbers import number
from ttune.evaluation.pictures import strip, write_picture
from ttune.evaluation.table import Table
from ttune.report import figures, tables
from ttune.report.figures import Drawn
from ttune.report.measured import REPORT_SEEDS, TEACHER, MeasuredRun, measure
from ttune.report.record import ValidationFigures
from ttune.report.rivals import GRID
from ttune.report.sources import Compared, ReportEntry, Sources
from ttune.schedule.schedule import OUTCOMES
from ttune.storage.atomic_write import write_atomically
from ttune.version import __version__

if TYPE_CHECKING:
    from ttune.network.denoiser import Denoiser


@dataclass(frozen=True)
class PageFigure:
    """A drawing in the page: ``svg`` is markup, the rest words."""

    title: str
    svg: Any
    caption: str


@dataclass(frozen=True)
class Picture:
    label: str
    figure: str  # its figure in words, e.g. the RMSE
    source: str  # a data: address
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Section:
    """A heading and what is under it; ``details`` are tables that open on request."""

    title: str
    words: Sequence[str] = ()
    pictures: Sequence[tuple[str, Sequence[Picture]]] = ()
    figures: Sequence[PageFigure] = ()
    tables: Sequence[Table] = ()
    details: Sequence[Table] = ()
    missing: Sequence[str] = ()


@dataclass
class _Files:
    """The PNGs beside the page, written as they are drawn."""

    out: Path
    written: list[Path] = field(default_factory=list)

    def take(self, drawn: Drawn | None) -> list[PageFigure]:
        """The figure for the page, and the same as a PNG; nothing of what could not be drawn."""
        from markupsafe import Markup

        if drawn is None:
            return []
        self.put(drawn.key, png_of(drawn.figure))
        drawn.figure.set_layout_engine("none")  # everything has found its place: half the time of the second drawing
        return [PageFigure(drawn.title, Markup(svg_of(drawn.figure, drawn.key, drawn.alt)), drawn.caption)]

    def put(self, key: str, png: bytes) -> None:
        write_atomically(self._path(key), png)

    def picture(self, key: str, rows: Sequence[tuple[str, Tensor]]) -> None:
        """Rows of samples above one another."""
        write_picture(self._path(key), rows)

    def _path(self, key: str) -> Path:
        path = self.out.with_name(f"{self.out.stem}-{key}.png")
        self.written.append(path)
        return path


def write_page(
    sources: Sources,
    out: str | PathLike[str],
    *,
    denoiser: Denoiser | None = None,
    n: int = 128,
    shown: int = 8,
    batch_size: int = 64,
    seed: int = REPORT_SEEDS,
    conditions: Callable[[Tensor], Any] | None = None,
    progress: bool = False,
) -> list[Path]:
    """Write what ``sources`` (:func:`ttune.report.read_sources`) hold to ``out``, an .html file, and its figures as PNGs beside it.

    With ``denoiser``, the model of the schedules, they are also run: ``n`` x_T from ``seed`` on, ``batch_size`` in a call;
    ``shown`` of them become pictures (all of fewer); ``conditions`` is a function of the seeds, by default the denoiser's own. What is
    missing is said in the page. Returns the files, the page first.

    Raises ValueError for another ending, a schedule of another model, or n < 2; ModuleNotFoundError without matplotlib, Pillow or
    Jinja2 (extra ``report``).
    """
    out = Path(out)
    if out.suffix not in (".html", ".htm"):
        raise ValueError(f"out must end in .html, got {str(out)!r}")
    if shown < 0:
        raise ValueError(f"shown must be at least 0, got {shown}")
    files = _Files(out)
    why_not, measured = "no --model was given", None
    if denoiser is not None:
        why_not = "there are no schedules to run" if not sources.entries else "the model does not say what shape its samples have"
        if sources.entries and denoiser.sample_shape is not None:
            options = {"n": n, "shown": shown, "batch_size": batch_size, "seed": seed, "conditions": conditions, "progress": progress}
            measured = measure(denoiser, sources.entries, **options)
    with drawing():
        sections = [section for section in _sections(sources, measured, why_not, files) if section is not None]
    words = _in_short(sources)
    model = next((str(e.schedule.model["name"]) for e in sources.entries if "name" in e.schedule.model), None)
    model = model or next((found.model for _, found in [*sources.comparisons, *sources.evaluations] if found.model), "")
    text = _rendered(title=f"ttune report{f': {model}' if model else ''}", words=words, sections=sections, versions=_versions())
    write_atomically(out, text.encode())
    return [out, *files.written]


def _sections(sources: Sources, measured: MeasuredRun | None, why_not: str, files: _Files) -> Iterator[Section | None]:
    entries = sources.entries
    if entries:
        yield _samples(entries, measured, why_not, files)
        yield _quality(entries, measured, why_not, files)
        yield _steps(entries, files)
        yield _tuning(entries, files)
    for i, (file, found) in enumerate(sources.comparisons):
        yield _comparison(i, str(file), found, files)
    if sources.evaluations:
        yield _evaluation(sources, files)
    yield _provenance(sources)


def _samples(entries: Sequence[ReportEntry], measured: MeasuredRun | None, why_not: str, files: _Files) -> Section:
    title = "Samples from the same noise"
    if measured is None:
        return Section(title, missing=[f"No samples: {why_not}."])
    reason = why_no_pictures(tuple(measured.runs[entries[0].name][0].shown.shape[1:]), decoded=measured.decoded)
    if reason is not None:
        return Section(title, missing=[f"No pictures: {reason}. The figures below are of these samples all the same."])
    groups = []
    for i, entry in enumerate(entries):
        row = []
        for run in measured.runs[entry.name]:
            if len(run.shown) == 0:
                continue
            png, width, height = strip(run.shown)
            words = f"{run.schedule.steps} steps" if run.role == TEACHER else f"RMSE {number(run.rmse)}"
            alt = f"{len(run.shown)} sample{'s' if len(run.shown) > 1 else ''} of {entry.name}: {run.role}, {run.schedule.steps} steps"
            row.append(Picture(run.role, words, f"data:image/png;base64,{base64.b64encode(png).decode()}", alt, width, height))
        if row:
            groups.append((entry.name, row))
            files.picture(f"samples-{i}", [(f"{entry.name}: {run.role}", run.shown) for run in measured.runs[entry.name]])
    said = ["Each column began with the same noise. The teacher is DPM-Solver++(2M) with many steps: the nearer to it, the better."]
    said += ["The samples are latents, shown decoded. The RMSE is that of the latents."] if measured.decoded else []
    return Section(title, words=said, pictures=groups, missing=[] if groups else ["No samples were to be shown."])


def _quality(entries: Sequence[ReportEntry], measured: MeasuredRun | None, why_not: str, files: _Files) -> Section:
    found, tabled, missing = [], [tables.validation(entries), *tables.fronts(entries)], []
    decided = figures.validation_by_steps(entries)
    order = [*decided, *(() if measured is None else figures.runs_by(entries, measured, "steps"))]
    held = [entry.record.validation for entry in entries if entry.record.validation is not None]
    if held:
        sizes = ", ".join(f"{n:,}" for n in sorted({h.n for h in held}))
        caption = (
            f"On the {sizes} validation x_T of each tuning, in the samples' own units: the figures that decided what each tuning returned."
        )
        if len({entry.record.seed for entry in entries if entry.record.validation is not None}) > 1:
            caption += " The tunings had different seeds, so their x_T differ."
        found += files.take(figures.quality("validation", "Quality against steps", decided, "steps", caption, order=order))
    else:
        missing.append("No figures of validation: no file holds the record of a finished tuning.")
    if measured is not None:
        caption = f"On {measured.n:,} x_T of this page's own, the same for every point. {measured.setting}."
        for key, title, x, label in (
            ("steps", "Quality against steps, measured here", "steps", "steps"),
            ("seconds", "Quality against time, measured here", "seconds", "milliseconds per sample"),
        ):
            lines = figures.runs_by(entries, measured, x)
            found += files.take(figures.quality(f"quality-{key}", title, lines, label, caption, order=order))
        tabled.append(tables.measured_rows(entries, measured))
    else:
        missing.append(f"No quality against seconds: {why_not}, and files of schedules do not time sampling.")
    return Section("Quality", figures=found, tables=[table for table in tabled if table is not None], missing=missing)


def _steps(entries: Sequence[ReportEntry], files: _Files) -> Section:
    found = [*files.take(figures.network_times(entries)), *files.take(figures.times(entries))]
    return Section("Times of the steps, and network times", figures=found, details=[tables.steps_of(e) for e in entries])


def _tuning(entries: Sequence[ReportEntry], files: _Files) -> Section | None:
    tuned = [entry for entry in entries if entry.schedule.tuned]
    if not tuned:
        return None
    found = [figure for drawn in [*figures.convergence(tuned), figures.cost(tuned)] for figure in files.take(drawn)]
    without = [entry.name for entry in tuned if not entry.record.history]
    missing = [f"No convergence of {name}: its file does not hold the history of the tuning." for name in without]
    missing += [f"{entry.name}: {entry.record.unfinished}." for entry in tuned if entry.record.unfinished]
    table = tables.costs(tuned)
    return Section("The tuning", figures=found, tables=[] if table is None else [table], missing=missing)


def _evaluation(sources: Sources, files: _Files) -> Section:
    drawn = []
    for i, (_, found) in enumerate(sources.evaluations):
        points = {
            row["name"]: [(seconds, rmse)] for row in found.rows if (seconds := row.get("seconds")) and (rmse := row.get("rmse_to_teacher"))
        }
        caption = "Seconds are those of all samples. The teacher, the target itself, has no place on this axis."
        if len(points) > 1:
            drawn += files.take(figures.quality(f"evaluated-{i}", "Quality against time", points, "seconds", caption))
    tabled = [table for file, found in sources.evaluations for table in tables.evaluated(str(file), found)]
    return Section("Evaluation", figures=drawn, tables=tabled)


def _comparison(i: int, file: str, found: Compared, files: _Files) -> Section:
    drawn = []
    features = tables.features_in_words({found.features})
    for sampler in dict.fromkeys(row["sampler"] for row in found.rows):
        key = f"compared-{i}-{''.join(c if c.isalnum() else '-' for c in sampler)}"
        rmse, on = "RMSE to the teacher", f"On {found.test_samples:,} test x_T that no tuning saw."
        drawn += files.take(figures.compared(found.rows, sampler, "rmse", f"{key}-rmse", rmse, on))
        distance, of = "Fréchet distance to the teacher's", f"{features}; n = {found.test_samples:,}."
        drawn += files.take(figures.compared(found.rows, sampler, "frechet", f"{key}-frechet", distance, of))
        cost = "Seconds are those of the tuning, one point a budget."
        drawn += files.take(figures.compared(found.rows, sampler, "rmse", f"{key}-seconds", rmse, cost, "seconds", "seconds of tuning"))
    return Section(f"Methods compared: {found.model}", figures=drawn, tables=[tables.comparison(file, found)])


def _provenance(sources: Sources) -> Section:
    rows = [(str(file), digest) for file, digest in sources.digests]
    table = Table(("file", "SHA-256"), rows, (0, 1), "The files of this page")
    return Section("Provenance", tables=[table], details=[tables.provenance(entry) for entry in sources.entries])


def _in_short(sources: Sources) -> list[str]:
    """A line a schedule, for those who read no further."""
    lines = []
    for entry in sources.entries:
        held = entry.record.validation
        if entry.schedule.outcome is None:
            lines.append(f"{entry.name}: untuned, or a tuning that returned its start: the file has no record.")
        elif held is None:
            found = OUTCOMES[entry.schedule.outcome] if not entry.record.unfinished else "the best so far"
            lines.append(f"{entry.name}: {found}, {entry.record.unfinished or 'without a record of its validation'}.")
        else:
            best = held.best_untuned
            before = [
                f"start {number(held.rmse_start)}",
                *([] if best is None else [f"best untuned grid {number(best.rmse)}"]),
            ]
            numbers = f"{_near_reference(held)}RMSE to the teacher {number(held.rmse)} ({', '.join(before)}) on {held.n:,} validation x_T"
            lines.append(f"{entry.name}: {_outcome_of(entry)}; {numbers}.")
    return [*lines, *(line for _, found in sources.comparisons for line in _best_of(found))]


def _near_reference(held: ValidationFigures) -> str:
    """Of a tuning for a distribution: how near what it returned is to the reference, beside the teacher; nothing for another."""
    near = {row.name: row.to_reference.get(held.features) for row in held.front}
    if near.get(held.returned) is None:
        return ""
    beside = f" (teacher {number(near.get('the teacher'), '.3g')})"
    return f"distance to {held.reference or 'the teacher'} {number(near[held.returned], '.3g')} in {held.features}{beside}, "


def _outcome_of(entry: ReportEntry) -> str:
    """What the tuning returned, as it is said first."""
    outcome = entry.schedule.outcome or "start"
    return OUTCOMES[outcome] if outcome == "tuned" else f"tuning did not help, this is the {OUTCOMES[outcome]}"


def _best_of(found: Compared) -> list[str]:
    """Of a comparison, its own sentences, then the lowest RMSE of every sampler and budget, beside the best untuned grid's."""
    lines = [f"{found.model}: {line}" for line in found.headlines]
    for sampler, steps in sorted({(row["sampler"], row["steps"]) for row in found.rows}):
        rows = [row for row in found.rows if (row["sampler"], row["steps"]) == (sampler, steps)]
        best, grid = min(rows, key=lambda row: row["rmse"]), next((row for row in rows if row["label"] == GRID), None)
        against = "" if grid is None or grid is best else f"; {GRID} {number(grid['rmse'])}"
        lines.append(
            f"{found.model}, {sampler}, {steps} steps: lowest RMSE to the teacher {number(best['rmse'])} by {best['label']}{against}."
        )
    return lines


def _versions() -> str:
    return f"ttune {__version__}, torch {torch.__version__}, Python {platform.python_version()}"


def _rendered(**content: Any) -> str:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("report: needs Jinja2, pip install 'ttune[report]'", name=error.name) from error
    # Escaping is on for everything: names in a file are anybody's.
    page = Environment(
        loader=PackageLoader("ttune.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return page.get_template("page.html").render(**content)
