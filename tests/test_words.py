"""One word for one thing: the words of the field (network time, solver time, validation, test), and plain ones, wherever a user reads."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUFFIXES = (".py", ".md", ".h", ".cpp", ".cu")
READ = ("ttune/**/*", "csrc/**/*", "docs/**/*", "README.md", "benchmarks/**/*.py")
INSTEAD = {
    "told": "is passed the network time",
    "untold": "without its network time",
    "stand": "is at, lies",
    "stands": "is at, lies",
    "stood": "was at",
    "ear": "timestep hook",
    "hears": "is passed",
    "heard": "was passed",
    "clock": "evaluation counter, timer",
    "buy": "gain",
    "buys": "gains",
    "bought": "gained",
    "whoever": "a caller, a reader, or the passive",
    "nobody": "the passive",
    "of which": "a second sentence",
    "held-out": "validation or test",
    "held out": "validation or test",
    "drop told": "times only",
}
BANNED = {word: re.compile(rf"(?<![a-z]){word}(?![a-z])") for word in INSTEAD}
# What 0.1 called these, in the reader of its files, in that reader's page and in the files themselves.
OLD = {"conditioning": "network_times", "holdout": "validation"}
STORED = "kept: ReturnedEntry"  # a key of the comparisons that are on users' disks
READER = ("ttune/schedule/file.py", "docs/reference/file_format.md")


def pages() -> Iterator[Path]:
    for pattern in READ:
        yield from (path for path in ROOT.glob(pattern) if path.suffix in SUFFIXES and "corpus" not in path.parts)


def faults(text: str) -> list[str]:
    """Every banned word, with its line; words of identifiers are words too."""
    found = []
    for number, line in enumerate(text.replace("_", " ").lower().splitlines(), 1):
        found += [f"line {number}: {word!r}, say {INSTEAD[word]}" for word, pattern in BANNED.items() if pattern.search(line)]
    return found


def test_pages_of_every_kind_are_read() -> None:
    found = list(pages())
    assert {path.suffix for path in found} == set(SUFFIXES)
    assert {path.relative_to(ROOT).parts[0] for path in found} == {"ttune", "csrc", "docs", "README.md", "benchmarks"}


@pytest.mark.parametrize(
    "line", ["what the network is told", "def _told(x):", "A step stands there", "a clock", "the last of which", "Held-out x_T"]
)
def test_a_banned_word_is_found(line: str) -> None:
    assert len(faults(f"fine\n{line}")) == 1


@pytest.mark.parametrize("line", ["standard, understands, earlier, clockwise", "a shell, untoldable"])
def test_others_are_not(line: str) -> None:
    assert not faults(line)


def test_no_banned_word_is_written() -> None:
    found = [f"{path.relative_to(ROOT)}, {fault}" for path in pages() for fault in faults(path.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


def test_nothing_is_called_kept() -> None:
    """As a verb it is fine; a name says what it holds."""
    names = {
        f"{path.relative_to(ROOT)}:{token.start[0]}"
        for path in pages()
        if path.suffix == ".py"
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        if token.type == tokenize.NAME and "kept" in token.string.lower().split("_") and token.line.strip() != STORED
    }
    assert not names, "\n".join(sorted(names))


def test_names_of_0_1_are_only_in_the_reader_of_its_files() -> None:
    for path in pages():
        name = path.relative_to(ROOT).as_posix()
        if name not in READER:
            words = re.findall(r"\b(?:conditioning|holdout)\b", path.read_text(encoding="utf-8"))
            assert not words, f"{name}: {words[0]}, say {OLD[words[0]]}"
