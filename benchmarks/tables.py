"""Tables of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], left: int | None = None) -> list[str]:
    """The lines of a table. Columns from the number ``left`` on hold numbers, and are aligned to the right; by default none is."""
    words = len(heads) if left is None else left
    rule = ["---" if i < words else "---:" for i in range(len(heads))]
    return [f"| {' | '.join(map(str, row))} |" for row in (heads, rule, *rows)]
