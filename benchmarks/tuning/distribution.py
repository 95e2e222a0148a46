"""Tuning for a distribution on the bundled model: distances to real images by two networks, one of them the one that was tuned on.

    python -m benchmarks distribution               # every number of steps; a finished one is not measured again
    python -m benchmarks distribution --steps 5     # one of them
    python -m benchmarks distribution --untuned 5 10 --steps    # untuned schedules of so many evaluations alone

Test seeds that no tuning has seen; LeNet-64 (tuned on its statistics of the training images) and a network trained apart
(:mod:`benchmarks.tuning.judge_network`) measure distances to every second test image. The model draws as many of each class;
real against real: so many images of each class from the others. Untuned: the best by the very figure of every deterministic sampler on
every spacing with as many network evaluations (:mod:`benchmarks.tuning.untuned_pairs`), picked on other seeds. Several processes may
measure different steps into one file. Writes benchmarks/results/distribution.json and .md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

import ttune
from benchmarks.machine import machine
from benchmarks.result_paths import RESULTS, parser_of, write_json
from benchmarks.tables import table
from benchmarks.tuning.judge_network import judge_network
from benchmarks.tuning.untuned_pairs import best_untuned, pairs
from ttune import Schedule, zoo
from ttune.evaluation import FeatureStatistics, frechet_distance, lenet64, precision_recall
from ttune.evaluation.features.local_contrast import local_contrast
from ttune.evaluation.score import FeatureScore, FeatureSpace, lead
from ttune.tuning import Endpoint, Teacher
from ttune.zoo.fashion_mnist import load_test_images, to_unit_range

STEPS = (3, 4, 5, 8)
TEACHER_STEPS = 32
TEST_SEEDS, PICKED_ON = 10_000_000, 40_000_000  # the first of the seeds that are reported, and of those that pick untuned schedules
EXTRACTORS = (lenet64(), judge_network(), local_contrast())
GALLERY = Path("gallery/fashion")
BELOW = f"{EXTRACTORS[1].name}: errors below the teacher"
OUT = RESULTS / "distribution.json"


class Bench:
    """The test samples' x_T, the teacher's samples from there, and the real images."""

    def __init__(self, count: int) -> None:
        self.denoiser, self.count = zoo.load("fashion"), count
        images, labels = load_test_images()
        real = to_unit_range(images)
        # The tuning saw pooled pixels of every other test image, from the first on; these judge nothing.
        seen, others = slice(0, None, 2), slice(1, None, 2)
        self.seen = real[seen]
        self.balanced = torch.cat([real[seen][labels[seen] == c][: count // 10] for c in range(10)])
        features = [extractor(real[others]) for extractor in EXTRACTORS]
        self.statistics = [FeatureStatistics.of_features(own, e.name) for own, e in zip(features, EXTRACTORS, strict=True)]
        self.neighbours = features[0].numpy()[:count]
        self._teachers_drawn: list[tuple[float, list[float]]] | None = None

    def samples(self, schedule: Schedule, count: int | None = None, first: int = TEST_SEEDS) -> Tensor:
        """Of ``count`` seeds from ``first`` on."""
        seeds = torch.arange(self.count if count is None else count)
        made = []
        for own in seeds.split(100):
            x_T = ttune.initial_noise(self.denoiser.noise, (1, 28, 28), seeds=(first + own).tolist())
            made.append(ttune.sample(self.denoiser, schedule, x_T, conditions={"class_label": own % 10}))
        return torch.cat(made)

    def figures(self, x: Tensor, target: Tensor | None = None) -> dict[str, Any]:
        """Distances by every network, precision and recall at k = 3; beside the samples of the teacher: RMSE, and by how many standard
        errors each distance is lower, from bootstrap draws of the same x_T for both."""
        row: dict[str, Any] = {e.name: frechet_distance(e(x), own) for e, own in zip(EXTRACTORS, self.statistics, strict=True)}
        both = precision_recall(EXTRACTORS[0](x).numpy(), self.neighbours)
        row |= {"precision": both.precision, "recall": both.recall, "pixel variance": float(x.var())}
        if target is None:
            return row
        below = {e.name: lead(*own, *other) for e, own, other in zip(EXTRACTORS, self.drawn(x), self.teachers_drawn(target), strict=True)}
        return row | {"rmse": float((x - target).square().mean().sqrt()), "errors below the teacher": below}

    def drawn(self, x: Tensor) -> list[tuple[float, list[float]]]:
        """By every network: the distance of ``x``, and of bootstrap draws of its samples."""
        spaces = [FeatureSpace(e, e.name, reference=own) for e, own in zip(EXTRACTORS, self.statistics, strict=True)]
        scores = [FeatureScore(space, space.of(x)) for space in spaces]
        return [(score.to_reference, score.to_reference_draws) for score in scores]

    def teachers_drawn(self, target: Tensor) -> list[tuple[float, list[float]]]:
        if self._teachers_drawn is None:
            self._teachers_drawn = self.drawn(target)
        return self._teachers_drawn

    def untuned(self, evaluations: int, target: Tensor) -> dict[str, Any]:
        """The best untuned schedule by LeNet-64 and that by the judge network."""
        figures = [lambda x, k=k: frechet_distance(EXTRACTORS[k](x), self.statistics[k]) for k in (0, 1)]
        tried = pairs(self.denoiser.noise, evaluations)
        found = best_untuned(tried, lambda schedule, count: self.samples(schedule, count, PICKED_ON), figures)
        rows = {own.name: self.figures(self.samples(own.schedule), target) for own in {own.name: own for own in found}.values()}
        best = {extractor.name: own.name for extractor, own in zip(EXTRACTORS, found, strict=False)}
        return {"rows": rows, "best": best, "pairs": found[0].pairs, "evaluations": found[0].evaluations, "machine": machine()}


def start_of(bench: Bench, steps: int) -> Schedule:
    """The endpoint's result of the gallery, or an untuned schedule where there is none."""
    path = GALLERY / f"dpmpp_2m_{steps}_coefficients.json"
    if path.exists():
        return Schedule.load(path)
    return Schedule.build(bench.denoiser.noise, "dpmpp_2m", steps, "log_snr")


