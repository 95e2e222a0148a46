"""What a report draws: each function makes one figure, or None where there is nothing to draw, and says in words what it shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ttune.comparison.table import ComparisonRow
from ttune.evaluation.drawing import HEIGHT, MUTED, label_of, legend, line_style, new_figure, plain_ticks, tick_of
from ttune.evaluation.numbers import number
from ttune.report.measured import MeasuredRun, TimedRun
from ttune.report.rivals import GRID, START, TUNED
from ttune.report.sources import ReportEntry
from ttune.schedule.schedule import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]
_BARS = 0.55  # height of a row


@dataclass(frozen=True)
class Drawn:
    """``key`` names its file; ``alt`` is for those who do not see it."""

    key: str
    title: str
    alt: str
    caption: str
    figure: Figure


def quality(
    key: str,
    title: str,
    lines: Mapping[str, Points],
    x_label: str,
    caption: str,
    y_label: str = "RMSE to the teacher",
    order: Iterable[str] = (),
) -> Drawn | None:
    """Error against ``x_label``, one line a method through its points as they are given, logarithmic where they are far apart.

    ``order``: names whose place decides how a line looks, so that it looks the same in several figures.
    """
    lines = {name: [(x, y) for x, y in points if y > 0 and x > 0] for name, points in lines.items()}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return None
    look = {name: line_style(i) for i, name in enumerate(dict.fromkeys([*order, *lines]))}
    if x_label == "steps" and len({x for points in lines.values() for x, _ in points}) == 1:
        return _bars(key, title, {name: points[0][1] for name, points in lines.items()}, y_label, caption)
    figure, axes = new_figure()
    for name, points in lines.items():
        axes.plot([x for x, _ in points], [y for _, y in points], label=label_of(name), **look[name])
    _scales(axes, [x for points in lines.values() for x, _ in points], [y for points in lines.values() for _, y in points])
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    legend(figure, axes)
    ends = "; ".join(f"{name}: {_range(points)}" for name, points in lines.items())
    return Drawn(key, title, f"{title}. {ends}.", caption, figure)


def _bars(key: str, title: str, values: Mapping[str, float], label: str, caption: str) -> Drawn:
    """Where there is one budget only, lines would be points above one another."""
    figure, axes = new_figure(height=1.0 + 0.38 * len(values))
    bars = axes.barh([tick_of(name) for name in values], list(values.values()), _BARS, color=line_style(0)["color"])
    axes.bar_label(bars, [f" {number(value)}" for value in values.values()], fontsize=9)
    axes.margins(x=0.18)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(label)
    alt = "; ".join(f"{name}: {number(value)}" for name, value in values.items())
    return Drawn(key, title, f"{title}. {label}: {alt}.", caption, figure)


def network_times(entries: Sequence[ReportEntry]) -> Drawn:
    """How far each network time lies from the solver time."""
    figure, axes = new_figure()
    axes.axhline(0.0, color=MUTED, linewidth=1.0)
    for i, entry in enumerate(entries):
        offsets = entry.schedule.network_times - entry.schedule.tableau().times
        axes.plot(np.arange(len(offsets)), offsets, label=label_of(entry.name), **line_style(i))
    _whole_numbers(axes)
    axes.set_xlabel("evaluation")
    axes.set_ylabel("τ − t")
    legend(figure, axes)
    largest = "; ".join(f"{e.name}: up to {np.abs(e.schedule.network_times - e.schedule.tableau().times).max():.4g}" for e in entries)
    caption = (
        "In the network's own unit of time. Above zero the network is passed a noisier time than the solver's, whose arithmetic keeps t."
    )
    return Drawn("network-times", "Network times", f"Network time less solver time, τ − t, by evaluation. {largest}.", caption, figure)


def times(entries: Sequence[ReportEntry]) -> Drawn | None:
    """Solver times and network times on the axis of half log-SNR."""
    rows = [(entry.name, entry.schedule, entry.record.start) for entry in entries]
    figure, axes = new_figure(height=max(HEIGHT, 1.5 + 0.42 * len(rows)))
    seen = False
    for y, (_, schedule, start) in enumerate(rows):
        if start is not None:
            seen |= _ticks_at(axes, start, start.tableau().times, y - 0.27, MUTED, "|", "solver time of the start")
        seen |= _ticks_at(axes, schedule, schedule.tableau().times, y, line_style(0)["color"], "o", "solver time")
        seen |= _ticks_at(axes, schedule, schedule.network_times, y + 0.27, line_style(1)["color"], "^", "network time")
    if not seen:
        return None
    axes.set_yticks(range(len(rows)), [tick_of(name) for name, *_ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("half log-SNR λ,  from noise to clean")
    legend(figure, axes)
    alt = "; ".join(f"{name}: {_lambdas(schedule)}" for name, schedule, _ in rows)
    caption = "Times at which the log-SNR is infinite (a clean end) are not on this axis."
    return Drawn("times", "Times of the steps", f"Half log-SNR of every evaluation. {alt}.", caption, figure)


def convergence(entries: Sequence[ReportEntry]) -> list[Drawn]:
    """The RMSE on the tuning x_T by iteration, one figure an entry whose file has it, a line a start."""
    found = []
    for i, entry in enumerate(entries):
        lines = {
            name: [(at, v) for at, v in zip(line.at, line.values, strict=True) if v is not None]
            for name, line in entry.record.history.items()
        }
        # A fitness may be a distance of another kind, and tries are no iterations.
        lines = {name: points for name, points in lines.items() if len(points) > 1 and name not in ("fitness", "tries")}
        if not lines:
            continue
        figure, axes = new_figure()
        for j, (name, points) in enumerate(lines.items()):
            style: dict[str, Any] = line_style(j) | {"markersize": 3}
            axes.plot([x for x, _ in points], [y for _, y in points], label=label_of(name), **style)
        if all(y > 0 for points in lines.values() for _, y in points):
            _log_y(axes, [y for points in lines.values() for _, y in points])
        _whole_numbers(axes)
        axes.set_xlabel("accepted iteration" if entry.record.method != "evolution" else "round")
        axes.set_ylabel(f"RMSE on {entry.record.samples or 'the'} tuning x_T")
        legend(figure, axes)
        ends = "; ".join(f"{name}: {_range(points)}" for name, points in lines.items())
        caption = "On the x_T that were tuned on: it falls whatever it is worth. What it is worth is in the figures of validation."
        if any(name.startswith("also") for name in lines):
            caption += ' "also": from a schedule that was given, such as the tuned one of the next smaller budget.'
        if entry.record.residual not in (None, "samples"):
            caption += f" The error is that of the residual {entry.record.residual!r}, not of the samples alone."
        found.append(Drawn(f"convergence-{i}", f"Convergence: {entry.name}", f"Convergence of {entry.name}. {ends}.", caption, figure))
    return found


def cost(entries: Sequence[ReportEntry]) -> Drawn | None:
    """Network evaluations of one sample, by purpose, one bar an entry."""
    spent = {entry.name: {k: v for k, v in entry.record.cost.items() if k != "seconds"} for entry in entries}
    spent = {name: values for name, values in spent.items() if sum(values.values()) > 0}
    if not spent:
        return None
    purposes = list(dict.fromkeys(purpose for values in spent.values() for purpose in values))
    figure, axes = new_figure(height=max(HEIGHT - 0.6, 1.4 + 0.4 * len(spent)))
    left = np.zeros(len(spent))
    for i, purpose in enumerate(purposes):
        widths = np.array([values.get(purpose, 0) for values in spent.values()]) / 1000
        axes.barh(range(len(spent)), widths, _BARS, left=left, color=line_style(i)["color"], label=label_of(purpose))
        left += widths
    axes.set_yticks(range(len(spent)), [tick_of(name) for name in spent])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("network evaluations, thousands")
    legend(figure, axes)
    alt = "; ".join(f"{name}: {sum(values.values()):,.0f}" for name, values in spent.items())
    caption = (
        "Evaluations of one sample: a batch of B counts B, a backward pass 2. What the teacher and the search for grids took is in it."
    )
    return Drawn("cost", "What the tuning cost", f"Network evaluations by purpose. {alt}.", caption, figure)


def compared(
    rows: Sequence[ComparisonRow], sampler: str, metric: str, key: str, label: str, caption: str, x: str = "steps", x_label: str = "steps"
) -> Drawn | None:
    """A comparison's error against ``x`` for one sampler, one line a method, fewest steps first."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in sorted(rows, key=lambda row: row["steps"]):
        at, value = row.get(x), row.get(metric)
        if row["sampler"] == sampler and value is not None and at is not None:
            lines.setdefault(row["label"], []).append((at, value))
    title = f"{label}, {sampler}{'' if x == 'steps' else f', against {x_label}'}"
    return quality(key, title, lines, x_label, caption, label, [row["label"] for row in rows])


