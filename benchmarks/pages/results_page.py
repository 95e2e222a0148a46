"""One page that draws all results: ``python -m benchmarks page`` writes benchmarks/results/index.html from the files beside it.

Self-contained (pictures inside, no scripts, no other addresses). Every result says command, machine, commit and versions, or that its file
does not; nothing is measured here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.pages.ratio_plot import ratio_plot
from benchmarks.result_paths import RESULTS, ROOT, parser_of
from ttune.storage.atomic_write import write_atomically

RELIABILITY = ROOT / "docs" / "results" / "reliability.md"
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: 2px 10px; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; background: white; border-radius: 4px; }
summary { cursor: pointer; margin: .6rem 0; }
.machine { color: #777; font-size: 13px; }
.missed { color: #c4420c; font-weight: 600; }
"""
TITLES = {
    "throughput": "What a step budget costs and gains",
    "kernels": "Kernels",
    "compare": "Tuning methods compared",
    "figures": "What tuning gives on the bundled model",
    "tuning": "What a tuning costs",
    "memory": "Memory of a tuning",
    "freeze": "Freezing time",
    "evaluation": "What an evaluation costs",
    "reliability": "What was tried to break it",
    "soak": "Thousands of tunings and samplings in one process",
    "fuzz": "Inputs that were not meant",
    "sanitize": "Kernels under sanitizers",
    "torches": "Beside other releases of torch",
}
MADE = ("fuzz", "sanitize", "torches")  # by `make`, and not by `python -m benchmarks`
ABOUT = ("cpu", "gpu", "cores", "threads", "commit", "tree", "torch", "triton", "cuda", "diffusers", "python")


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of("page", __doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of results (default: benchmarks/results)")
    folder = parser.parse_args(argv).results
    files = sorted(folder.glob("*.json"), key=lambda path: (_rank(path), path.name))
    if not files:
        raise SystemExit(f"results must be a folder with result files (*.json), got {str(folder)!r}")
    write_atomically(folder / "index.html", page(files).encode())
    print(f"wrote {folder / 'index.html'} from {len(files)} results")


def page(files: Sequence[Path]) -> str:
    contents = "".join(f'<li><a href="#{escape(path.stem)}">{escape(_title(path))}</a></li>' for path in files)
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>ttune: results</title><style>{STYLE}</style></head>'
    intro = "<h1>ttune: measured results</h1><p>Written by <code>python -m benchmarks page</code> from the files beside it.</p>"
    return f"{head}<body>{intro}<ul>{contents}</ul>{''.join(map(section, files))}</body></html>\n"


def section(path: Path) -> str:
    result: dict[str, Any] = json.loads(path.read_text())
    about = "".join(f'<p class="machine">{escape(line)}</p>' for line in _machines(result))
    picture = path.with_suffix(".png")
    drawn = ""
    if picture.exists():
        data = base64.b64encode(picture.read_bytes()).decode()
        drawn = f'<p><img alt="{escape(_title(path))}, as a picture" src="data:image/png;base64,{data}"></p>'
    elif any(record.get("ratios") for record in result.get("results", ())):
        drawn = ratio_plot(result["results"])
    page = RELIABILITY if path.name == "reliability.json" else path.with_suffix(".md")
    tables = markdown_tables(page.read_text()) if page.exists() else _tables(result)
    commands = "".join(f"<p><code>{escape(command)}</code></p>" for command in _commands(path, result))
    return f'<h2 id="{escape(path.stem)}">{escape(_title(path))}</h2>{commands}{about}{drawn}{tables}'


def _each(result: Mapping[str, Any], name: str) -> list[Any]:
    """``name`` of a result, or of its records where each has its own."""
    holders = [result] if name in result else [record for rows in _records(result).values() for record in rows if name in record]
    return [holder[name] for holder in holders]


def _machines(result: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(map(_machine, _each(result, "machine")))) or ["no machine and no commit recorded"]


def _machine(machine: Mapping[str, Any]) -> str:
    known = {name: machine[name] for name in ABOUT if machine.get(name) not in (None, "", "unknown")}
    missing = [f"no {name} recorded" for name in ("cpu", "commit") if name not in known]
    return ", ".join([*(f"{name} {value}" for name, value in known.items()), *missing])


def _commands(path: Path, result: Mapping[str, Any]) -> list[str]:
    """What wrote a result, or its records; where the file does not say, the command that writes files of its name."""
    kind = path.stem.split("-")[0]
    return list(dict.fromkeys(_each(result, "command"))) or [f"make {kind}" if kind in MADE else f"python -m benchmarks {kind}"]


def _records(result: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The lists of records, and the records that are named by a key, which becomes their first value."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for name, value in result.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            found[name] = value
        elif isinstance(value, dict) and value and all(isinstance(record, dict) for record in value.values()):
            found[name] = [{name: key, **record} for key, record in value.items()]
    return found


def _rank(path: Path) -> int:
    known = list(TITLES)
    kind = path.stem.split("-")[0]
    return known.index(kind) if kind in known else len(known)


def _title(path: Path) -> str:
    kind, _, rest = path.stem.partition("-")
    return f"{TITLES.get(kind, kind)}{f' ({rest})' if rest else ''}"


def markdown_tables(text: str) -> str:
    """The tables of a page of Markdown, each folded under the line before it."""
    parts, before, rows = [], "", []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if set("".join(cells)) - set("-: "):
                rows.append(cells)
        elif rows:
            parts.append(_folded(before or "Table", rows))
            before, rows = "", []
        if line.strip() and not line.startswith(("|", "#")):
            before = line.strip("* ")
    return "".join(parts)


def _tables(result: Mapping[str, Any]) -> str:
    """All records, their plain values and spreads as columns; kernels case by case. The plain values of a result without records."""
    parts = []
    plain = {key: value for key, value in result.items() if key not in ("command", "machine", "unit")}
    for name, records in (_records(result) or {"result": [plain]}).items():
        groups: dict[str, list[dict[str, str]]] = {}
        for record in records:
            shown = {key: v for key, v in record.items() if key not in ("command", *(("case", "times") if "case" in record else ()))}
            if "machine" in shown:  # named above the table; here, which one it was
                shown["machine"] = {"commit": shown["machine"].get("commit", "")}
            if "case" in record and "ttune" in record.get("times", ()):
                shown["us"] = record["times"]["ttune"]
            groups.setdefault(record.get("case", name), []).append(_flat(shown))
        for title, rows in groups.items():
            columns = list(dict.fromkeys(key for row in rows for key in row))
            parts.append(_folded(f"{title}: {len(rows)}", [columns, *[[row.get(c, "") for c in columns] for row in rows]]))
    return "".join(parts)


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and set(value) == {"median", "low", "high"}:
            flat[name] = f"{value['median']:.3g} [{value['low']:.3g}, {value['high']:.3g}]"
        elif isinstance(value, dict):
            flat |= _flat(value, f"{name} ")
        elif key == "ratios":
            for ratio in value:
                spread, goal = ratio["value"], ratio["at_most"]
                verdict = "" if goal is None else f" ≤ {goal:.3g} {'ok' if ratio['met'] else 'MISSED'}"
                flat[f"{ratio['subject']} / {ratio['rival']}"] = f"{spread['median']:.2f}{verdict}"
        elif isinstance(value, float):
            flat[name] = f"{value:.4g}"
        elif isinstance(value, list):
            flat |= _listed(name, value)
        elif isinstance(value, (int, str)):
            flat[name] = str(value)
    return flat


def _listed(name: str, values: Sequence[Any]) -> dict[str, str]:
    """A shape as such, a few numbers, and how many words there are: of faults; each may fill a page. The rest is left out."""
    if all(isinstance(value, str) for value in values):
        return {name: str(len(values))}
    if len(values) > 4:
        return {}
    whole = all(isinstance(value, int) for value in values)
    return {name: "x".join(map(str, values)) if whole else ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in values)}


def _folded(title: str, rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in rows[0])
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows[1:])
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return f"<details><summary>{escape(title)}</summary>{table}</details>"


def _cell(text: str) -> str:
    return f'<td class="missed">{escape(text)}</td>' if "MISSED" in text else f"<td>{escape(text)}</td>"
