"""What a tuning returned, in words: that it helped, or that it did not, why, and what to try."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

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
    beside = ([f"before {min(others):.3g}"] if outcome == "tuned" else []) + [f"teacher {rows['the teacher']:.3g}"]
    near = f"distance to {validation['reference'] or 'the teacher'} {rows[validation['returned']]:.3g} in {validation['features']}"
    return f"{subject}: {near} ({', '.join(beside)}), {rmse}, {samples}."


def front_in_words(validation: Mapping[str, Any]) -> list[str]:
    """A line for every schedule that a distribution's decision has looked at."""
    lines = []
    for row in validation.get("front", []):
        distances = ", ".join(f"{value:.3g} ({name})" for name, value in row["to_reference"].items())
        both = "" if row["precision"] is None else f"; precision {row['precision']:.3f}, recall {row['recall']:.3f}"
        chosen = " (returned)" if row["name"] == validation["returned"] else ""
        rmse, near = f"RMSE to the teacher {row['rmse']:.4g}", f"distance to its samples {row['to_teacher']:.3g}"
        lines.append(f"  {row['name']}{chosen}: {rmse}, {near}; to the reference {distances}{both}")
    return lines
