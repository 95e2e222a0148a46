"""What a tuning returned, in words: that it helped, or that it did not, why, and what to try."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ttune.evaluation.numbers import NONE, number
from ttune.evaluation.table import Table

ROUNDING = 1e-9  # a distance of samples to themselves is no more than this
RETURNED = {"untuned": "the best untuned schedule", "start": "the start"}


def outcome_in_words(outcome: str, record: Mapping[str, Any], steps: int) -> list[str]:
    """Lines to put first. None for a tuned schedule that passed the decision on validation x_T.

    ``record``: how the tuning went (:attr:`ttune.tuning.TuneResult.record`).
    """
    validation = record["validation"]
    refused = [f"  not better: {reason}" for reason in dict.fromkeys(validation["refused"])]
    if outcome == "tuned":
        unchecked = "The tuned schedule is returned without the decision on validation x_T (fallback=False), which it would not pass:"
        return [unchecked, *refused] if refused and not validation["fallback"] else []
    if validation["rmse_start"] == 0:
        return [f"Nothing to tune: {steps} steps already end at the teacher's samples, returned: {RETURNED[outcome]}."]
    return [f"Tuning did not help at {steps} steps, returned instead: {RETURNED[outcome]}. {advice(record)}", *refused]


def advice(record: Mapping[str, Any]) -> str:
    """What may help where a tuning did not."""
    tries = [f"more samples ({2 * record['samples']} instead of {record['samples']})"]
    tries += ["the coefficients too"] if record["method"] == "endpoint" and "coefficients" not in record["tune"] else []
    tries += ["method 'endpoint'"] if record["method"] != "endpoint" else []
    return f"Try {', '.join([*tries, 'more steps'])} or another sampler."


def headline(outcome: str, record: Mapping[str, Any], steps: int) -> str:
    """One sentence with the figures of the decision: what is returned, beside the best of the schedules before it and the teacher."""
    validation = record["validation"]
    subject = f"{steps} tuned steps" if outcome == "tuned" else f"{steps} steps ({RETURNED[outcome]}; tuning did not help)"
    best = validation["best_untuned"]
    before = min(validation["rmse_start"], math.inf if best is None else best["rmse"])
    rmse = f"RMSE to the teacher {validation['rmse']:.3g}" + (f" (before {before:.3g})" if outcome == "tuned" else "")
    samples = f"on {validation['n']} validation samples"
    if validation.get("objective") != "distribution":
        return f"{subject}: {rmse}, {samples}."
    rows = {row["name"]: row["to_reference"][validation["features"]] for row in validation["front"]}
    others = [value for name, value in rows.items() if "start" in name or "untuned" in name]
    beside = [f"before {min(others):.3g}"] if outcome == "tuned" else []
    beside += [f"teacher {rows['the teacher']:.3g}"] if validation["reference"] else []
    near = f"distance to {validation['reference'] or 'the teacher'} {rows[validation['returned']]:.3g} in {validation['features']}"
    near += f" ({', '.join(beside)})" if beside else ""
    return f"{subject}: {near}, {rmse}, {samples}."


def front_table(validation: Mapping[str, Any]) -> Table | None:
    """A row for every schedule that a distribution's decision has looked at, figures with their standard errors; None for other decisions.

    RMSE to the teacher, the Fréchet distance to its samples, that to the reference in every feature space, precision, recall.
    """
    rows = validation.get("front") or []
    if not rows:
        return None
    spaces = list(rows[0]["to_reference"])
    lines = []
    for row in rows:
        returned = " *" if row["name"] == validation["returned"] else ""
        errors = row.get("to_reference_error") or {}
        lines.append(
            (
                f"{row['name']}{returned}",
                _figure(row, "rmse"),
                _figure(row, "to_teacher"),
                *(_with_error(row["to_reference"].get(space), errors.get(space)) for space in spaces),
                _figure(row, "precision"),
                _figure(row, "recall"),
            )
        )
    heads = ("schedule", "RMSE", "F-teacher", *(f"F, {space}" for space in spaces), "precision", "recall")
    reference = validation.get("reference") or "the teacher"
    notes = (
        f"{validation['n']} validation x_T, ± standard errors; * was returned. RMSE and F-teacher: to the teacher's samples; other F: the "
        f"Fréchet distance to {reference}. F-teacher, precision and recall are in {validation['features']}.",
    )
    return Table(heads, lines, (0,), "The front: what each schedule reaches", notes)


def front_in_words(validation: Mapping[str, Any]) -> list[str]:
    """The front as lines of text."""
    table = front_table(validation)
    return [] if table is None else [*table.text().splitlines(), *table.notes]


def _figure(row: Mapping[str, Any], name: str) -> str:
    return _with_error(row[name], row.get(f"{name}_error"))


def _with_error(value: float | None, error: float | None) -> str:
    if value is None:
        return NONE
    if abs(value) < ROUNDING:
        return "0"
    return number(value, ".3f", digits=3) + ("" if error is None else f" ± {number(error, '.3f', digits=2)}")
