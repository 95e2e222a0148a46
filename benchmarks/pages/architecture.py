"""docs/explanation/architecture.md: the tree of ttune/ and who imports whom, drawn from the imports themselves.

python -m benchmarks architecture            # writes the page
python -m benchmarks architecture --check    # exit status 1 where the page is not what it would write
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping, Sequence

from benchmarks.result_paths import ROOT, parser_of
from ttune.storage.atomic_write import write_atomically

PAGE = ROOT / "docs" / "explanation" / "architecture.md"
# From what users call to what knows least; the contracts in pyproject.toml forbid the other direction.
FOLDERS = (
    "cli",
    "report",
    "comparison",
    "adapters",
    "tuning",
    "evaluation",
    "freezing",
    "sampling",
    "network",
    "schedule",
    "samplers",
    "noise",
    "kernels",
    "numpy",
    "storage",
    "messages",
    "zoo",
)
TEXT = """# Architecture

    noise schedule -> Schedule -> tune -> Schedule' -> SAMPLERS[name] -> Tableau -> fold -> Plan -> loop -> kernel -> backend

- Everything left of the loop is small: frozen float64 values. Everything right of it touches image tensors.
- A `Schedule` says where the steps are (`times`) and which time is passed to the network (`network_times`).
- A sampler is a function from steps to a `Tableau`: numbers, never an image. Nearly every sampler is, at each evaluation, a linear
  combination of the state, retained states, network outputs and noise.
- `fold` puts prediction type, guidance and clipping into the same rows, and a `Plan` is those rows with tensors on a device.
- So one operator, `linear_update`, serves all samplers. A kernel knows nothing of diffusion.

## The tree

| folder | what it is | imports |
|---|---|---|
{rows}

At the top of `ttune/` are the public faces: `ops` (the operators), `nn` (embeddings as modules), `distributed` (`torchrun`), `version`.
`tests/` has the same folders; `csrc/` has `math/` (formulas, once for CPU and GPU), `cpu/`, `cuda/`, `torch/` and `numpy/`.

## Who imports whom

An arrow is an import; what follows from other arrows is left out. `make lint` holds the direction, and that there is no circle.

```mermaid
graph TD
{arrows}
```

Written by `python -m benchmarks architecture`.
"""


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of("architecture", __doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    if not parser.parse_args(argv).check:
        write_atomically(PAGE, page().encode())
    elif PAGE.read_text() != page():
        sys.exit("docs/explanation/architecture.md is not what the imports say: run python -m benchmarks architecture")


def page() -> str:
    imports = imported()
    rows = [f"| `{name}/` | {purpose(name)} | {', '.join(sorted(imports[name], key=FOLDERS.index)) or '-'} |" for name in FOLDERS]
    arrows = [f"    {name} --> {other}" for name in FOLDERS for other in sorted(needed(name, imports), key=FOLDERS.index)]
    return TEXT.format(rows="\n".join(rows), arrows="\n".join(arrows))


def imported() -> dict[str, set[str]]:
    """Folder -> the other folders of ttune that its files import, when they are loaded or later; not for type checking alone."""
    found: dict[str, set[str]] = {name: set() for name in FOLDERS}
    for name in FOLDERS:
        for path in (ROOT / "ttune" / name).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text())))
            for_types = {id(inner) for node in nodes if _for_types(node) for inner in ast.walk(node)}
            found[name] |= {folder for node in nodes if id(node) not in for_types for folder in _folders(node)} - {name}
    return found


def needed(name: str, imports: Mapping[str, set[str]]) -> set[str]:
    """The imports of a folder that do not follow from others of them."""
    return imports[name] - {far for near in imports[name] for far in reachable(near, imports) if near != far}


def reachable(name: str, imports: Mapping[str, set[str]]) -> set[str]:
    found, ahead = set(), {*imports[name]}
    while ahead := ahead - found:
        found |= ahead
        ahead = {other for near in ahead for other in imports[near]}
    return found


def purpose(name: str) -> str:
    """The first sentence of the folder's docstring."""
    doc = ast.get_docstring(ast.parse((ROOT / "ttune" / name / "__init__.py").read_text())) or ""
    return re.sub(r":\w+:`([^`]+)`", r"`\1`", " ".join(doc.split("\n\n")[0].split()).replace("``", "`")).rstrip(".")


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _folders(node: ast.AST) -> list[str]:
    """The folders of ttune that an import names."""
    modules: list[str] = []
    if isinstance(node, ast.ImportFrom) and node.module is not None:
        modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    elif isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    parts = [module.split(".") for module in modules]
    return [part[1] for part in parts if part[0] == "ttune" and part[1:] and part[1] in FOLDERS]
