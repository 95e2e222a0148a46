"""docs/explanation/architecture.md is what the imports say, and its arrows lead one way."""

from __future__ import annotations

import pytest

from benchmarks.pages import architecture


def test_the_page_is_what_the_imports_say() -> None:
    architecture.main(["--check"])


def test_every_folder_is_in_it() -> None:
    folders = {path.name for path in (architecture.ROOT / "ttune").iterdir() if (path / "__init__.py").exists()}
    assert folders == set(architecture.FOLDERS)


def test_no_folder_reaches_itself() -> None:
    imports = architecture.imported()
    assert [name for name in imports if name in architecture.reachable(name, imports)] == []
    assert architecture.reachable("network", imports) >= {"samplers", "noise"}


def test_another_page_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture, "purpose", lambda name: "another")
    with pytest.raises(SystemExit, match="run python -m benchmarks architecture"):
        architecture.main(["--check"])
