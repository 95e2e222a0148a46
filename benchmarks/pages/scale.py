"""On paper: what tuning and evaluating models of the size of Stable Diffusion and Flux would cost on 1, 8 and 64 GPUs.

    python -m benchmarks scale                                 # docs/results/scale.md
    python -m benchmarks scale --utilisation 0.3 --peak 312    # other assumptions

Nothing of this was run at that size. Evaluations are those of ``python -m benchmarks tuning``, at every budget of the same model, and
the others' are shown beside them; an evaluation's seconds follow from stated arithmetic: operations of a forward pass, over a GPU's peak
times a utilisation. x_T are shared in whole chunks, so no more GPUs than chunks help, and a tuning's iterations wait for each other.
Memory is that of the weights, of a sampling's activations, both assumed, and of the states that a tuning holds beyond a
sampling's, as ``python -m benchmarks memory`` measured them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.result_paths import ROOT, command, read_result
from benchmarks.tables import table
from ttune.storage.atomic_write import write_atomically

MEASURED = 128  # x_T of the tunings whose evaluations are read
PIXELS = 28 * 28  # of the bundled model, whose memory is read
SINGLE, HALF = 4, 2  # bytes: of a state that a tuning holds, and of weights and activations


@dataclass(frozen=True)
class ScaleModel:
    """``operations`` of one forward pass of one sample, in 10^12; ``calls`` per evaluation (2 with classifier-free guidance, as one batch);
    ``parameters`` in 10^9; ``activations`` of a call for one sample, in GB; ``shape`` of a state."""

    name: str
    operations: float
    calls: int
    parameters: float
    activations: float
    shape: tuple[int, int, int]
    source: str
    activations_source: str


# Two operations per multiply-add. Activations: two bytes a value, attention not materialised, the widest layer's values and what waits for
# it (a U-Net's skip connections), rounded up.
MODELS = (
    ScaleModel(
        "Stable Diffusion 1.5, 512 x 512, guided",
        0.80,
        2,
        0.86,
        0.1,
        (4, 64, 64),
        "U-Net of 860 M parameters, 0.40 T multiply-adds on 64 x 64 latents",
        "4,096 positions x some 9,000 values, and skip connections of 15 MB",
    ),
    ScaleModel(
        "SDXL, 1024 x 1024, guided",
        6.0,
        2,
        2.57,
        0.2,
        (4, 128, 128),
        "U-Net of 2.6 G parameters, 3.0 T multiply-adds on 128 x 128 latents",
        "16,384 positions x some 3,800 values, and skip connections of 50 MB",
    ),
    ScaleModel(
        "Flux.1-dev, 1024 x 1024",
        79.0,
        1,
        11.9,
        0.45,
        (16, 128, 128),
        "12 G parameters; a token passes some 8.6 of them: 2 operations each on 4,608 tokens, without attention",
        "4,608 tokens x some 46,000 values of a block of width 3,072, its three projections and its feed-forward part",
    ),
)
GPUS = (1, 8, 64)
TEXT = """# Scale, on paper

Written by `{typed}`. **Nothing here was run at this size.** Assumed:

- a GPU with {peak:g} x 10^12 operations a second; a forward pass reaches {utilisation:.0%} of them;
- {samples} x_T in chunks of {batch_size}, so that at most {most_gpus} GPUs have work;
- as many network evaluations as the default tuning of 2M took on a Gaussian mixture with an exact score, at every budget; other
  models need more or fewer (below);
- a backward pass counts as two evaluations;
- no time for the decoder, for loading or for communication (a few numbers per iteration);
- memory of a GPU that holds one chunk: weights and activations in {half} bytes, and for a tuning the float32 states that one of
  all parameters, coefficients included, by differences held beyond a sampling, in chunks' x_T: {held}.
  No decoder, no text encoder. Beyond a dozen parameters (six steps) a network with gradients is tuned by backpropagation: the
  activations of all layers of one sample then come on top, and are not estimated: those rows say >=.

{hours}

The same tuning of other models took, at 128 x_T:

{others}

Operations of one forward pass, and activations of one sample in it:

{models}
"""


@dataclass
class ScaleOptions:
    """A table of hours."""

    peak: float = 989.0
    """Of a GPU in bfloat16, 10^12 operations a second (H100/H200 SXM, dense)."""
    utilisation: float = 0.4
    """Share of the peak that a forward pass reaches. An assumption: it was not measured here."""
    batch_size: int = 8
    """x_T in one call."""
    samples: int = 128
    """x_T of a tuning."""
    evaluated: int = 10_000
    """Samples of an evaluation."""
    steps: tuple[int, ...] = (5, 10)
    out: Path = ROOT / "docs" / "results" / "scale.md"


def main(argv: Sequence[str] | None = None) -> None:
    args = tyro.cli(ScaleOptions, args=argv, prog="python -m benchmarks scale", description=__doc__)
    if not 0 < args.utilisation <= 1:
        raise SystemExit(f"utilisation must lie in (0, 1], got {args.utilisation}")
    text = page(args, command("scale", argv))
    write_atomically(args.out, text.encode())
    print(text)


def evaluations(steps: int) -> tuple[int, str]:
    """What the default tuning of 2M took at ``steps`` with 128 x_T, teacher and grids included: of one model, whatever the
    budget, since another model's count would pass for growth. And where that was measured."""
    report = _result("tuning-cpu.json")
    for row in report["methods"]:
        if (row["method"], row["steps"]) == ("endpoint", steps):
            return row["evaluations"], f"tuning-cpu.json, {report['machine']['commit']}"
    raise SystemExit(f"tuning-cpu.json has no 'endpoint' at {steps} steps: run python -m benchmarks tuning --steps {steps}")


