"""``ttune.tune``: from a schedule to a better one for the same model, sampler and budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from ttune.network.denoiser import Denoiser
from ttune.schedule.schedule import Schedule
from ttune.tuning.best import provenance
from ttune.tuning.detail import as_detail
from ttune.tuning.distribution.decision import decide_by_distribution
from ttune.tuning.grid_search import Ranked
from ttune.tuning.integer_times.coordinate_descent import find_whole_times, rounded
from ttune.tuning.integer_times.probe import TimeTable
from ttune.tuning.options import TuneArguments, with_keywords_of
from ttune.tuning.outcome import front_in_words, headline, outcome_in_words
from ttune.tuning.session import Session
from ttune.tuning.validation import decide


@dataclass(frozen=True)
class TuneResult:
    """What tuning found and what it cost.

    ``outcome`` says what ``schedule`` is: "tuned", if it does better on validation x_T than the start and than the best untuned grid that
    was met; else "untuned", that grid, or "start", the schedule that was given. ``improved``: whether it is "tuned".
    ``history``: RMSE to the teacher on the tuning x_T per accepted iteration, per start. ``cost``: network evaluations of one
    sample (a backward counts 2) by purpose, and seconds. ``validation_samples``: the figures of the decision.
    ``grids``: the untuned schedules that were tried as starts, best RMSE first (on the tuning x_T).
    ``time_table``: what the probe found (:class:`ttune.tuning.integer_times.probe.TimeTable`); None for continuous times.
    ``record``: how it went, in plain values: ``schedule.tuned``, but that the start is returned as it was given.
    """

    schedule: Schedule
    outcome: str
    history: Mapping[str, Sequence[float]]
    cost: Mapping[str, float]
    validation: Mapping[str, Any]
    teacher: Mapping[str, Any]
    grids: Sequence[Ranked] = ()
    time_table: Mapping[str, Any] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def improved(self) -> bool:
        return self.outcome == "tuned"

    @property
    def headline(self) -> str:
        """What the tuning reached, in one sentence with its figures."""
        return headline(self.outcome, self.record, self.schedule.steps)

    def summary(self) -> str:
        """A few lines for a person, the outcome first."""
        h, best, evaluations = self.validation, self.validation["best_untuned"], {k: int(v) for k, v in self.cost.items() if k != "seconds"}
        drifted = ", ".join(map(str, self.schedule.drifted()))
        lines = [
            *outcome_in_words(self.outcome, self.record, self.schedule.steps),
            str(self.schedule),
            f"on {h['n']} validation x_T: RMSE to the teacher {h['rmse_start']:.4g} -> {h['rmse']:.4g}, ratio {h['ratio']:.3f} "
            f"[{h['low']:.3f}, {h['high']:.3f}]; Fréchet distance to its samples ({h['features']}) "
            f"{h['frechet_start']:.4g} -> {h['frechet']:.4g}",
            *([f"best untuned schedule on the same x_T: RMSE {best['rmse']:.4g}, Fréchet distance {best['frechet']:.4g}"] if best else []),
            *front_in_words(h),
            *(
                [f"evaluations {drifted} pass the network a time outside their neighbours' range: allowed, check the samples"]
                * bool(drifted)
            ),
            *([] if self.time_table is None or self.time_table["kind"] == "smooth" else [str(TimeTable(**self.time_table))]),
            f"teacher: {', '.join(f'{k} {v}' for k, v in self.teacher.items())}",
            f"network evaluations: {sum(evaluations.values()):,} ({', '.join(f'{k} {v:,}' for k, v in evaluations.items())}) "
            f"in {self.cost['seconds']:.0f} s",
        ]
        return "\n".join(lines)


@with_keywords_of(TuneArguments)
def tune(denoiser: Denoiser, schedule: Schedule | str | PathLike[str], arguments: TuneArguments) -> TuneResult:
    """Tune ``schedule`` (or the file of one) for ``denoiser``: the times that the network is passed, and where the steps are.

    The keywords are the fields of :class:`ttune.tuning.TuneArguments`.

    The teacher's x_0 are computed first, then the method brings the samples of few steps close to them. The schedule found is returned
    (``outcome`` "tuned") if it is better in validation: on starting noises that no method saw its paired squared error is lower, and
    its Fréchet distance to the teacher's samples not higher by two standard errors, than those of the start and of the best untuned
    schedule that was tried. Otherwise one of these two is returned, unless ``fallback=False``. Validation compares samples and
    ``features``, whatever ``residual``.

    A network with discrete times is probed first (:mod:`ttune.tuning.integer_times.probe`). Where it only knows whole times (or says
    ``integer_time=True``), or rows of its table lie off the curve through their neighbours, a continuous method is followed by a
    descent in whole numbers, and the result passes the network whole times only.

    ``method`` and ``residual`` may be objects: an instance of one of :mod:`ttune.tuning`'s methods with settings of its own (the
    fields that are named like one of tune's keywords are then taken from it alone); a map of :mod:`ttune.tuning.residuals`, or a
    function of samples, or of samples and conditions, to (B, m).

    With ``objective="distribution"`` the method's result is where a second search begins: for a Fréchet distance to ``reference`` in
    ``features`` (:mod:`ttune.tuning.distribution`). Validation then asks for a lower distance, in features that were not tuned on too.

    Raises ValueError, TypeError or FloatingPointError naming the argument or the step. Warns (UserWarning), before anything is paid,
    of a network that does not answer the same call the same way, or whose output is of another prediction type
    (:mod:`ttune.tuning.input_checks`).
    """
    session = Session.begun(denoiser, schedule, arguments)
    task, validation = session.task()
    method, whole = session.method, session.table is not None and not session.table.smooth
    found = find_whole_times(task, method, session.between, search=session.continuous) if whole else method.run(task)
    stage = session.stage
    if stage is not None:
        found = stage.refined(task, found, method, session.arguments)

    with task.ledger.entry("validation"):
        grids = [ranked.schedule for ranked in found.grids]
        whole_start = rounded(task.start, free=True) if whole else None
        untuned = [] if whole_start is None else [whole_start]
        if stage is None:
            choice = decide(validation, task.start, grids, found.candidates, task.features, arguments.fallback, untuned)
        else:
            choice = decide_by_distribution(stage.judge(validation), task.start, found, arguments.fallback, untuned)
    chosen, outcome, figures = choice
    task.ledger.close()
    cost = task.ledger.evaluations | {"seconds": round(task.ledger.seconds, 1)}
    record = session.record | {"outcome": outcome, "validation": figures, "cost": cost} | provenance(task.start, found.history, found.grids)
    if outcome != "start":
        chosen = chosen.replace(model=session.model, tuned=record)
    if isinstance(levels := as_detail(arguments.detail), tuple):
        chosen = chosen.with_detail(*levels)
    return TuneResult(chosen, outcome, found.history, cost, figures, record["teacher"], found.grids, record["time_table"], record)
