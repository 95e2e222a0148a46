"""Folding: the same update from a stage's own rows and from the table of all stages, and both the tableau's."""

from __future__ import annotations

import numpy as np
import pytest

from ttune import SAMPLERS, ClassifierFree, Denoiser, NoiseSchedule, Schedule, Tableau
from ttune.samplers import Stage
from ttune.samplers.folding import block, fold
from ttune.samplers.points import Point
from ttune.sampling.plan import folded

NOISE = NoiseSchedule.linear()
CLIPS = (None, 0.7)


def denoiser(prediction_type: str, clip: float | None, guided: bool, clip_epsilon: str) -> Denoiser:
    guidance = ClassifierFree(3.0, {"label": 0}) if guided else None
    return Denoiser(lambda x, tau: x, NOISE, prediction_type, guidance, clip_sample=clip, clip_epsilon=clip_epsilon)


def apply(
    terms: dict[str, np.ndarray],
    names: tuple[str, ...],
    coeffs: np.ndarray,
    outputs: tuple[str, ...],
    clip: float | None,
    noise: np.ndarray,
):
    columns, made = [terms[name] for name in names], {}
    for name, row in zip(outputs, coeffs, strict=True):
        used = [*columns]
        if clip is not None:
            used.append(made.get("D", np.zeros_like(noise)))
        if len(row) > len(used):
            used.append(noise)
        value = sum(c * u for c, u in zip(row, used, strict=True))
        made[name] = np.clip(value, -clip, clip) if name == "D" and clip is not None else value
    return made


def by_definition(stage: Stage, d: Denoiser, registers: dict[str, np.ndarray], outputs: list[np.ndarray], noise: np.ndarray):
    """The tableau's own meaning, with D and epsilon as tensors."""
    weights = d.evaluation(0, Point(stage.time, stage.alpha, stage.sigma)).row
    raw = weights[0] * registers["x"] + sum(w * o for w, o in zip(weights[1:], outputs, strict=True))
    D = raw if d.clip_sample is None else np.clip(raw, -d.clip_sample, d.clip_sample)
    eps = (registers["x"] - stage.alpha * (D if d.clip_epsilon == "recompute" else raw)) / stage.sigma
    known = registers | {"D": D, "eps": eps, "noise": noise}
    return {
        name: sum((c * known[n] for n, c in row.items()), np.zeros_like(noise))
        for name, row in (("x", stage.update), *stage.retain.items())
    }


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_rows_are_the_tableau(sampler: str, guided: bool, clip: float | None) -> None:
    rng = np.random.default_rng(0)
    schedule = Schedule.build(NOISE, sampler, 6)
    for prediction_type in ("epsilon", "sample", "v_prediction"):
        for clip_epsilon in ("recompute", "keep"):
            d = denoiser(prediction_type, clip, guided, clip_epsilon)
            stages = folded(d, schedule)
            registers = {"x": rng.normal(size=5)}
            for rows, stage in zip(stages, schedule.tableau().stages, strict=True):
                outputs, noise = [rng.normal(size=5) for _ in range(2 if guided else 1)], rng.normal(size=5)
                wanted = by_definition(stage, d, registers, outputs, noise)
                own = block(rows)
                network = {f"o{j}": o for j, o in enumerate(outputs)}
                made = registers | network | apply(registers | network, own.terms, own.coeffs, own.outputs, clip, noise)
                made |= {new: (made | registers)[old] for new, old in own.renames}
                for name, right in wanted.items():
                    np.testing.assert_allclose(made[name], right, rtol=1e-12, atol=1e-12)
                registers = {name: made[name] for name in wanted}


def test_history_that_moves_up_costs_nothing() -> None:
    """older' = previous, previous' = D: renames alone where D is clamped, so that only x and D are computed."""
    stages = [
        Stage(3.0, 0.5, 0.8, {"x": 1.0}, {"previous": {"D": 1.0}}),
        Stage(2.0, 0.5, 0.8, {"x": 1.0}, {"previous": {"D": 1.0}, "older": {"previous": 1.0}}),
        Stage(1.0, 0.5, 0.8, {"x": 1.0, "D": 0.5, "previous": 0.25, "older": -0.75}),
    ]
    Tableau("three", tuple(stages), 0.5, 0.5, 0.8)
    clipped = block(fold(stages[1], (2.0, -1.0), clips=True))
    assert clipped.outputs == ("D",)  # x stays as it is
    assert set(clipped.renames) == {("x", "x"), ("previous", "D"), ("older", "previous")}
    plain = block(fold(stages[1], (2.0, -1.0), clips=False))
    assert plain.outputs == ("previous",)
    assert set(plain.renames) == {("x", "x"), ("older", "previous")}
    last = block(fold(stages[2], (2.0, -1.0), clips=True))
    assert last.terms == ("x", "o0", "previous", "older")
    assert last.coeffs.shape == (2, 5)  # and D
