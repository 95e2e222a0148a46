"""``ttune.compare``: several tuning methods on the same x_T, with the same accounting, cell by cell."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from ttune.comparison.cells import UNTUNED, Cell, method_cell, untuned_cell
from ttune.comparison.comparison import Comparison
from ttune.comparison.result import GRID, GRID_BY_FRECHET, START
from ttune.comparison.setup import Bench
from ttune.comparison.specification import Entrant, parse_methods
from ttune.comparison.untuned import plain_samplers
from ttune.evaluation import FeatureStatistics
from ttune.network.denoiser import Denoiser
from ttune.schedule.schedule import Schedule
from ttune.storage.results import ResultFolder
from ttune.tuning import Teacher
from ttune.tuning.methods.method import Method, WholeTimesOnlyError
from ttune.tuning.methods.registry import METHODS
from ttune.tuning.scoring import named_space
from ttune.tuning.starting_points import Data

CURVE = tuple(range(3, 21))  # untuned steps that tuned ones are compared with: twice ten at most
POLL = 2.0  # seconds between looks at a cell that another process is at


def compare(
    denoiser: Denoiser,
    methods: Mapping[str, Method | Entrant] | Sequence[str] = tuple(METHODS),
    *,
    samplers: Sequence[str] = ("ddim", "dpmpp_2m"),
    steps: Sequence[int] = (3, 4, 5, 6, 8, 10),
    curve: Sequence[int] = CURVE,
    untuned_samplers: Sequence[str] | None = None,
    max_evaluations: int | None = None,
    samples: int = 128,
    validation_samples: int = 256,
    test_samples: int = 1000,
    batch_size: int = 64,
    teacher: Teacher | None = None,
    data: Data | None = None,
    features: Callable[[Tensor], Any] | None = None,
    real: FeatureStatistics | None = None,
    seed: int = 0,
    work: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Comparison:
    """Tune every sampler and budget with every method, and judge all on ``test_samples`` x_T that no tuning saw.

    ``methods``: {label: method}, or specifications such as ``"endpoint:tune=network_times"`` (:func:`parse_methods`).
    Every tuning starts from the leading grid (an :class:`Entrant` may start from the best untuned one instead), on the same
    ``samples`` x_T, towards one ``teacher`` (2M with 128 steps), whose x_0 are computed once; ``validation_samples`` more x_T are for each
    validation. Beside the methods are the start and the best untuned grid and t_0 of the same sampler; of the latter
    there are figures for every number of steps in ``curve`` too, to say how many untuned steps a tuned schedule is worth;
    ``untuned_samplers`` are more samplers that are not tuned, but may be the best untuned one at ``steps`` and twice that (no method at
    all: the steps are spent), and at four times if ``curve`` has it: by default all deterministic ones with one evaluation a step.
    ``max_evaluations``: the same number for every tuning, with the search of its start and its validation, but without those of the
    teacher's samples, which are the same for all; methods that know no such limit are as they are, and the table says which.
    ``data``: clean images for the methods that need them. ``features``: images (n, ...) -> (n, f) for Fréchet distances, by
    default pooled pixels; ``real``: statistics of real images in them. ``work``: a folder that keeps every finished cell; the same
    call goes on from there, and several processes with the same folder share the work.

    Raises ValueError or TypeError naming the argument. A cell that its method says it cannot tune is in
    ``refused``, one that fails in ``failed``; the next call tries it again.
    """
    if max_evaluations is not None and max_evaluations < 1:
        raise ValueError(f"max_evaluations must be at least 1, got {max_evaluations}")
    chosen = {label: replace(entrant, max_evaluations=max_evaluations) for label, entrant in _entrants(methods).items()}
    _check_lists(samplers=samplers, steps=steps)
    if untuned_samplers is None:
        untuned_samplers = plain_samplers(denoiser.noise)
    # A sampler's last time decides where the teacher ends; that of the leading grid is clean for all of them.
    source = teacher or Teacher.default(Schedule.build(denoiser.noise, samplers[0], max(steps), "leading"))
    source = Teacher((source.on_whole_times() if denoiser.integer_time else source).source, remember=True)
    space = replace(named_space(features), reference=real)
    bench = Bench(denoiser, source, space, data, samples, validation_samples, test_samples, batch_size, seed, progress)
    bench.check()
    with TemporaryDirectory() as temporary:
        folder = ResultFolder(Path(work if work is not None else temporary), bench.fingerprint(), "comparison.json")
        bench = bench.with_endpoints(folder.shared)
        others = tuple(sampler for sampler in untuned_samplers if sampler not in samplers)
        cells = _cells(chosen, samplers, others, steps, curve)
        refused = _refused(bench, chosen, cells)
        failed = _fill(folder, bench, chosen, [cell for cell in cells if cell not in refused], progress)
        return _collected(folder, bench, chosen, cells, refused, failed, tuple(samplers), others, tuple(steps))


def _cells(
    methods: Iterable[str], samplers: Sequence[str], untuned_samplers: Sequence[str], steps: Sequence[int], curve: Sequence[int]
) -> list[Cell]:
    """Untuned grids and every method at ``steps``; untuned grids alone at the rest of ``curve``.

    Untuned samplers have theirs at K, 2 K, and 4 K if the curve has it: few lengths, as each asks for all their spacings.
    """
    cells = [Cell(label, sampler, k) for k in steps for sampler in samplers for label in (UNTUNED, *methods)]
    cells += [Cell(UNTUNED, sampler, k) for k in curve if k not in steps for sampler in samplers]
    lengths = {*steps, *(2 * k for k in steps), *(4 * k for k in steps if 4 * k in curve)}
    return cells + [Cell(UNTUNED, sampler, k) for k in sorted(lengths) for sampler in untuned_samplers]


def _entrants(methods: Mapping[str, Method | Entrant] | Sequence[str]) -> dict[str, Entrant]:
    if not isinstance(methods, Mapping):
        methods = parse_methods(methods)
    taken = sorted({UNTUNED, START, GRID, GRID_BY_FRECHET} & set(methods))
    if taken:
        raise ValueError(f"methods: the label {taken[0]!r} is one of the comparison's own; choose another")
    return {label: method if isinstance(method, Entrant) else Entrant(method) for label, method in methods.items()}


def _check_lists(**lists: Sequence[str] | Sequence[int]) -> None:
    for name, values in lists.items():
        if not values or len(set(values)) != len(values):
            raise ValueError(f"{name} must name at least one, each once, got {list(values)}")


def _refused(bench: Bench, methods: Mapping[str, Entrant], cells: Sequence[Cell]) -> dict[Cell, str]:
    """The cells that a method says it cannot tune, and why: a sampler of several stages, say, or data that were not given."""
    refused: dict[Cell, str] = {}
    for cell in cells:
        if cell.label == UNTUNED:
            continue
        try:
            methods[cell.label].method.check(bench.denoiser, Schedule.build(bench.denoiser.noise, cell.sampler, cell.steps), bench.data)
        except WholeTimesOnlyError:
            continue  # such networks are tuned in whole numbers
        except (ValueError, TypeError) as error:
            refused[cell] = str(error)
    return refused


def _fill(folder: ResultFolder, bench: Bench, methods: Mapping[str, Entrant], cells: Sequence[Cell], progress: bool) -> dict[Cell, str]:
    """Compute the cells that are not there yet, in any number of processes; returns why some are not there in the end."""
    failed: dict[Cell, str] = {}
    waiting = list(cells)
    while waiting:
        left = []
        for cell in waiting:
            if folder.record(cell.name, _settings(methods, cell)) is not None:
                continue
            untuned = Cell(UNTUNED, cell.sampler, cell.steps)
            if cell != untuned and _untuned(folder, cell) is None:
                if untuned in failed:
                    failed[cell] = f"its untuned grids failed: {failed[untuned]}"
                else:
                    left.append(cell)  # another process is at them
                continue
            with folder.claimed(cell.name) as mine:
                # Looked at again under the lock: another process may have finished it just before.
                if not mine or folder.record(cell.name, _settings(methods, cell)) is not None:
                    left.append(cell)
                    continue
                try:
                    _compute(folder, bench, methods, cell, progress)
                except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
                    failed[cell] = f"{type(error).__name__}: {error}"
                    if progress:
                        print(f"{cell}: {failed[cell]}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        waiting = left
        if waiting:
            time.sleep(POLL)
    return failed


def _compute(folder: ResultFolder, bench: Bench, methods: Mapping[str, Entrant], cell: Cell, progress: bool) -> None:
    start = Schedule.build(bench.denoiser.noise, cell.sampler, cell.steps, "leading")
    if cell.label == UNTUNED:
        record, arrays = untuned_cell(bench, start)
    else:
        entrant, searched = methods[cell.label], 0
        if entrant.start == "best":
            untuned = _untuned(folder, cell)
            assert untuned is not None
            start, searched = start.replace(times=untuned["grid"]["times"]), untuned["cost"]["grids"]
        method, checkpoint = entrant.within(searched), folder.file(cell.name, "checkpoint")
        record, arrays, schedules = method_cell(bench, start, cell.label, method, checkpoint, searched)
        for name, schedule in schedules.items():
            schedule.save(folder.file(cell.name, f"{name}.ttune.json"))
    folder.finish(cell.name, record | {"settings": _settings(methods, cell)}, arrays)
    if progress:
        figures = record["grid" if cell.label == UNTUNED else "proposed"]
        print(f"{cell}: RMSE {figures['rmse']:.4f}, Fréchet distance {figures['frechet']:.4g}, {record['seconds']:.0f} s", flush=True)


def _untuned(folder: ResultFolder, cell: Cell) -> dict[str, Any] | None:
    """The untuned grids of the cell's sampler and budget, if they are there yet."""
    return folder.record(Cell(UNTUNED, cell.sampler, cell.steps).name, {})


def _settings(methods: Mapping[str, Entrant], cell: Cell) -> dict[str, Any]:
    return {} if cell.label == UNTUNED else methods[cell.label].settings()


def _collected(
    folder: ResultFolder,
    bench: Bench,
    methods: Mapping[str, Entrant],
    cells: Sequence[Cell],
    refused: Mapping[Cell, str],
    failed: Mapping[Cell, str],
    samplers: tuple[str, ...],
    untuned_samplers: tuple[str, ...],
    steps: tuple[int, ...],
) -> Comparison:
    records, errors = {}, {}
    for cell in cells:
        record = folder.record(cell.name, _settings(methods, cell))
        if record is not None:
            records[cell] = record
            errors[cell] = {name: array.numpy() for name, array in folder.tensors(cell.name).items()}
    return Comparison(
        model=bench.denoiser.name or "unnamed",
        features=bench.space.name,
        n=bench.test_samples,
        teacher=bench.teacher.describe(),
        labels=tuple(methods),
        samplers=samplers,
        untuned_samplers=untuned_samplers,
        steps=steps,
        limits={label: entrant.max_evaluations if entrant.limited else None for label, entrant in methods.items()},
        records=records,
        errors=errors,
        refused=refused,
        failed=failed,
    )
