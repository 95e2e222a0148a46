"""What a tuning returned, in words: that it helped, or that it did not, why, and what to try."""

from __future__ import annotations

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