def _checkpoint(work: Path, steps: int) -> Path:
    return work / f"distribution-{steps}.checkpoint"


def tuned(bench: Bench, steps: int, work: Path) -> ttune.TuneResult:
    start, checkpoint = start_of(bench, steps), _checkpoint(work, steps)
    iterations = 1 if start.coefficients is not None else 6
    return ttune.tune(
        bench.denoiser,
        start,
        method=Endpoint(("network_times", "times", "coefficients"), iterations=iterations, search_starts=False),
        teacher=Teacher.default(start, TEACHER_STEPS),
        samples=64,
        validation_samples=128,
        objective="distribution",
        reference="fashion",
        fallback=False,
        checkpoint=checkpoint,
        resume=checkpoint.exists(),
        progress=False,
    )


def measured(bench: Bench, steps: int, target: Tensor, work: Path) -> dict[str, Any]:
    """All rows for one number of steps."""
    begin, resumed = time.process_time(), _checkpoint(work, steps).exists()
    result = tuned(bench, steps, work)
    rows = {"distribution": bench.figures(bench.samples(result.schedule), target)}
    start = start_of(bench, steps)
    if start.coefficients is not None:
        rows["endpoint (gallery)"] = bench.figures(bench.samples(start), target)
    return {
        "rows": rows,
        "schedule": result.schedule.plain() | {"model": {}, "tuned": {}},
        "evaluations": dict(result.cost),
        "outcome": result.outcome,
        "refused": result.validation["refused"],
        "loss": list(result.history["distribution"]),
        "cpu_seconds": round(time.process_time() - begin),
        "resumed": resumed,  # then some of the tuning was done before, perhaps by an earlier commit than the machine's record says
        "machine": machine(),
    }


