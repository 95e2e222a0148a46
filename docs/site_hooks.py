"""What mkdocs does beyond Markdown: pages and files of the repository that lie outside docs/, and lists that are made from the code.

A page may link to any file of the repository: the file, and what it links to in turn, becomes part of the site. A line
``<!-- generated: NAME -->`` is replaced by the list of that name in :data:`GENERATED`, or by a command's help (``help tune``).
"""

from __future__ import annotations

import inspect
import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from posixpath import relpath
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)\s]*)?\))")
MARK = re.compile(r"^<!-- generated: (\w+)(?: (\w+))? -->$", re.MULTILINE)
ROLE = re.compile(r":(?:func|class|mod|meth|data|attr):<code>~?([^<]+)</code>")


def uri_of(path: Path) -> str:
    """Where a file of the repository is in the site's sources."""
    return path.relative_to(DOCS).as_posix() if path.is_relative_to(DOCS) else f"repository/{path.relative_to(ROOT).as_posix()}"


def links_outside(page: Path) -> Iterator[Path]:
    """The files outside docs/ that a page of Markdown links to."""
    for _, link, _ in LINK.findall(page.read_text(encoding="utf-8")):
        target = (page.parent / link).resolve()
        if target.is_file() and target.is_relative_to(ROOT) and not target.is_relative_to(DOCS):
            yield target


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    waiting, known = [*DOCS.rglob("*.md"), ROOT / "CHANGELOG.md"], set[Path]()
    while waiting:
        page = waiting.pop()
        found = {page, *links_outside(page)} - known - set(DOCS.rglob("*"))
        known |= found
        waiting += [path for path in found if path.suffix == ".md"]
    for path in sorted(known):
        files.append(File.generated(config, uri_of(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    source = Path(page.file.abs_src_path)

    def moved(match: re.Match[str]) -> str:
        target = (source.parent / match[2]).resolve()
        if not target.is_relative_to(ROOT):
            return match[0]
        return f"{match[1]}{relpath(uri_of(target), Path(page.file.src_uri).parent.as_posix())}{match[3]}"

    return MARK.sub(lambda match: GENERATED[match[1]](*filter(None, [match[2]])), LINK.sub(moved, markdown))


def on_page_content(html: str, **_: Any) -> str:
    """Sphinx's roles, which docstrings are written with, as plain code."""
    return ROLE.sub(r"<code>\1</code>", html)


def help_of(command: str) -> str:
    from ttune.cli.main import main

    os.environ |= {"COLUMNS": "84", "NO_COLOR": "1"}
    with redirect_stdout(io.StringIO()) as printed, suppress(SystemExit):
        main([command, "--help"])
    return f"```text\n{printed.getvalue().strip()}\n```"


def samplers() -> str:
    from ttune.samplers import SAMPLERS, sampler_options

    return _table(("sampler", "options", "what it is"), {name: (sampler_options(name), SAMPLERS[name]) for name in SAMPLERS})


def spacings() -> str:
    from ttune.noise.grids import GRIDS

    return "\n".join(["| spacing | what it is |", "| --- | --- |", *(f"| `{name}` | {_first_line(GRIDS[name])} |" for name in GRIDS)])


def methods() -> str:
    from ttune.tuning.methods.registry import METHODS, fields_of

    return _table(("method", "settings", "what it is"), {name: (fields_of(name), METHODS[name]) for name in METHODS})


def _table(heads: tuple[str, str, str], rows: Mapping[str, tuple[Mapping[str, Any], Any]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "| --- | --- | --- |"]
    for name, (settings, described) in rows.items():
        words = ", ".join(f"`{setting}={value!r}`" for setting, value in settings.items())
        lines.append(f"| `{name}` | {words} | {_first_line(described)} |")
    return "\n".join(lines)


def _first_line(described: Any) -> str:
    """The first paragraph of a docstring, fit for a cell."""
    return " ".join((inspect.getdoc(described) or "").split("\n\n")[0].split()).replace("|", "\\|").replace("``", "`")


GENERATED = {"help": help_of, "samplers": samplers, "spacings": spacings, "methods": methods}
