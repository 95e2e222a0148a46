"""What a run of the fuzzer found: counts by kind of input, whether it tried what it was asked to, and the file that says so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.runner import BATCH, CORPUS, Tally

BUILD = Path(__file__).resolve().parents[2] / "build"
SOUND, FAULTY, STOPPED_SHORT = 0, 1, 3  # exit statuses; 2 is argparse's


@dataclass(frozen=True)
class Result:
    """``asked``: inputs to be drawn, by kind; ``tallies``: what came of it."""

    asked: Mapping[str, int]
    tallies: Mapping[str, Sequence[Tally]]
    seed: int
    seconds: float

    def rows(self) -> dict[str, dict[str, Any]]:
        return {name: _row(self.asked[name], tallies) for name, tallies in self.tallies.items()}

    def record(self) -> dict[str, Any]:
        rows = self.rows()
        asked, tried = sum(self.asked.values()), _tried(rows)
        complete = all(row["inputs"] >= row["asked"] for row in rows.values())
        return {"seed": self.seed, "batch": BATCH, "asked": asked, "tried": tried, "complete": complete, "kinds": rows}

    def status(self) -> int:
        record = self.record()
        if any(row["faults"] for row in record["kinds"].values()):
            return FAULTY
        return SOUND if record["complete"] else STOPPED_SHORT

    def text(self) -> str:
        record = self.record()
        rows = record["kinds"]
        total = {key: sum(row[key] for row in rows.values()) for key in ("corpus", "asked", "inputs", "accepted", "refused")}
        faults = [f"\n{name}, {fault}" for name, row in rows.items() for fault in row["faults"]]
        heads = "".join(f"{head:>9}" for head in ("corpus", "asked", "tried", "accepted", "refused", "faults", "seconds"))
        lines = [f"{'kind of input':40}{heads}", *(_line(name, row, len(row["faults"]), row["seconds"]) for name, row in rows.items())]
        lines += [_line("all", total, len(faults), self.seconds), *faults, f"asked {record['asked']:,}, tried {record['tried']:,}"]
        if self.status() == STOPPED_SHORT:
            lines.append(
                "Stopped short: no fault in what was tried, and nothing is known of the rest. "
                "--minutes gives more time, --inputs asks for fewer."
            )
        return "\n".join(lines)

    def write(self, path: Path) -> Path:
        """To ``path``, or to build/ under the same name if ``path`` holds a result of more inputs or other kinds; returns where it went."""
        from benchmarks.machine import machine
        from ttune.storage.atomic_write import write_atomically

        record = {"machine": machine(), **self.record()}
        earlier = _rows_of(path)
        less = record["tried"] < _tried(earlier) or not earlier.keys() <= self.asked.keys()
        place = BUILD / path.name if less else path
        write_atomically(place, (json.dumps(record, indent=1) + "\n").encode())
        return place


def _row(asked: int, tallies: Sequence[Tally]) -> dict[str, Any]:
    drawn = [tally for tally in tallies if tally.batch != CORPUS]
    return {
        "corpus": sum(tally.inputs for tally in tallies if tally.batch == CORPUS),
        "asked": asked,
        "inputs": sum(tally.inputs for tally in drawn),
        "accepted": sum(tally.accepted for tally in drawn),
        "refused": sum(tally.refused for tally in drawn),
        "faults": [f"{'corpus' if tally.batch == CORPUS else f'batch {tally.batch}'}: {tally.fault}" for tally in tallies if tally.fault],
        "seconds": round(sum(tally.seconds for tally in tallies), 1),
    }


def _line(name: str, row: Mapping[str, Any], faults: int, seconds: float) -> str:
    counts = "".join(f"{row[key]:9,}" for key in ("corpus", "asked", "inputs", "accepted", "refused"))
    return f"{name:40}{counts}{faults:9}{seconds:9.0f}"


def _tried(rows: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(row["inputs"] for row in rows.values())


def _rows_of(path: Path) -> dict[str, dict[str, Any]]:
    """The result at ``path``; nothing if there is none."""
    try:
        return json.loads(path.read_bytes())["kinds"]
    except (OSError, ValueError, KeyError):
        return {}
