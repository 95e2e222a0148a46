"""``ttune report``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from ttune.cli.arguments import ModelFlags, check_counts, check_paths, check_seed, usable


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one self-contained HTML page of schedules, evaluations and comparisons, and its figures as PNGs beside it.

    Example: ttune report ttune.json --model fashion --out report.html

    With --model the schedules are run beside their teacher, their start and the best untuned grid: samples from the same noise, and
    quality against seconds. Without it the page has what the files hold, and says what is missing.
    """

    sources: tyro.conf.Positional[tuple[Path, ...]]
    """Schedule files, the JSON of ttune evaluate, and folders of ttune compare or ttune demo."""
    out: Path
    """The .html to write."""
    model: str | None = None
    """As in ttune tune."""
    samples: int = 128
    """Samples of every schedule: 128 + K network evaluations each."""
    shown: int = 8
    """Samples that are shown."""
    batch_size: int = 64
    """Samples in one network call."""
    seed: int = 2**42
    """Sample i has seed SEED + i; the default meets no starting noise of a tuning, an evaluation or a comparison."""
    conditions: str | None = None
    """As in ttune tune."""
    check_model: bool = True
    """Refuse schedules that were tuned for another model than --model."""
    quiet: bool = False
    """No progress bars."""
    loading: ModelFlags = ModelFlags()

    def run(self) -> None:
        from ttune.cli.models import imported
        from ttune.report import read_sources, write_page
        from ttune.storage.atomic_write import check_writable

        check_paths(sources=self.sources, out=self.out, prompts=self.loading.prompts)
        check_counts(batch_size=self.batch_size)
        check_seed(self.seed, samples=self.samples)
        found = read_sources(self.sources)
        check_writable(self.out)
        denoiser = None if self.model is None else self.loading.load(self.model)
        if denoiser is not None and not self.check_model:
            found = replace(found, entries=[replace(e, schedule=usable(e.schedule, denoiser, check_model=False)) for e in found.entries])
        files = write_page(
            found,
            self.out,
            denoiser=denoiser,
            n=self.samples,
            shown=self.shown,
            batch_size=self.batch_size,
            seed=self.seed,
            conditions=None if self.conditions is None else imported("conditions", self.conditions)(),
            progress=not self.quiet,
        )
        print(f"Wrote {files[0]} and {len(files) - 1} PNGs beside it")
