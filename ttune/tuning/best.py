"""What a schedule says of its tuning, while that runs (the best so far) and in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttune.schedule.schedule import Schedule
from ttune.schedule.time_shift import Shift
from ttune.tuning.checkpoint import Journal
from ttune.tuning.grid_search import Ranked
from ttune.tuning.validation import same_steps

LONGEST = 200  # points of a line that a plot still shows apart; endpoint takes 30 by default, an evolution's rounds are fewer
UNFINISHED = "the tuning was not finished: this schedule was never compared with its start on validation x_T"


@dataclass(frozen=True)
class Accepted:
    """An iteration that a method has accepted; it is in the checkpoint by the time that this is seen.

    ``name``: of the piece of work in the checkpoint. ``rmse``: to the teacher, on the first ``samples`` tuning x_T; None where the method
    does not measure it. ``best``: the best schedule so far, which may be an earlier one; its ``tuned["unfinished"]`` says that no
    validation x_T has judged it.
    """

    name: str
    rmse: float | None
    samples: int
    best: Schedule


class BestSoFar:
    """Takes what a method accepts, remembers it together with the best schedule in one write of the journal, and then says so.

    A schedule judged on more x_T goes before one judged on fewer, then the lower RMSE counts; where none is measured, the later one.
    ``record``: what the best schedule's ``tuned`` is to say besides, and ``model`` its denoiser's identity.
    """

    def __init__(
        self,
        start: Schedule,
        journal: Journal,
        model: Mapping[str, Any],
        record: Mapping[str, Any],
        say: Callable[[Accepted], None] = lambda accepted: None,
    ) -> None:
        self._start, self._journal, self._model, self._record, self._say = start, journal, model, record, say

    def accept(self, name: str, state: Any, schedule: Schedule, *, samples: int, rmse: float | None = None) -> None:
        """Put ``state`` under ``name`` into the journal; ``schedule`` is the one that it describes."""
        entry = {
            "times": schedule.times.tolist(),
            "network_times": schedule.network_times.tolist(),
            "coefficients": None if schedule.coefficients is None else schedule.coefficients.tolist(),
            "shift": None if schedule.shift is None else schedule.shift.to_dict(),
            "variants": list(schedule.variants),
            "samples": samples,
            "rmse": rmse,
        }
        if _better(entry, self._journal.get("best")):
            self._journal.pieces["best"] = entry
        self._journal.put(name, state)
        self._say(Accepted(name, rmse, samples, self._schedule(self._journal.pieces["best"])))

    def _schedule(self, entry: Mapping[str, Any]) -> Schedule:
        coefficients, shift = entry["coefficients"], entry["shift"]
        best = self._start.replace(
            times=np.array(entry["times"]),
            network_times=np.array(entry["network_times"]),
            coefficients=None if coefficients is None else np.array(coefficients),
            shift=None if shift is None else Shift(**shift),
            variants=entry["variants"],
        )
        outcome = "start" if same_steps(best, self._start) else "tuned"
        found = {"outcome": outcome, "unfinished": UNFINISHED, "samples": entry["samples"], "rmse": entry["rmse"]}
        return best.replace(model=self._model, tuned={**self._record, **found})


def _better(entry: Mapping[str, Any], other: Mapping[str, Any] | None) -> bool:
    if other is None or entry["samples"] > other["samples"]:
        return True
    if entry["rmse"] is None or other["rmse"] is None:
        return entry["samples"] == other["samples"]
    return entry["samples"] == other["samples"] and entry["rmse"] < other["rmse"]


def provenance(start: Schedule, history: Mapping[str, Sequence[float]], grids: Sequence[Ranked]) -> dict[str, Any]:
    """For ``tuned``, in plain values: how a tuning went, and what it went from.

    "history": RMSE to the teacher on the tuning x_T per accepted iteration, by start: {name: {"at": iterations, "values": [...]}}.
    "start": the settings of the schedule that was to be improved; "best_untuned": those of the best untuned grid and its name
    ("given" is the start itself), or None where no grids were tried.
    """
    best = grids[0] if grids else None
    return {
        "history": compact(history),
        "start": start.settings(),
        "best_untuned": None if best is None else {"name": best.name, "schedule": best.schedule.settings()},
    }


def compact(history: Mapping[str, Sequence[float]]) -> dict[str, dict[str, list[float]]]:
    """Five digits of at most :data:`LONGEST` values a line, the first and the last among them."""
    lines = {}
    for name, values in history.items():
        at = np.unique(np.linspace(0, len(values) - 1, min(len(values), LONGEST)).round().astype(int)) if len(values) else []
        lines[str(name)] = {"at": [int(i) for i in at], "values": [float(f"{values[i]:.5g}") for i in at]}
    return lines
