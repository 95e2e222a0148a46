"""One way to write a number: only zero is written as zero."""

from __future__ import annotations

import pytest

from ttune.evaluation import print_metrics, print_table
from ttune.evaluation.numbers import number


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [
        (0.123456, ".4f", "0.1235"),
        (12.3456, ".3f", "12.346"),
        (0.000123456, ".3f", "0.0001235"),
        (-0.00456789, ".4f", "-0.004568"),
        (1.23456e-9, ".3f", "1.235e-09"),
        (0.0, ".3f", "0.000"),
        (12.34, ".1f", "12.3"),
        (0.034, ".1f", "0.03"),
        (1234.6, ",.0f", "1,235"),
        (1234, ",d", "1,234"),
        (float("nan"), ".3f", "nan"),
        (None, ".3f", "–"),
    ],
)
def test_number(value: float | None, spec: str, text: str) -> None:
    assert number(value, spec) == text


def test_no_table_of_an_evaluation_writes_a_small_number_as_zero() -> None:
    small = {"low": 0.00011, "high": 0.00013}
    row = {
        "name": "a",
        "steps": 5,
        "rmse_to_teacher": 0.00001234,
        "frechet": {"value": 0.000123456, "features": "pixels", "n": 9, "standard_error": 0.0000456, "interval": small, "name": "F"},
        "frechet_to_teacher": 0.000123456,
        "seconds": 0.0123,
        "kernel": {"value": 1.5e-9, "name": "K", "interval": small},
        "rmse_interval": small,
    }
    assert print_table([row]).split("\n")[-1].split() == ["a", "5", "0.00001234", "0.0001235", "±", "0.000046", "0.0001235", "–", "0.01"]  # pyright: ignore[reportArgumentType]
    detail = print_metrics([row])  # pyright: ignore[reportArgumentType]
    for text in ("0.0001235", "[0.0001100, 0.0001300]", "1.500e-09", "0.00001234"):
        assert text in detail
