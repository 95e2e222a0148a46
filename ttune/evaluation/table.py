"""A table: the same rows as aligned text for the terminal, as markdown, and as HTML in the page of ``ttune report``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """``rows`` begin with their heading; the columns ``left`` hold words, the others numbers. ``notes`` are sentences below it."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)
    caption: str = ""
    notes: Sequence[str] = ()

    def text(self) -> str:
        """Heads, a rule, and a line per row; columns of words are flush left, the others flush right."""
        lines = [self.heads, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

        def line(words: Sequence[str]) -> str:
            pairs = enumerate(zip(words, widths, strict=True))
            return "  ".join(word.ljust(width) if i in self.left else word.rjust(width) for i, (word, width) in pairs).rstrip()

        return "\n".join([line(self.heads), "-" * (sum(widths) + 2 * (len(widths) - 1)), *map(line, self.rows)])

    def markdown(self) -> str:
        lines = [self.heads, ["---:"] * len(self.heads), *self.rows]
        return "\n".join(f"| {' | '.join(word.replace('|', '/') for word in line)} |" for line in lines)
