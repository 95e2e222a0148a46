"""Tuning for a distribution on the bundled model: distances to real images by two networks, one of them the one that was tuned on.

    python -m benchmarks distribution               # every number of steps; a finished one is not measured again
    python -m benchmarks distribution --steps 5     # one of them

Test seeds that no tuning has seen; LeNet-64 (tuned on its statistics of the training images) and a network trained apart
(:mod:`benchmarks.tuning.judge_network`) measure distances to every second test image. The model draws as many of each class;
real against real: so many images of each class from the others. Untuned: the best of :data:`UNTUNED` by the very figure, chosen on the
first seeds; all of them have one evaluation a step. Writes benchmarks/results/distribution.json and .md.
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
from ttune import Schedule, zoo
from ttune.evaluation import FeatureStatistics, frechet_distance, lenet64, precision_recall
from ttune.evaluation.features.local_contrast import local_contrast
from ttune.tuning import Endpoint, Teacher
from ttune.zoo.fashion_mnist import load_test_images, to_unit_range

STEPS = (3, 4, 5, 8)
UNTUNED = tuple((sampler, spacing) for sampler in ("dpmpp_2m", "unipc") for spacing in ("leading", "karras", "log_snr", "quadratic"))
TEACHER_STEPS = 32
TEST_SEEDS, CHOSEN_ON = 10_000_000, 200
EXTRACTORS = (lenet64(), judge_network(), local_contrast())
GALLERY = Path("gallery/fashion")
OUT = RESULTS / "distribution.json"


class Bench:
    """The test samples' x_T, the teacher's samples from there, and the real images."""

    def __init__(self, count: int) -> None:
        self.denoiser, self.count = zoo.load("fashion"), count
        self.x_T = ttune.initial_noise(self.denoiser.noise, (1, 28, 28), seeds=range(TEST_SEEDS, TEST_SEEDS + count))
        self.labels = torch.arange(count) % 10
        images, labels = load_test_images()
        real = to_unit_range(images)
        # The tuning saw pooled pixels of every other test image, from the first on; these judge nothing.
        seen, others = slice(0, None, 2), slice(1, None, 2)
        self.seen = real[seen]
        self.balanced = torch.cat([real[seen][labels[seen] == c][: count // 10] for c in range(10)])
        features = [extractor(real[others]) for extractor in EXTRACTORS]
        self.statistics = [FeatureStatistics.of_features(own, e.name) for own, e in zip(features, EXTRACTORS, strict=True)]
        self.neighbours = features[0].numpy()[:count]

    def samples(self, schedule: Schedule, count: int | None = None) -> Tensor:
        parts = zip(self.x_T[:count].split(100), self.labels[:count].split(100), strict=True)
        return torch.cat([ttune.sample(self.denoiser, schedule, x, conditions={"class_label": own}) for x, own in parts])

    def figures(self, x: Tensor, target: Tensor | None = None) -> dict[str, Any]:
        """Distances by every network, precision and recall at k = 3, RMSE to the teacher."""
        row: dict[str, Any] = {e.name: frechet_distance(e(x), own) for e, own in zip(EXTRACTORS, self.statistics, strict=True)}
        both = precision_recall(EXTRACTORS[0](x).numpy(), self.neighbours)
        row |= {"precision": both.precision, "recall": both.recall, "pixel variance": float(x.var())}
        return row if target is None else row | {"rmse": float((x - target).square().mean().sqrt())}

    def best_untuned(self, steps: int, by: int) -> tuple[str, Schedule]:
        """By the extractor of this number."""
        found = {}
        for sampler, spacing in UNTUNED:
            schedule = Schedule.build(self.denoiser.noise, sampler, steps, spacing)
            x = self.samples(schedule, CHOSEN_ON)
            found[f"{sampler} {spacing}"] = frechet_distance(EXTRACTORS[by](x), self.statistics[by]), schedule
        name = min(found, key=lambda name: found[name][0])
        return name, found[name][1]


def start_of(bench: Bench, steps: int) -> Schedule:
    """The endpoint's result of the gallery, or an untuned schedule where there is none."""
    path = GALLERY / f"dpmpp_2m_{steps}_coefficients.json"
    if path.exists():
        return Schedule.load(path)
    return Schedule.build(bench.denoiser.noise, "dpmpp_2m", steps, "log_snr")


def tuned(bench: Bench, steps: int, work: Path) -> ttune.TuneResult:
    start, checkpoint = start_of(bench, steps), work / f"distribution-{steps}.checkpoint"
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
    begin = time.process_time()
    result = tuned(bench, steps, work)
    rows = {"distribution": bench.figures(bench.samples(result.schedule), target)}
    start = start_of(bench, steps)
    if start.coefficients is not None:
        rows["endpoint (gallery)"] = bench.figures(bench.samples(start), target)
    untuned = {}
    for budget in (steps, 2 * steps):
        for by in (0, 1):
            name, schedule = bench.best_untuned(budget, by)
            if (budget, name) not in untuned:
                untuned[budget, name] = bench.figures(bench.samples(schedule), target)
            rows[f"best untuned, {budget} steps, by {EXTRACTORS[by].name}: {name}"] = untuned[budget, name]
    return {
        "rows": rows,
        "schedule": result.schedule.plain() | {"model": {}, "tuned": {}},
        "evaluations": dict(result.cost),
        "outcome": result.outcome,
        "refused": result.validation["refused"],
        "loss": list(result.history["distribution"]),
        "cpu_seconds": round(time.process_time() - begin),
    }


def page(content: dict[str, Any]) -> str:
    names = [*(e.name for e in EXTRACTORS), "rmse", "precision", "recall", "pixel variance"]

    def line(name: str, row: dict[str, Any]) -> list[str]:
        return [name, *("" if row.get(key) is None else format(row[key], ".3f") for key in names)]

    steps = sorted(content["steps"].items(), key=lambda item: int(item[0]))
    rows = [line(name, row) for name, row in content["rows"].items()]
    rows += [line(f"{K} steps: {name}", row) for K, own in steps for name, row in own["rows"].items()]
    lines = [f"# Tuning for a distribution: the bundled model, {content['test samples']} test seeds", ""]
    lines += ["`python -m benchmarks distribution`. Fréchet distances to real images. LeNet-64 was tuned on; the judge network and local"]
    lines += ["contrast were not.", "", *table(["", *names], rows, 1), "", "Evaluations of one sample, by phase:", ""]
    for K, own in steps:
        phases = ", ".join(f"{name} {value:,}" for name, value in own["evaluations"].items() if name != "seconds")
        lines.append(f"- {K} steps: {phases}")
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
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
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
    for steps in options.steps:
        done = msgspec.json.decode(options.out.read_bytes())["steps"]
        if str(steps) not in done:
            found = measured(bench, steps, target, options.work)
            remember(lambda content, k=steps, own=found: content["steps"].update({str(k): own}), options.out)
            print(f"{steps} steps, {found['cpu_seconds']} s on one core")


if __name__ == "__main__":
    main()
