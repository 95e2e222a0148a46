"""What every run that takes times says and writes, whatever it measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Report:
    """``effort``: how long was measured. ``skipped``: (place, why); ``red``: (place, what the gate said) or what went wrong."""

    command: str
    machine: dict[str, Any]
    device: str
    effort: dict[str, Any]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    red: list[tuple[str, str]] = field(default_factory=list)

    def record(self, unit: str, **measured: Any) -> dict[str, Any]:
        """Of JSON's types, with what was ``measured``."""
        about = {"command": self.command, "machine": self.machine, "device": self.device, "effort": self.effort, "unit": unit}
        return about | measured | {"skipped": self.skipped, "red": self.red}

    def notes(self, missing: Iterable[Mapping[str, str]], line: str = "{} {}: {}") -> list[str]:
        """What has no number, and why: contestants that are ``missing`` somewhere, places that were skipped, red ones."""
        absent = {(name, why) for each in missing for name, why in each.items()}
        found = [("absent", *entry) for entry in sorted(absent)]
        found += [("skipped", *entry) for entry in self.skipped] + [("RED", *entry) for entry in self.red]
        return [line.format(*entry) for entry in found]
