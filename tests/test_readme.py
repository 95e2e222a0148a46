"""Every Python block of the README and of docs/ runs."""

import re
from pathlib import Path

import pytest

from tests.adapters.hosts_page import given

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [(page, block) for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[f"{page.name}: {block.splitlines()[0][:40]}" for page, block in BLOCKS])
def test_block_runs(page: Path, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(block, given(page, tmp_path))
