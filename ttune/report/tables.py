"""What a report tabulates: words and numbers, as they are in the files or were measured."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from ttune.comparison.table import label_lines, rows_table
from ttune.evaluation.metrics.frechet import RatioInterval, metric_name
from ttune.evaluation.numbers import NONE, number, ratio
from ttune.evaluation.report_rows import details_table, figures_table
from ttune.evaluation.table import Table
from ttune.report.measured import TEACHER, MeasuredRun, TimedRun
from ttune.report.rivals import GRID, TUNED
from ttune.report.sources import Compared, EvaluationRows, ReportEntry
from ttune.schedule.file import describe
from ttune.schedule.schedule import OUTCOMES
from ttune.tuning.outcome import front_table


def validation(entries: Sequence[ReportEntry]) -> Table | None:
    """The figures on which each tuning decided."""
    rows, names, counts = [], set(), set()
    for entry in entries:
        held = entry.record.validation
        if held is None:
            continue
        names.add(held.features)
        counts.add(held.n)
        best = held.best_untuned
        rows.append(
            (
                entry.name,
                number(held.rmse_start),
                NONE if best is None else number(best.rmse),
                number(held.rmse),
                ratio(held.ratio, held.low, held.high),
                number(held.frechet_start, ".3g"),
                NONE if best is None else number(best.frechet, ".3g"),
                number(held.frechet, ".3g"),
                f"{held.n:,}",
                held.features,
                decision(entry),
            )
        )
    if not rows:
        return None
    heads = ("schedule", "RMSE: start", "best untuned grid", "returned", "returned over start [95 %]")
    heads = (*heads, "Fréchet: start", "best untuned grid", "returned", "n", "features", "outcome")
    notes = [
        "RMSE to the teacher's samples from the same x_T, in the samples' own units, on x_T that the tuning never saw.",
        f"Fréchet distance to the teacher's samples; {features_in_words(names)}. It is biased at small n: compare equal n only.",
        f"{NONE} for the best untuned grid: none was searched for, or the start is it.",
    ]
    return Table(heads, rows, (0, 9, 10), "Validation: the figures that each tuning was judged on", notes)


def fronts(entries: Sequence[ReportEntry]) -> list[Table]:
    """Of every tuning for a distribution, all schedules that its decision has looked at."""
    found = []
    for entry in entries:
        held = entry.record.validation
        table = None if held is None else front_table(msgspec.to_builtins(held))
        if table is not None:
            found.append(replace(table, caption=f"{table.caption} ({entry.name})"))
    return found


def decision(entry: ReportEntry) -> str:
    """What the tuning of this entry returned, and why no other schedule, in words."""
    held = entry.record.validation
    reasons = "; ".join(dict.fromkeys(held.refused)) if held is not None else ""
    if entry.schedule.outcome == "tuned":
        return f"kept the tuned schedule{f'; not better, of other candidates or of this one unchecked: {reasons}' if reasons else ''}"
    return f"tuning did not help: {OUTCOMES[entry.schedule.outcome or 'start']}{f'; of the tuned ones: {reasons}' if reasons else ''}"


def measured_rows(entries: Sequence[ReportEntry], measured: MeasuredRun) -> Table:
    """What was run for this report."""
    rows = []
    for entry in entries:
        runs = measured.runs.get(entry.name, ())
        for run in runs:
            own = "0 (reference)" if run.role == TEACHER else f"{number(run.rmse)} ± {number(run.rmse_error, '.2g')}"
            evaluations = f"{run.evaluations:.4g}"
            over = _over_untuned(runs, run)
            rows.append(
                (
                    entry.name,
                    run.role,
                    str(run.schedule.steps),
                    evaluations,
                    own,
                    ratio(over.ratio, over.low, over.high) if over else NONE,
                    number(1000 * run.seconds, ",.0f" if run.seconds >= 0.1 else ".3g"),
                )
            )
    heads = (
        "schedule",
        "what",
        "steps",
        "evaluations",
        "RMSE to the teacher ± s.e.",
        "over the best untuned known [95 %]",
        "ms per sample",
    )
    notes = [
        f"{measured.n:,} x_T with seeds from {measured.seed}, the same in every line; on {measured.setting}.",
        "Timings are rough: compare them only with each other.",
        "The best untuned known is the best untuned grid where the file says which that was, else the start.",
    ]
    return Table(heads, rows, (0, 1), "Measured for this page", notes)


def _over_untuned(runs: Sequence[TimedRun], run: TimedRun) -> RatioInterval | None:
    """Of a tuned schedule over the best untuned one that is known; the teacher comes before, the tuned one after them."""
    if run.role != TUNED:
        return None
    untuned = [other for other in runs[1:-1] if other.role == GRID] or list(runs[1:-1])
    return run.over(untuned[0]) if untuned else None


def costs(entries: Sequence[ReportEntry]) -> Table | None:
    """Evaluations by purpose, and seconds."""
    found = [entry for entry in entries if entry.record.cost]
    if not found:
        return None
    purposes = list(dict.fromkeys(p for entry in found for p in entry.record.cost if p != "seconds"))
    rows = []
    for entry in found:
        spent = entry.record.cost
        each = [f"{spent[p]:,.0f}" if p in spent else NONE for p in purposes]
        rows.append((entry.name, *each, f"{sum(spent.get(p, 0) for p in purposes):,.0f}", number(spent.get("seconds"), ",.0f")))
    notes = ["Of the budgets that one run tuned together the first pays for the teacher's samples."] if len(found) > 1 else []
    return Table(("schedule", *purposes, "together", "seconds"), rows, (0,), "Network evaluations of one sample, by purpose", notes)


def steps_of(entry: ReportEntry) -> Table:
    """Every evaluation of a schedule: its solver time, its network time, and what was added to the coefficients."""
    schedule = entry.schedule
    times, extra = schedule.tableau().times, schedule.coefficients
    with np.errstate(divide="ignore"):
        solver, network = schedule.noise.half_log_snr(times), schedule.noise.half_log_snr(schedule.network_times)
    heads = ["evaluation", "time t", "network time τ", "τ − t", "λ(t)", "λ(τ)"]
    if extra is not None:
        heads += ["added to x", "to D", *(f"to D {i} before" for i in range(1, extra.shape[1] - 1))]
    if schedule.variants:
        heads.append("network")
    rows = []
    for i, (t, tau) in enumerate(zip(times, schedule.network_times, strict=True)):
        row = [str(i), f"{t:.5g}", f"{tau:.5g}", f"{tau - t:+.4g}", f"{solver[i]:.4g}", f"{network[i]:.4g}"]
        row += [] if extra is None else [f"{v:+.4f}" for v in extra[i]]
        rows.append([*row, str(schedule.variants[i])] if schedule.variants else row)
    notes = [f"The last time is {schedule.times[-1]:.5g}. λ is the half log-SNR, log(α / σ)."]
    if schedule.shift is not None:
        notes.append(f"The network is passed the time of each sample's own variance: {schedule.shift}.")
    if len(times) != schedule.steps:
        notes.append(f"{schedule.sampler} asks the network {len(times)} times in {schedule.steps} steps.")
    drifted = schedule.drifted()
    if drifted:
        notes.append(f"Network times beyond the neighbouring times, at evaluations {', '.join(map(str, drifted))}: worth a look.")
    return Table(heads, rows, (), f"Steps of {entry.name}", notes)


def provenance(entry: ReportEntry) -> Table:
    """How a schedule came to be."""
    record, schedule, model = entry.record, entry.schedule, entry.schedule.model
    pairs = {
        "file": f"{entry.file} (SHA-256 {entry.digest[:16]}…)",
        "written by": f"ttune {entry.version}",
        "sampler": f"{schedule.sampler}{f', eta {schedule.eta:g}' if schedule.eta else ''}{_pairs(schedule.options, ', ')}",
        "noise schedule": describe(schedule.noise),
        "model": str(model.get("name", NONE)),
        "model's settings": _pairs({k: v for k, v in model.items() if k not in ("name", "parameter_shapes", "weights")}) or NONE,
        "shapes of its parameters (SHA-256)": str(model.get("parameter_shapes", NONE)),
        "method": " ".join([record.method or NONE, *(["of", *record.changes] if record.changes else [])]),
        "seed": NONE if record.seed is None else f"{record.seed}, {record.samples} tuning x_T",
        "compared with the teacher by": record.residual or NONE,
        "teacher": _pairs(record.teacher) or NONE,
        "outcome": OUTCOMES.get(schedule.outcome or "", NONE),
    }
    if not schedule.tuned:
        pairs = {k: v for k, v in pairs.items() if k in ("file", "written by", "sampler", "noise schedule")}
    return Table(("what", "value"), list(pairs.items()), (0, 1), f"Provenance of {entry.name}", record.faults)


def evaluated(file: str, evaluation: EvaluationRows) -> list[Table]:
    """What ``ttune evaluate`` or ``ttune demo`` prints."""
    rows = evaluation.rows
    try:
        first, details = figures_table(rows), details_table(rows)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    notes = [*first.notes, "Seconds are those of all samples."]
    tables = [replace(first, caption=f"Evaluation of {evaluation.model or 'a model'} ({file})", notes=notes)]
    if details is not None:
        tables.append(replace(details, caption="The same with intervals, by splitting, and what else was measured"))
    return tables


def comparison(file: str, found: Compared) -> Table:
    """What ``ttune compare`` prints."""
    notes = [
        f"{found.test_samples:,} test x_T that no tuning saw; teacher {_pairs(found.teacher)}.",
        f"F, Fréchet distances: {features_in_words({found.features})}.",
        "Figures are of what a method proposes. = untuned: steps of the best untuned grid, of any sampler, with the same RMSE. "
        "Evaluations are those of the tuning. * is the lowest of its K and sampler.",
        *label_lines(found.rows),
        *(f"Not tuned: {m.cell}: {m.reason}" for m in found.refused),
        *(f"Failed: {m.cell}: {m.reason}" for m in found.failed),
    ]
    return replace(rows_table(found.rows), caption=f"Comparison on {found.model} ({file})", notes=notes)


def features_in_words(names: set[str]) -> str:
    return ", ".join(sorted("FID" if metric_name(name) == "FID" else f"{name} features, not FID" for name in names))


def _pairs(values: object, before: str = "") -> str:
    pairs = values.items() if hasattr(values, "items") else ()  # pyright: ignore[reportAttributeAccessIssue]
    text = ", ".join(f"{k} {_short(v)}" for k, v in pairs)
    return f"{before}{text}" if text else ""


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    text = str(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({hashlib.sha256(text.encode()).hexdigest()[:12]})"
