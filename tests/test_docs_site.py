"""The docs site: tutorials run and show outputs, troubleshooting quotes real messages, every page is in the navigation."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.ipynb"))
TROUBLE = (DOCS / "troubleshooting.md").read_text()
# Messages of other programs, which the table has in quotation marks, are not looked for.
MESSAGES = [cell for cell in re.findall(r"^\| (`.*?) \| ", TROUBLE, re.MULTILINE) if not cell.startswith("`tuned by ttune`")]


def cells(tutorial: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(tutorial.read_text())["cells"] if cell["cell_type"] == kind]


@pytest.mark.slow
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs(tutorial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in cells(tutorial, "code"):
        exec("".join(cell["source"]), names)


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_was_executed_from_top_to_bottom_without_errors(tutorial: Path) -> None:
    code = cells(tutorial, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error"]


@pytest.fixture(scope="module")
def messages() -> str:
    """The source of ttune, its string literals joined where one follows the other."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "ttune").rglob("*.py")))
    return re.sub(r'"\s*\n\s*f?"', "", source)


@pytest.mark.parametrize("message", MESSAGES)
def test_troubleshooting_quotes_a_message_of_the_code(message: str, messages: str) -> None:
    for piece in re.findall(r"`([^`]+)`", message):
        assert piece.strip() in messages, f"{piece!r} is in no message of today"


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = {path.relative_to(DOCS).as_posix() for path in [*DOCS.rglob("*.md"), *TUTORIALS]}
    listed = set(re.findall(r": ([\w/.-]+\.(?:md|ipynb))$", nav, re.MULTILINE))
    assert pages == {page for page in listed if not page.startswith("repository/")}
    assert all((ROOT / page.removeprefix("repository/")).is_file() for page in listed - pages)


@pytest.fixture(scope="module")
def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lists_are_made_of_the_registries(hooks: Any) -> None:
    from ttune.noise.grids import GRIDS
    from ttune.samplers import SAMPLERS
    from ttune.tuning import METHODS

    for make, names in ((hooks.samplers, SAMPLERS), (hooks.spacings, GRIDS), (hooks.methods, METHODS)):
        assert re.findall(r"^\| `(\w+)` \|", make(), re.MULTILINE) == list(names)


def test_marks_name_lists_that_there_are(hooks: Any) -> None:
    marks = [mark for page in DOCS.rglob("*.md") for mark in hooks.MARK.findall(page.read_text())]
    assert {name for name, _ in marks} == set(hooks.GENERATED)
    from ttune.cli.main import COMMANDS

    assert {command for name, command in marks if name == "help"} == set(COMMANDS)


def test_a_link_out_of_the_docs_is_moved_into_the_site(hooks: Any) -> None:
    page = type("Page", (), {"file": type("File", (), {"abs_src_path": str(DOCS / "results/quality.md"), "src_uri": "results/quality.md"})})
    moved = hooks.on_page_markdown("[a](../../gallery/README.md) [b](../install.md#extras) [c](https://x.org/y)", page=page)
    assert moved == "[a](../repository/gallery/README.md) [b](../install.md#extras) [c](https://x.org/y)"


def test_roles_of_docstrings_become_code(hooks: Any) -> None:
    assert hooks.on_page_content("see :func:<code>~ttune.tune</code>.") == "see <code>ttune.tune</code>."


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="make docs installs it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "true"}, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    page = (tmp_path / "site/reference/python/index.html").read_text()
    assert "ttune.Denoiser" in page
    assert not re.search(r":(func|class|meth):", page)
