"""Two results of the same benchmark side by side: which ratios changed by more than their spread."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.result_paths import ROOT

# Of the median, since quartiles within one process do not see what differs between two: where memory lies above all. Six processes of
# one commit (no network, 4 steps, float32, 15 rounds; 2 cores, EPYC) make 480 pairs of ratios; beyond their quartiles 38 lay apart by more
# than 5 %, 14 by more than 10 %, one by more than 15 %.
LEAST = 0.15
ENOUGH = 5  # rounds: of fewer, the extremes part by chance too often (see timing.QUARTILES), and nothing is called a regression


@dataclass(frozen=True)
class Change:
    """One ratio in both results: medians, and whether the spreads of the two do not meet."""

    name: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    decided: bool = True

    @property
    def regressed(self) -> bool:
        """Slower, beyond both spreads and by more than ``LEAST``."""
        return self.decided and self.after["low"] > self.before["high"] and self.after["median"] > (1 + LEAST) * self.before["median"]

    @property
    def improved(self) -> bool:
        return self.decided and self.after["high"] < self.before["low"] and self.after["median"] < self.before["median"] / (1 + LEAST)

    def __str__(self) -> str:
        texts = [f"{s['median']:.3f} [{s['low']:.3f}, {s['high']:.3f}]" for s in (self.before, self.after)]
        return f"{self.name}: {texts[0]} -> {texts[1]}"


def compare_results(a: str, b: str, name: str) -> int:
    """Print what changed from ``a`` to ``b``: paths of result files, or commits that have ``benchmarks/results/NAME``.

    Ratios of times, and of ttune's contestants calls, allocations and bytes. One that the first result has and the second has not (its
    cell red or gone) counts as regressed; what the second left out, its eager code being slow or its time over, is named. Returns 1
    where one regressed, 2 where the two were measured in unlike ways or are one and the same result, else 0. Seconds are not compared:
    they are the machine's.
    """
    before, after = _read(a, name), _read(b, name)
    if before == after:
        commit = before.get("machine", {}).get("commit")
        print(f"{a} and {b} hold one and the same result, of commit {commit}: nothing was measured between them")
        return 2
    for result, what in ((before, a), (after, b)):
        m = result.get("machine", {})
        print(f"{what}: {m.get('gpu') or m.get('cpu')}, {m.get('threads')} thread(s), commit {m.get('commit')}, torch {m.get('torch')}")
    if unlike := _unlike(before, after):
        print(f"measured in unlike ways, so that nothing follows: {'; '.join(unlike)}")
        return 2
    old, new = dict(_ratios(before)), dict(_ratios(after))
    rounds = [dict(_rounds(result)) for result in (before, after)]
    enough = lambda ratio: " / " not in ratio or all(r.get(ratio.split(":")[0], ENOUGH) >= ENOUGH for r in rounds)  # noqa: E731
    changes = [Change(ratio, old[ratio], new[ratio], enough(ratio)) for ratio in old if ratio in new]
    undecided = sum(not change.decided for change in changes)
    regressed, improved = [c for c in changes if c.regressed], [c for c in changes if c.improved]
    absent = [ratio for ratio in old if ratio not in new]
    left_out = {*(cell for cell, _ in after.get("skipped", ())), *after.get("unmeasured", ())}
    gone = [ratio for ratio in absent if ratio.split(":")[0] not in left_out]
    print(
        f"{len(changes)} ratios in both: {len(regressed)} regressed, {len(improved)} improved beyond their spread and by more "
        f"than {LEAST:.0%}; {len(gone)} gone; {len(absent) - len(gone)} left out; {undecided} undecided, of fewer than {ENOUGH} rounds"
    )
    for word, group in (("REGRESSED", regressed), ("improved", improved)):
        for change in group:
            print(f"  {word:9s} {change}")
    for ratio in gone:
        print(f"  GONE      {ratio}")
    for cell in sorted({ratio.split(":")[0] for ratio in absent} & left_out):
        print(f"  left out  {cell}")
    for cell, why in after.get("red", ()):
        print(f"  RED       {cell}: {why}")
    if not changes:
        print("no ratio is in both: nothing could be compared")
    return 1 if regressed or gone or not changes else 0


def _unlike(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What must be the same in both for ratios to mean the same: the kind of processor, threads, and how long was measured."""
    said = lambda result: {  # noqa: E731
        **{name: result.get("machine", {}).get(name) for name in ("cpu", "cpu_model", "gpu", "threads", "backends", "torch", "quick")},
        "device": result.get("device"),
        "effort": result.get("effort"),
    }
    old, new = said(before), said(after)
    known = [name for name in old if name != "cpu_model" or None not in (old[name], new[name])]  # older results do not say
    return [f"{name} is {old[name]!r} and {new[name]!r}" for name in known if old[name] != new[name]]


def _read(source: str, name: str) -> dict[str, Any]:
    path = Path(source)
    if path.is_file():
        return json.loads(path.read_text())
    shown = subprocess.run(
        ["git", "-C", str(ROOT), "show", f"{source}:benchmarks/results/{name}"], capture_output=True, text=True, check=False
    )
    if shown.returncode:
        raise SystemExit(f"compare: {source!r} is no file, and no commit that has benchmarks/results/{name}: {shown.stderr.strip()}")
    return json.loads(shown.stdout)


def _ratios(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Every ratio of a result of ``kernels`` or ``throughput``, by a name that says all about it."""
    for r in result.get("results", ()):
        for ratio in r["ratios"]:
            yield f"{_kernel(r)}: {ratio['subject']} / {ratio['rival']}", ratio["value"]
    for c in result.get("cells", ()):
        place = _place(c)
        for name, value in c["of_eager"].items():
            if name.startswith("ttune"):  # a rival's change is its own affair
                yield f"{place}: {name} / eager", value
                if name in c.get("of_folded", {}):
                    yield f"{place}: {name} / folded", c["of_folded"][name]
                for what, counted in _counted(c, name).items():
                    yield f"{place}: {what} of {name}", {"median": counted, "low": counted, "high": counted}


def _kernel(result: Mapping[str, Any]) -> str:
    return f"{result['case']}, {'x'.join(map(str, result['shape']))} {result['dtype']}, {result['backend']}"


def _place(cell: Mapping[str, Any]) -> str:
    guided = ", guided" if cell["guided"] else ""
    return f"{cell['network']}, {cell['sampler']}, {'x'.join(map(str, cell['shape']))} {cell['dtype']}{guided}, {cell['steps']} steps"


def _counted(cell: Mapping[str, Any], name: str) -> dict[str, float]:
    counts = cell.get("counts", {}).get(name, {})
    found = {"calls per step": counts.get("launches"), "allocations per step": counts.get("allocations")}
    found["peak bytes"] = cell.get("peak_bytes", {}).get(name)
    return {what: value for what, value in found.items() if value is not None}


def _rounds(result: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """By what stands before the colon in a ratio's name."""
    for r in result.get("results", ()):
        yield _kernel(r), result.get("effort", {}).get("rounds", ENOUGH)
    for cell in result.get("cells", ()):
        yield _place(cell), cell.get("rounds", ENOUGH)
