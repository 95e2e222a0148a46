"""``ttune report``."""

from __future__ import annotations

from pathlib import Path

import tyro

from ttune.commands.arguments import check_counts, check_paths, check_seed


def report(
    sources: tyro.conf.Positional[tuple[Path, ...]],
    out: Path,
    model: str | None = None,
    n: int = 128,
    shown: int = 8,
    chunk: int = 64,
    seed: int = 2**42,
    conditions: str | None = None,
    guidance_scale: float | None = None,
    prompts: Path | None = None,
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
        chunk: Samples in one network call.
        seed: Sample i has seed SEED + i; the default meets no x_T of a tuning, an evaluation or a comparison.
        conditions: As in ttune tune.
        guidance_scale: Classifier-free guidance of a bundled or diffusers model.
        prompts: A file with one prompt a line, for a text-conditional diffusers model; seed i has line i modulo their number.
        quiet: No progress bars.
    """
    from ttune.atomic import check_writable
    from ttune.models import imported, load_model
    from ttune.report import read_sources, write_page

    check_paths(sources=sources, out=out, prompts=prompts)
    check_counts(chunk=chunk)
    check_seed(seed, n=n)
    found = read_sources(sources)
    check_writable(out)
    denoiser = None if model is None else load_model(model, guidance_scale=guidance_scale, prompts=prompts)
    drawn = None if conditions is None else imported("conditions", conditions)()
    options = {"n": n, "shown": shown, "chunk": chunk, "seed": seed, "conditions": drawn, "progress": not quiet}
    files = write_page(found, out, denoiser=denoiser, **options)
    print(f"Wrote {files[0]} and {len(files) - 1} PNGs beside it")
