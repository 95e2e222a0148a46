"""``ttune report``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tyro

from ttune.cli.arguments import ModelFlags, check_counts, check_paths, check_seed, usable


def report(
    sources: tyro.conf.Positional[tuple[Path, ...]],
    out: Path,
    model: str | None = None,
    n: int = 128,
    shown: int = 8,
    batch_size: int = 64,
    seed: int = 2**42,
    conditions: str | None = None,
    check_model: bool = True,
    loading: ModelFlags = ModelFlags(),  # noqa: B008 (frozen)
    quiet: bool = False,
) -> None:
    """Write one self-contained HTML page of schedules, evaluations and comparisons, and its figures as PNGs beside it.

    Example: ttune report ttune.json --model fashion --out report.html

    With --model the schedules are run beside their teacher, their start and the best untuned grid: samples from the same noise, and
    quality against seconds. Without it the page has what the files hold, and says what is missing.

    Args:
        sources: Schedule files, the JSON of ttune evaluate, and folders of ttune compare or ttune demo.
        out: The .html to write.
        model: As in ttune tune.
        n: x_T that the schedules are run on: 128 + K network evaluations each.
        shown: Samples that are shown.
        batch_size: Samples in one network call.
        seed: Sample i has seed SEED + i; the default meets no x_T of a tuning, an evaluation or a comparison.
        conditions: As in ttune tune.
        check_model: Refuse schedules that were tuned for another model than --model.
        loading: How the model is loaded.
        quiet: No progress bars.
    """
    from ttune.cli.models import imported
    from ttune.report import read_sources, write_page
    from ttune.storage.atomic_write import check_writable

    check_paths(sources=sources, out=out, prompts=loading.prompts)
    check_counts(batch_size=batch_size)
    check_seed(seed, n=n)
    found = read_sources(sources)
    check_writable(out)
    denoiser = None if model is None else loading.load(model)
    if denoiser is not None and not check_model:
        found = replace(found, entries=[replace(e, schedule=usable(e.schedule, denoiser, check_model=False)) for e in found.entries])
    drawn = None if conditions is None else imported("conditions", conditions)()
    options = {"n": n, "shown": shown, "batch_size": batch_size, "seed": seed, "conditions": drawn, "progress": not quiet}
    files = write_page(found, out, denoiser=denoiser, **options)
    print(f"Wrote {files[0]} and {len(files) - 1} PNGs beside it")
