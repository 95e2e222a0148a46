"""What ``compare`` returns: the result of a comparison that can be shown and saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from ttune.comparison.plot import write_plot
from ttune.comparison.result import ComparisonResult
from ttune.comparison.table import markdown_table, text_table
from ttune.storage.atomic_write import write_atomically


@dataclass(frozen=True)
class Comparison(ComparisonResult):
    """A :class:`ComparisonResult`; ``print(comparison.table())`` shows it, :meth:`save` writes JSON, markdown and, with matplotlib, the
    plot."""

    def table(self) -> str:
        return text_table(self)

    def markdown(self) -> str:
        return markdown_table(self)

    def save(self, path: str | PathLike[str], extra: Mapping[str, Any] | None = None) -> list[Path]:
        """Write ``path`` (JSON, with ``extra``), and beside it the table (.md, .txt) and, with matplotlib, the plot (.png)."""
        path, report = Path(path), self.to_dict()
        texts = {
            path: _by_lines(report | dict(extra or {})),
            path.with_suffix(".txt"): self.table() + "\n",
            path.with_suffix(".md"): self.markdown(),
        }
        for file, text in texts.items():
            write_atomically(file, text.encode())
        files = list(texts)
        return files if find_spec("matplotlib") is None else [*files, write_plot(report, path.with_suffix(".png"))]


def _by_lines(content: Mapping[str, Any]) -> str:
    """JSON with an entry of a list on a line: hundreds of pairs stay readable, and a difference of two files small."""

    def entry(value: Any) -> str:
        if not isinstance(value, list):
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        return "[\n" + ",\n".join(json.dumps(v, ensure_ascii=False, allow_nan=False) for v in value) + "\n]"

    return "{\n" + ",\n".join(f"{json.dumps(key)}: {entry(value)}" for key, value in content.items()) + "\n}\n"