def runs_by(entries: Sequence[ReportEntry], measured: MeasuredRun, x: str) -> dict[str, list[tuple[float, float]]]:
    """Lines for :func:`quality` from what was run: "steps", or "seconds" (milliseconds a sample), by sampler and role."""

    def points(runs: Iterable[TimedRun]) -> list[tuple[float, float]]:
        return [(1000 * run.seconds if x == "seconds" else run.schedule.steps, run.rmse) for run in runs]

    lines: dict[str, list[tuple[float, float]]] = {name: points(runs) for name, runs in measured.curves.items()}
    for entry, name in _named_lines(entries):
        for run in measured.runs.get(entry.name, ())[1:]:
            _add(lines, name, run.role, points([run])[0])
    return lines


def validation_by_steps(entries: Sequence[ReportEntry]) -> dict[str, list[tuple[float, float]]]:
    """The same from the figures of the tunings' own decisions."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for entry, name in _named_lines(entries):
        held = entry.record.validation
        if held is None:
            continue
        best = None if held.best_untuned is None else held.best_untuned.rmse
        tuned = held.rmse if entry.schedule.outcome == "tuned" else None
        for role, rmse in ((START, held.rmse_start), (GRID, best), (TUNED, tuned)):
            if rmse is not None:
                _add(lines, name, role, (entry.schedule.steps, rmse))
    return lines


def _named_lines(entries: Sequence[ReportEntry]) -> list[tuple[ReportEntry, tuple[str, str]]]:
    """Fewest steps first, each entry with the names of its lines: untuned ones by sampler, tuned ones by file too where files share one."""
    samplers = {entry.schedule.sampler for entry in entries}
    files = {sampler: {entry.file for entry in entries if entry.schedule.sampler == sampler} for sampler in samplers}
    names = []
    for entry in sorted(entries, key=lambda entry: entry.schedule.steps):
        sampler = "" if len(samplers) == 1 else f"{entry.schedule.sampler}, "
        names.append((entry, (sampler, f" ({entry.file.stem})" if len(files[entry.schedule.sampler]) > 1 else "")))
    return names


def _add(lines: dict[str, list[tuple[float, float]]], name: tuple[str, str], role: str, point: tuple[float, float]) -> None:
    sampler, file = name
    line = lines.setdefault(f"{sampler}{role}{file if role == TUNED else ''}", [])
    if point not in line:
        line.append(point)


def _ticks_at(axes: Axes, schedule: Schedule, times: Any, y: float, colour: str, marker: str, name: str) -> bool:
    with np.errstate(divide="ignore"):
        found = schedule.noise.half_log_snr(np.asarray(times))
    found = found[np.isfinite(found)]
    _, labels = axes.get_legend_handles_labels()
    label = None if name in labels else name
    axes.plot(found, np.full(len(found), y), linestyle="none", marker=marker, markersize=6, color=colour, label=label)
    return len(found) > 0


def _lambdas(schedule: Schedule) -> str:
    with np.errstate(divide="ignore"):
        return ", ".join(f"{v:.3g}" for v in schedule.noise.half_log_snr(schedule.tableau().times))


def _scales(axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> None:
    whole = all(float(x).is_integer() for x in xs)
    if far := max(xs) > 4 * min(xs):
        axes.set_xscale("log")
    elif not whole:
        axes.set_xlim(0.0, 1.1 * max(xs))  # a few per cent between two timings are not to look like much
    if whole or far:
        plain_ticks(axes.xaxis, sorted(set(xs)) if whole else None)
    _log_y(axes, ys)


def _log_y(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic where the values are further apart than a factor of three, with plain numbers."""
    low, high = min(values), max(values)
    if high <= 3 * low:
        axes.set_ylim(bottom=0.0)
        return
    axes.set_yscale("log")
    plain_ticks(axes.yaxis, subs=(1.0, 2.0, 5.0) if high <= 100 * low else (1.0,))


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _range(points: Points) -> str:
    first, last = points[0], points[-1]
    if len(points) == 1:
        return f"{first[1]:.4g} at {first[0]:.4g}"
    return f"{first[1]:.4g} at {first[0]:.4g} to {last[1]:.4g} at {last[0]:.4g}"


__all__ = ["Drawn", "compared", "convergence", "cost", "network_times", "quality", "runs_by", "times", "validation_by_steps"]
