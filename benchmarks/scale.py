"""On paper: what tuning and evaluating models of the size of Stable Diffusion and Flux would cost on 1, 8 and 64 GPUs.

    python -m benchmarks scale                                 # docs/scale.md
    python -m benchmarks scale --utilisation 0.3 --peak 312    # other assumptions

Nothing of this was run at that size. Evaluations are those that ttune needed in the committed comparison (largest model first:
benchmarks/results/compare-fashion.json, else the mixture's); an evaluation's seconds follow from stated arithmetic: operations of a
forward pass, over a GPU's peak times a utilisation. x_T are shared in whole chunks, so no more GPUs than chunks help, and a tuning's
iterations wait for each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from ttune.atomic import write_atomically

RESULTS = Path(__file__).resolve().parent / "results"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "scale.md"


@dataclass(frozen=True)
class Model:
    """``operations`` of one forward pass of one sample, in 10^12; ``calls`` per evaluation (2 with classifier-free guidance)."""

    name: str
    operations: float
    calls: int
    source: str


# Two operations per multiply-add.
MODELS = (
    Model("Stable Diffusion 1.5, 512 x 512, guided", 0.80, 2, "U-Net of 860 M parameters, 0.40 T multiply-adds on 64 x 64 latents"),
    Model("SDXL, 1024 x 1024, guided", 6.0, 2, "U-Net of 2.6 G parameters, 3.0 T multiply-adds on 128 x 128 latents"),
    Model(
        "Flux.1-dev, 1024 x 1024",
        79.0,
        1,
        "12 G parameters, of which a token passes some 8.6: 2 operations each on 4,608 tokens, without attention",
    ),
)
GPUS = (1, 8, 64)


@dataclass
class Args:
    """A table of hours."""

    peak: float = 989.0
    """Of a GPU in bfloat16, 10^12 operations a second (H100/H200 SXM, dense)."""
    utilisation: float = 0.4
    """Share of the peak that a forward pass reaches. An assumption: it was not measured here."""
    chunk: int = 8
    """x_T in one call."""
    samples: int = 128
    """x_T of a tuning."""
    evaluated: int = 10_000
    """Samples of an evaluation."""
    steps: tuple[int, ...] = (5, 10)
    out: Path = DOCS


def main(argv: Sequence[str] | None = None) -> None:
    args = tyro.cli(Args, args=argv, prog="python -m benchmarks scale", description=__doc__)
    if not 0 < args.utilisation <= 1:
        raise SystemExit(f"utilisation must lie in (0, 1], got {args.utilisation}")
    text = page(args)
    write_atomically(args.out, text.encode())
    print(text)


def evaluations(steps: int) -> tuple[int, str]:
    """What the default tuning of 2M took at ``steps`` with 128 x_T, teacher and grids included, and where that was measured."""
    for name in ("fashion", "digits", "mixture"):
        path = RESULTS / f"compare-{name}.json"
        rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
        for row in rows:
            if (row["label"], row["sampler"], row["steps"]) == ("endpoint", "dpmpp_2m", steps):
                return row["evaluations"], path.name
    raise SystemExit(f"no committed comparison has 'endpoint' for 2M at {steps} steps: run python -m benchmarks compare --steps {steps}")


def hours(model: Model, count: float, args: Args, gpus: int, units: float) -> float:
    """``count`` evaluations in ``units`` pieces that cannot be divided, on ``gpus``."""
    seconds = model.operations * model.calls / (args.peak * args.utilisation)
    share = math.ceil(units / min(gpus, units)) / units  # of the one that has most to do
    return count * seconds * share / 3600


def page(args: Args) -> str:
    lines = [
        "# Scale, on paper",
        "",
        "Written by `python -m benchmarks scale`. **Nothing here was run at this size.** Assumed:",
        "",
        f"- a GPU with {args.peak:g} x 10^12 operations a second, of which a forward pass reaches {args.utilisation:.0%};",
        f"- {args.samples} x_T in chunks of {args.chunk}, so that at most {math.ceil(args.samples / args.chunk)} GPUs have work;",
        "- as many network evaluations as the default tuning of 2M took where it was measured; other models may need more or fewer;",
        "- a backward pass counts as two evaluations; whether its activations fit is not asked;",
        "- no time for the decoder, for loading or for communication (a few numbers per iteration).",
        "",
        "| model | what | evaluations | " + " | ".join(f"{n} GPU{'s' if n > 1 else ''}" for n in GPUS) + " |",
        "| --- | --- | ---: | " + " | ".join("---:" for _ in GPUS) + " |",
    ]
    sources = set()
    for model in MODELS:
        for k in args.steps:
            count, source = evaluations(k)
            sources.add(source)
            count = count * args.samples // 128
            cells = [_time(hours(model, count, args, n, math.ceil(args.samples / args.chunk))) for n in GPUS]
            lines.append(f"| {model.name} | tuning, {k} steps | {count:,} | " + " | ".join(cells) + " |")
        count = args.evaluated * min(args.steps)
        cells = [_time(hours(model, count, args, n, math.ceil(args.evaluated / args.chunk))) for n in GPUS]
        lines.append(f"| {model.name} | {args.evaluated:,} samples, {min(args.steps)} steps | {count:,} | " + " | ".join(cells) + " |")
    lines += ["", f"Evaluations from {', '.join(sorted(sources))}. Operations of one forward pass:", ""]
    lines += [f"- {m.name}: {m.operations:g} x 10^12, {m.calls} per evaluation ({m.source})." for m in MODELS]
    return "\n".join(lines) + "\n"


def _time(value: float) -> str:
    return f"{value:.1f} h" if value >= 1 else f"{value * 60:.0f} min" if value * 60 >= 1 else f"{value * 3600:.0f} s"