def others(steps: int) -> list[str]:
    """The same of other models, with the file and the commit of each."""
    found = []
    for model in ("fashion", "digits", "mixture"):
        report = _result(f"compare-{model}.json")
        for row in report["rows"]:
            if (row["label"], row["sampler"], row["steps"]) == ("endpoint", "dpmpp_2m", steps):
                found.append(f"{row['evaluations']:,} (compare-{model}.json, {report['machine']['commit']})")
    return found


def states(steps: int) -> tuple[float, str]:
    """What a tuning of all parameters by differences holds beyond a sampling, over the bytes of a chunk's x_T; and where that was
    measured."""
    report = _result("memory-cpu.json")
    peaks = {row["kind"]: row["peak"] for row in report["rows"] if row["steps"] == steps}
    if not {"sampling", "differences"} <= set(peaks):
        raise SystemExit(f"memory-cpu.json has no peaks at {steps} steps: run python -m benchmarks memory --steps {steps}")
    chunk = report["settings"]["batch_size"] * PIXELS * SINGLE
    return (peaks["differences"] - peaks["sampling"]) / chunk, f"memory-cpu.json, {report['machine']['commit']}"


def _result(name: str) -> dict[str, Any]:
    if not (found := read_result(name)):
        raise SystemExit(f"benchmarks/results must have {name}, from which this page is made")
    return found


def gigabytes(model: ScaleModel, batch_size: int, held: float) -> float:
    """On one GPU: weights, the activations of a chunk, and ``held`` times its states."""
    activations = model.activations * model.calls * batch_size
    return model.parameters * HALF + activations + held * batch_size * math.prod(model.shape) * SINGLE / 1e9


def hours(model: ScaleModel, count: float, args: ScaleOptions, gpus: int, units: float) -> float:
    """``count`` evaluations in ``units`` pieces that cannot be divided, on ``gpus``."""
    seconds = model.operations * model.calls / (args.peak * args.utilisation)
    share = math.ceil(units / min(gpus, units)) / units  # of the one that has most to do
    return count * seconds * share / 3600


def page(args: ScaleOptions, typed: str) -> str:
    held = {k: states(k) for k in args.steps}
    rows = []
    for model in MODELS:
        for k in args.steps:
            count, source = evaluations(k)
            count = count * args.samples // MEASURED
            # Beyond a dozen parameters the activations of a backward pass come on top.
            cells = _cells(model, count, args, args.samples, held[k][0], ">= " * (k >= 6))
            rows.append((model.name, f"tuning, {k} steps", f"{count:,}", source, *cells))
        count, what = args.evaluated * min(args.steps), f"{args.evaluated:,} samples, {min(args.steps)} steps"
        rows.append((model.name, what, f"{count:,}", "samples x steps", *_cells(model, count, args, args.evaluated, 0.0)))
    gpus = [f"{n} GPU{'s' if n > 1 else ''}" for n in GPUS]
    rule = f"| --- | --- | ---: | --- | {' | '.join('---:' for _ in GPUS)} | ---: |"
    heads, _, *hours_ = table(("model", "what", "evaluations", "counted in", *gpus, "GB a GPU"), rows)
    return TEXT.format(
        typed=typed,
        peak=args.peak,
        utilisation=args.utilisation,
        samples=args.samples,
        batch_size=args.batch_size,
        most_gpus=math.ceil(args.samples / args.batch_size),
        half=HALF,
        held=", ".join(f"{ratio:.0f} at {k} steps ({source})" for k, (ratio, source) in held.items()),
        hours="\n".join((heads, rule, *hours_)),
        others="\n".join(f"- {k} steps: {', '.join(others(k)) or 'not measured'}." for k in args.steps),
        models="\n".join(
            f"- {m.name}: {m.operations:g} x 10^12, {m.calls} per evaluation ({m.source}); {m.activations:g} GB ({m.activations_source})."
            for m in MODELS
        ),
    )


def _cells(model: ScaleModel, count: int, args: ScaleOptions, samples: int, held: float, bound: str = "") -> list[str]:
    """Hours on each number of GPUs, and gigabytes."""
    cells = [_time(hours(model, count, args, n, math.ceil(samples / args.batch_size))) for n in GPUS]
    return [*cells, f"{bound}{gigabytes(model, args.batch_size, held):.1f}"]


def _time(value: float) -> str:
    return f"{value:.1f} h" if value >= 1 else f"{value * 60:.0f} min" if value * 60 >= 1 else f"{value * 3600:.0f} s"
