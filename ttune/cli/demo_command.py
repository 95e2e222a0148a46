"""``ttune demo``."""

from __future__ import annotations

from pathlib import Path

from ttune.cli.arguments import check_paths


def demo(out: Path = Path("runs/demo"), steps: int = 5, samples: int = 512, quiet: bool = False) -> None:
    """Tune the bundled model and show what it bought: a table, a picture, three schedules.

    Example: ttune demo

    Args:
        out: Folder for ddim.json, dpmpp_2m.json, dpmpp_2m_coefficients.json, report.json and report.png.
        steps: Step budget.
        samples: Held-out x_T that every line of the table is judged on.
        quiet: No progress bars.
    """
    from ttune.cli.demo import run_demo

    check_paths(out=out)
    run_demo(out, steps=steps, samples=samples, progress=not quiet)
