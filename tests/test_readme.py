"""Every Python block of the README and of docs/ runs, every link between pages leads somewhere, and the README stays short and plain."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests import readme_page
from tests.adapters import hosts_page

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "gallery/README.md", ROOT / "integrations/comfyui/README.md"]
BLOCKS = [(page, i, block) for page in PAGES for i, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))]

MOST_LINES = 140
LONGEST_MEAN = 17.0  # words a sentence; READMEs that are read to the end have 13 to 17


def given(page: Path, block: str, folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    if page == README:
        return readme_page.given(folder, block, patch)
    return hosts_page.given(page, folder)


@pytest.mark.parametrize(
    ("page", "block"), [(page, block) for page, _, block in BLOCKS], ids=[f"{page.name}: {i}" for page, i, _ in BLOCKS]
)
def test_block_runs(page: Path, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(block, given(page, block, tmp_path, monkeypatch))


def anchors(page: Path) -> set[str]:
    """Those of the headings, as the site and code hosts make them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}, headings are {sorted(anchors(target))}"


def sentences(text: str) -> list[str]:
    """Those of the running text of a page of Markdown: no code, tables, pictures, headings or tags; a link is its words."""
    text = re.sub(r"^```[^`]*```$|^(?: {4}|[|#!<]).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"<[^>]+>|[*`]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text))
    paragraphs = re.split(r"\n\s*\n|^- ", text, flags=re.MULTILINE)
    found = [part.strip() for paragraph in paragraphs for part in re.split(r"(?<=[.!?])\s+", paragraph)]
    return [sentence for sentence in found if re.search(r"\w", sentence)]


def test_sentences_are_counted_in_running_text_only() -> None:
    page = "# One\n\nTwo words. [Three](four.md) more `words`!\n\n    code. code.\n\n| a | b. |\n\n```\nx. y.\n```\n- Last."
    assert sentences(page) == ["Two words.", "Three more words!", "Last."]


def test_the_readme_is_short_and_its_sentences_too() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    words = [len(sentence.split()) for sentence in sentences(text)]
    assert sum(words) / len(words) <= LONGEST_MEAN, f"{sum(words) / len(words):.1f} words a sentence"
