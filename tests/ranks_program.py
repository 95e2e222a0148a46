"""What tests/test_distributed.py starts several times over: ``python -m tests.ranks_program NAME OUT`` in torchrun's environment."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import ttune
import ttune.tuning
from tests.oracles import Gaussian, mixture, standard_normal
from ttune.distributed import Ranks, joined
from ttune.tuning import Distribution, Endpoint
from ttune.tuning.distribution.feature_maps import parts_to_judge, parts_to_tune
from ttune.tuning.problem import Problem
from ttune.tuning.residuals import Sum

NOISE = ttune.NoiseSchedule.linear()
COUNT, CHUNK = 22, 4  # six chunks, the last of two


def figures(ranks: Ranks) -> dict[str, Any]:
    """What a problem says of itself, whole and on its first samples."""
    share = ranks.share(COUNT, CHUNK)
    rows = share.rows
    x_T, target, scale = (standard_normal((COUNT, 2), seed)[rows] for seed in (1, 2, 3))
    network = mixture(NOISE)
    denoiser = ttune.Denoiser(lambda x, tau, scale: network(x, tau) * (1 + 0.01 * scale[:, :1]), NOISE)
    problem = Problem(denoiser, x_T, {"scale": scale}, target, CHUNK, residual=lambda x, c: x.sin(), share=share)
    schedule = ttune.Schedule.build(NOISE, "ddim", 3)
    found = {}
    for name, part in (("all", problem), ("head", problem.head(3))):
        outer, count = part.total(lambda chunk: [(r := chunk.residuals(chunk.samples(schedule)).numpy()).T @ r, len(chunk)])
        found[name] = {
            "n": len(part),
            "elements": part.elements,
            "cost": part.cost(schedule),
            "errors": part.squared_errors(schedule).tolist(),
            "outer": outer.tolist(),
            "count": float(count),
            "own": len(part.x_T),
        }
    return found


def neighbours(ranks: Ranks) -> dict[str, Any]:
    """Every tuning method that several ranks may share and that has no test of its own."""
    x_T, teacher = standard_normal((32, 6)), ttune.Schedule.build(NOISE, "dpmpp_2m", 16, "log_snr")
    shift = ttune.tuning.Shifted((0.05, 0.2), (0.3,))
    evolution = ttune.tuning.Evolution(population=10, mutations=4, crossovers=3, rounds=3)
    found = {}
    for method in ("trajectory", "local", "optimal_steps", "ays", shift, evolution):
        denoiser, start = Gaussian(NOISE, 0.7).denoiser(), ttune.Schedule.build(NOISE, "ddim", 3, "linspace")
        options = {"x_T": x_T, "teacher": teacher, "batch_size": 4, "fallback": False, "progress": False}
        result = ttune.tune(denoiser, start, method=method, ranks=ranks, **options)
        cost = {name: value for name, value in result.cost.items() if name != "seconds"}
        found[str(method)] = {"schedule": result.schedule.settings(), "cost": cost, "validation": dict(result.validation)}
    return found


METHODS: dict[str, dict[str, Any]] = {
    "endpoint": {"iterations": 2},
    "backpropagation": {
        "method": Endpoint(("network_times", "times"), iterations=3, search_starts=False, optimizer="backpropagation"),
        "residual": "mixed",
    },
    "broyden": {"method": Endpoint(("network_times", "times"), iterations=5, search_starts=False, optimizer="broyden")},
    "trajectory": {"method": "trajectory", "teacher": None},
}
DISTRIBUTIONS: dict[str, dict[str, Any]] = {
    "distribution": {
        "method": Endpoint(("network_times", "times"), iterations=1, search_starts=False),
        "objective": Distribution(parts_to_tune(None, (2,)), parts_to_judge((), (2,)), fidelity=0.1, evaluations=800, samples=8, many=22),
    },
    "detail": {"method": Endpoint("network_times", iterations=1, search_starts=False), "detail": "auto"},
}


def tuned(ranks: Ranks, name: str, **options: Any) -> dict[str, Any]:
    """The outcome of a short tuning with one of METHODS or DISTRIBUTIONS, conditions and all."""
    settings = {"teacher": ttune.Schedule.build(NOISE, "dpmpp_2m", 12, "log_snr")} | (METHODS | DISTRIBUTIONS)[name]
    if settings.get("residual") == "mixed":
        settings = settings | {"residual": Sum((lambda x, c: x, lambda x, c: x.sin()))}
    network = mixture(NOISE)
    denoiser = ttune.Denoiser(lambda x, tau, scale: network(x.double(), tau.double()).to(x.dtype) * (1 + 0.01 * scale[:, None]), NOISE)
    result = ttune.tune(
        denoiser,
        ttune.Schedule.build(NOISE, "ddim", 3, "linspace"),
        sample_shape=(2,),
        samples=11,
        validation_samples=7,
        batch_size=4,
        conditions=lambda seeds: {"scale": (seeds % 3).float()},
        progress=False,
        ranks=ranks,
        **(settings | options),
    )
    cost = {purpose: value for purpose, value in result.cost.items() if purpose != "seconds"}
    bits = [result.schedule.times.tolist(), result.schedule.network_times.tolist()]
    return {"schedule": bits, "validation": result.validation, "history": result.history, "cost": cost, "teacher": result.teacher}


def everything(ranks: Ranks) -> dict[str, Any]:
    return {"figures": figures(ranks), "neighbours": neighbours(ranks)} | {name: tuned(ranks, name) for name in METHODS}


def distributions(ranks: Ranks) -> dict[str, Any]:
    return {name: tuned(ranks, name) for name in DISTRIBUTIONS}


def main(name: str, out: Path) -> None:
    with joined(timedelta(seconds=20)) as ranks:
        found = globals()[name](ranks)
        (out / f"{name}.{ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
