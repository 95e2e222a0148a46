"""The page of the benchmark of distribution tunings."""

from __future__ import annotations

from benchmarks.tuning.distribution import BELOW, page


def test_the_page_has_the_best_untuned_of_once_and_twice_the_steps_and_the_errors() -> None:
    row = {
        "LeNet-64": 1.0,
        "judge network": 2.0,
        "local contrast": 0.1,
        "rmse": 0.2,
        "precision": 0.8,
        "recall": 0.7,
        "pixel variance": 0.5,
    }
    untuned = {
        str(budget): {"rows": {f"unipc {budget}": row}, "best": {"LeNet-64": f"unipc {budget}", "judge network": f"unipc {budget}"}}
        for budget in (5, 10)
    }
    tuned = {"rows": {"distribution": row | {"errors below the teacher": {"judge network": 2.34}}}, "evaluations": {"distribution": 45000}}
    content = {"test samples": 10, "rows": {"teacher": row}, "steps": {"5": tuned | {"resumed": True}}, "untuned": untuned}
    text = page(content)
    assert BELOW in text
    (line,) = (line for line in text.splitlines() if line.startswith("| 5 steps: distribution"))
    assert line.rstrip(" |").endswith("2.3")
    for budget in untuned:
        assert sum(f"best untuned, {budget} steps, by" in line and f"unipc {budget}" in line for line in text.splitlines()) == 2
    assert "distribution 45,000; resumed from a checkpoint" in text
