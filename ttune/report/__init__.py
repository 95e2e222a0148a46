"""``ttune report``: one self-contained page of what a tuning, an evaluation or a comparison found, and PNGs beside it."""

from ttune.report.page import write_page
from ttune.report.sources import Sources, read_sources

__all__ = ["Sources", "read_sources", "write_page"]
