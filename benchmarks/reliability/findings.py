"""What other commands found, for the page of reliability: each result with its own machine and commit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.result_paths import RESULTS

STEPS = 8  # the budget whose throughput and quality are shown


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    return [f"| {' | '.join(map(str, row))} |" for row in (heads, ["---"] * len(heads), *rows)]


def _read(name: str) -> dict[str, Any]:
    """A result; empty where there is none."""
    path = RESULTS / name
    return json.loads(path.read_text()) if path.exists() else {}


def placed(result: Mapping[str, Any]) -> str:
    """The machine and the commit of a result."""
    about = result.get("machine", {})
    return f"{about.get('cpu') or 'machine not recorded'}, commit {about.get('commit') or 'not recorded'}"


def sanitized() -> list[tuple[str, str]]:
    what, result = "tests of the kernels under AddressSanitizer and UndefinedBehaviorSanitizer", _read("sanitize.json")
    if not result:
        return [(what, "not run")]
    reports = result["reports"]
    number = len(reports) if isinstance(reports, list) else reports
    return [(f"{what} ({placed(result)})", f"{result['passed']} passed, {result['failed']} failed, {number} reports of the sanitizers")]


def torches() -> list[tuple[str, str]]:
    return [
        (
            f"tests of the operators, the loops and the tuner beside torch {row['torch']} ({placed(row)})",
            f"{row['passed']:,} passed, {row['failed']} failed",
        )
        for row in _read("torches.json").get("results", ())
    ] or [("`make torches`", "not run")]


def fuzzed() -> list[tuple[str, str]]:
    result = _read("fuzz.json")
    if not result:
        return [("inputs of `make fuzz`", "not run")]
    return [
        (
            f"fuzzing, {name}: inputs, of them accepted, faults ({placed(result)})",
            f"{row['inputs']:,}{f' of {a:,} asked for' if (a := row.get('asked', row['inputs'])) > row['inputs'] else ''}, "
            f"{row['accepted']:,}, {len(row['faults'])}",
        )
        for name, row in result["kinds"].items()
    ]


def soaked() -> list[tuple[str, str]]:
    result = _read("soak.json")
    if not result:
        return [("`make soak`", "not run")]
    mebibytes = lambda state: "not recorded" if state is None else f"{state['bytes'] / 2**20:.1f}"  # noqa: E731
    return [
        (
            f"{row['times']:,} {name} in one process ({placed(result)}): "
            "resident memory of the whole process in MiB after 1, a tenth and all",
            ", ".join(mebibytes(row.get(state)) for state in ("first", "warm", "end")),
        )
        for name, row in result["work"].items()
    ]


def throughput() -> list[str]:
    """A sampling's time over eager code's, of the cells in float32 at one budget."""
    result = _read("throughput-cpu.json")
    cells = [c for c in result.get("cells", ()) if c["steps"] == STEPS and c["dtype"] == "float32" and "eager" in c["milliseconds"]]
    if not cells:
        return []
    rows = []
    for cell in cells:
        ours = {name: spread for name, spread in cell["of_eager"].items() if name.startswith("ttune")}
        others = {name: spread for name, spread in cell["of_eager"].items() if name not in ours}
        shape, sampler = "x".join(map(str, cell["shape"])), cell["sampler"] + ", guided" * cell["guided"]
        milliseconds = f"{cell['milliseconds']['eager']['median']:.3g}"
        rows.append((cell["network"], sampler, shape, milliseconds, _fastest(ours), _fastest(others)))
    heads = (
        "network",
        "sampler",
        "batch",
        "eager code, ms",
        "ttune's fastest, of eager [spread]",
        "fastest of the others, of eager [spread]",
    )
    intro = (
        f"Of one sampling in {STEPS} steps, float32: benchmarks/results/throughput-cpu.json, {placed(result)}. Spreads are quartiles of "
        "the rounds, of fewer than fifteen the least and the greatest."
    )
    return ["", "## Throughput", "", intro, "", *table(heads, rows)]


def _fastest(contestants: Mapping[str, Mapping[str, float]]) -> str:
    if not contestants:
        return "none"
    name = min(contestants, key=lambda name: contestants[name]["median"])
    spread = contestants[name]
    return f"{name}: {spread['median']:.2f} [{spread['low']:.2f}, {spread['high']:.2f}]"


def quality() -> list[str]:
    """What a budget buys on the bundled model: untuned and tuned, by the two benchmarks that measure it."""
    heads = ("sampler", "steps", "schedule", "RMSE to the teacher", "Fréchet distance to the teacher's", "to real images")
    parts, measured, compared = [], _read("throughput-cpu.json"), _read("compare-fashion.json")
    rows = [q for q in measured.get("quality", ()) if q["steps"] == STEPS]
    if rows:
        shown = [
            (q["sampler"], q["steps"], q["label"], *map(_figure, (q["rmse"], q["frechet_to_teacher"], q["frechet_to_real"]))) for q in rows
        ]
        parts += ["", f"{rows[0]['n']} x_T: benchmarks/results/throughput-cpu.json, {placed(measured)}.", "", *table(heads, shown)]
    if compared.get("rows"):
        budgets = {row["steps"] for row in compared["rows"]}
        steps = STEPS if STEPS in budgets else max(budgets)
        shown = [
            (row["sampler"], steps, row["label"], *map(_figure, (row["rmse"], row["frechet"], row["real"])))
            for row in compared["rows"]
            if row["steps"] == steps
        ]
        parts += [
            "",
            f"{compared['test_samples']} x_T: benchmarks/results/compare-fashion.json, {placed(compared)}.",
            "",
            *table(heads, shown),
        ]
    features = compared.get("features") or next((q.get("features") for q in rows), None)
    about = f" Fréchet distances are of {features}: not FID." if features else ""
    return ["", "## Quality", "", f"On the bundled model, held-out x_T.{about}", *parts] if parts else []


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
