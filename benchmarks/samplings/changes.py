"""Two results of the same benchmark side by side: which ratios changed by more than their spread."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.result_paths import ROOT
from benchmarks.samplings.setting import cell_name
from benchmarks.timing import Spread

# Of the median, since quartiles within one process do not see what differs between two: where memory lies above all. Six processes of
# one commit (no network, 4 steps, float32, 15 rounds; 2 cores, EPYC) make 480 pairs of ratios; beyond their quartiles 38 lay apart by more
# than 5 %, 14 by more than 10 %, one by more than 15 %.
LEAST = 0.15
ENOUGH = 5  # rounds: of fewer, the extremes part by chance too often (see timing.QUARTILES), and nothing is called a regression
# What must be the same in both for ratios to mean the same: the kind of processor, threads, and how long was measured.
ALIKE = ("cpu", "cpu_model", "gpu", "threads", "backends", "torch", "quick")


@dataclass(frozen=True)
class Figure:
    """A ratio or a count of one result. ``place``: the cell or the case; ``rounds`` that it was measured in."""

    place: str
    what: str
    value: Spread
    rounds: int = ENOUGH


@dataclass(frozen=True)
class Change:
    """One figure in both results: changed where the spreads of the two do not meet, and the medians differ by more than ``LEAST``."""

    before: Figure
    after: Figure

    @property
    def decided(self) -> bool:
        return min(self.before.rounds, self.after.rounds) >= ENOUGH

    @property
    def regressed(self) -> bool:
        return self.decided and _beyond(self.before.value, self.after.value)

    @property
    def improved(self) -> bool:
        return self.decided and _beyond(self.after.value, self.before.value)

    def __str__(self) -> str:
        texts = [f"{s.median:.3f} [{s.low:.3f}, {s.high:.3f}]" for s in (self.before.value, self.after.value)]
        return f"{self.before.place}: {self.before.what}: {texts[0]} -> {texts[1]}"


def _beyond(less: Spread, more: Spread) -> bool:
    return more.low > less.high and more.median > (1 + LEAST) * less.median


def compare_results(a: str, b: str, name: str) -> int:
    """Print what changed from ``a`` to ``b``: paths of result files, or commits that have ``benchmarks/results/NAME``.

    Ratios of times, and of ttune's contestants calls, allocations and bytes. One that the first result has and the second has not (its
    cell red or gone) counts as regressed; what the second left out, its eager code being slow or its time over, is named. Returns 1
    where one regressed, 2 where the two were measured in unlike ways or are one and the same result, else 0. Seconds are not compared:
    they are the machine's.
    """
    before, after = _read(a, name), _read(b, name)
    if before == after:
        print(f"{a} and {b} hold one and the same result, of commit {before.get('machine', {}).get('commit')}: nothing to compare")
        return 2
    for result, what in ((before, a), (after, b)):
        m = result.get("machine", {})
        print(f"{what}: {m.get('gpu') or m.get('cpu')}, {m.get('threads')} thread(s), commit {m.get('commit')}, torch {m.get('torch')}")
    if unlike := _unlike(before, after):
        print(f"measured in unlike ways, so that nothing follows: {'; '.join(unlike)}")
        return 2
    old, new = ({(f.place, f.what): f for f in _figures(result)} for result in (before, after))
    changes = [Change(figure, new[key]) for key, figure in old.items() if key in new]
    left_out = {*(cell for cell, _ in after.get("skipped", ())), *after.get("unmeasured", ())}
    absent = [key for key in old if key not in new]
    gone = [key for key in absent if key[0] not in left_out]
    regressed, improved = [c for c in changes if c.regressed], [c for c in changes if c.improved]
    print(
        f"{len(changes)} ratios in both: {len(regressed)} regressed, {len(improved)} improved beyond their spread and by more "
        f"than {LEAST:.0%}; {len(gone)} gone; {len(absent) - len(gone)} left out; {sum(not c.decided for c in changes)} undecided, "
        f"of fewer than {ENOUGH} rounds"
    )
    lines = [("REGRESSED", str(change)) for change in regressed] + [("improved", str(change)) for change in improved]
    lines += [("GONE", ": ".join(key)) for key in gone]
    lines += [("left out", cell) for cell in sorted({place for place, _ in absent} & left_out)]
    lines += [("RED", f"{cell}: {why}") for cell, why in after.get("red", ())]
    print(*(f"  {word:9s} {text}" for word, text in lines), sep="\n")
    if not changes:
        print("no ratio is in both: nothing could be compared")
    return 1 if regressed or gone or not changes else 0


def _unlike(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    old, new = (
        {**{name: result.get("machine", {}).get(name) for name in ALIKE}, **{name: result.get(name) for name in ("device", "effort")}}
        for result in (before, after)
    )
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


def _figures(result: Mapping[str, Any]) -> Iterator[Figure]:
    """Every figure of a result of ``kernels`` or ``throughput``; of others' contestants none: their change is their own affair."""
    for r in result.get("results", ()):
        place = f"{r['case']}, {'x'.join(map(str, r['shape']))} {r['dtype']}, {r['backend']}"
        for ratio in r["ratios"]:
            rounds = result.get("effort", {}).get("rounds", ENOUGH)
            yield Figure(place, f"{ratio['subject']} / {ratio['rival']}", Spread(**ratio["value"]), rounds)
    for cell in result.get("cells", ()):
        place, rounds = cell_name(cell), cell.get("rounds", ENOUGH)
        for name in (name for name in cell["of_eager"] if name.startswith("ttune")):
            yield Figure(place, f"{name} / eager", Spread(**cell["of_eager"][name]), rounds)
            if name in cell.get("of_folded", {}):
                yield Figure(place, f"{name} / folded", Spread(**cell["of_folded"][name]), rounds)
            counts = cell.get("counts", {}).get(name, {})
            counted = {"calls per step": counts.get("launches"), "allocations per step": counts.get("allocations")}
            counted["peak bytes"] = cell.get("peak_bytes", {}).get(name)
            for what, value in counted.items():
                if value is not None:
                    yield Figure(place, f"{what} of {name}", Spread(value, value, value))