def page(content: dict[str, Any]) -> str:
    names = [*(e.name for e in EXTRACTORS), "rmse", "precision", "recall", "pixel variance"]

    def line(name: str, row: dict[str, Any]) -> list[str]:
        below = row.get("errors below the teacher", {}).get(EXTRACTORS[1].name)
        return [name, *("" if row.get(key) is None else format(row[key], ".3f") for key in names), "" if below is None else f"{below:.1f}"]

    steps = sorted(content["steps"].items(), key=lambda item: int(item[0]))
    untuned = content.get("untuned", {})
    rows = [line(name, row) for name, row in content["rows"].items()]
    for K, own in steps:
        rows += [line(f"{K} steps: {name}", row) for name, row in own["rows"].items()]
        for budget in (str(number * int(K)) for number in (1, 2)):
            best = untuned.get(budget, {"best": {}})["best"].items()
            rows += [line(f"{K} steps: best untuned, {budget} steps, by {by}: {name}", untuned[budget]["rows"][name]) for by, name in best]
    lines = [f"# Tuning for a distribution: the bundled model, {content['test samples']} test seeds", ""]
    lines += ["`python -m benchmarks distribution`. Fréchet distances to real images. LeNet-64 was tuned on; the judge network and local"]
    lines += [
        "contrast were not. Untuned: the best of all deterministic samplers and spacings, picked on other seeds.",
        "",
        *table(["", *names, BELOW], rows, 1),
        "",
        "Evaluations of one sample, by phase:",
        "",
    ]
    for K, own in steps:
        phases = ", ".join(f"{name} {value:,}" for name, value in own["evaluations"].items() if name != "seconds")
        lines.append(f"- {K} steps: {phases}" + ("; resumed from a checkpoint" if own.get("resumed") else ""))
    return "\n".join(lines) + "\n"


def remember(change: Callable[[dict[str, Any]], None], out: Path) -> dict[str, Any]:
    """The results with a change made to what is there now, so that two processes may measure different steps."""
    content = msgspec.json.decode(out.read_bytes()) if out.exists() else {"steps": {}, "rows": {}}
    change(content)
    write_json(out, content)
    out.with_suffix(".md").write_text(page(content), encoding="utf-8")
    return content


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("distribution", __doc__)
    parser.add_argument("--steps", type=int, nargs="*", default=STEPS)
    parser.add_argument("--untuned", type=int, nargs="*", help="network evaluations; by default once and twice the steps")
    parser.add_argument("--test-samples", type=int, default=1000)
    parser.add_argument("--work", type=Path, default=Path("runs/distribution"))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    bench, saved = Bench(options.test_samples), options.work / "teacher.npy"
    if saved.exists():
        target = torch.from_numpy(np.load(saved))
    else:
        target = bench.samples(Teacher.default(start_of(bench, 5), TEACHER_STEPS).source)  # pyright: ignore[reportArgumentType]
        np.save(saved, target.numpy())
    rows = {f"teacher, {TEACHER_STEPS} steps": bench.figures(target, target), "real images": bench.figures(bench.balanced)}
    remember(lambda content: content.update({"machine": machine(), "test samples": bench.count, "rows": rows}), options.out)
    budgets = options.untuned if options.untuned is not None else sorted({n * steps for steps in options.steps for n in (1, 2)})
    todo: list[tuple[str, int, Callable[[int], dict[str, Any]]]] = [
        *(("steps", steps, lambda k: measured(bench, k, target, options.work)) for steps in options.steps),
        *(("untuned", budget, lambda k: bench.untuned(k, target)) for budget in budgets),
    ]
    for kind, number, measure in todo:
        done = msgspec.json.decode(options.out.read_bytes()).get(kind, {})
        if str(number) not in done:
            begin, found = time.process_time(), measure(number)
            remember(lambda content, k=str(number), own=found, kind=kind: content.setdefault(kind, {}).update({k: own}), options.out)
            print(f"{kind} {number}: {time.process_time() - begin:.0f} s on one core", flush=True)


if __name__ == "__main__":
    main()
