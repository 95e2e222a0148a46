"""What a tuning spends, by purpose."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ttune.denoiser import Denoiser
from ttune.tuning.checkpoint import Journal


class Ledger:
    """Network evaluations of one sample and seconds, kept in the journal, so that a resumed run remembers both.

    Work that an interruption threw away is not counted: the totals are those of an uninterrupted run.
    """

    def __init__(self, denoiser: Denoiser, journal: Journal) -> None:
        self.denoiser = denoiser
        saved: dict[str, Any] = journal.get("ledger") or {}
        self.evaluations: dict[str, int] = dict(saved.get("evaluations", {}))
        self._earlier_seconds: float = saved.get("seconds", 0.0)
        self._begin = time.monotonic()
        self._purpose = ""
        self._mark = denoiser.evaluations
        journal.before_put = lambda: journal.pieces.update(ledger=self.state())

    @contextmanager
    def entry(self, purpose: str) -> Iterator[None]:
        """Everything spent inside goes to ``purpose``."""
        self._mark, self._purpose = self.denoiser.evaluations, purpose
        try:
            yield
        finally:
            self._settle()
            self._purpose = ""

    def state(self) -> dict[str, Any]:
        self._settle()
        return {"evaluations": dict(self.evaluations), "seconds": self.seconds}

    @property
    def seconds(self) -> float:
        return self._earlier_seconds + time.monotonic() - self._begin

    def _settle(self) -> None:
        spent = self.denoiser.evaluations - self._mark
        self._mark = self.denoiser.evaluations
        if spent and self._purpose:
            self.evaluations[self._purpose] = self.evaluations.get(self._purpose, 0) + spent
