"""What a tuning spends, by purpose."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ttune.distributed import ALONE, Ranks
from ttune.network.denoiser import Denoiser
from ttune.tuning.checkpoint import Journal


class Ledger:
    """Network evaluations of one sample, of all ``ranks``, and seconds, kept in the journal: a resumed run remembers both.

    Work that an interruption threw away is not counted: the totals are those of an uninterrupted run.
    """

    def __init__(self, denoiser: Denoiser, journal: Journal, ranks: Ranks = ALONE) -> None:
        self._denoisers = [denoiser]
        self.ranks = ranks
        saved: dict[str, Any] = journal.get("ledger") or {}
        self._earlier: dict[str, int] = dict(saved.get("evaluations", {}))
        self._own: dict[str, int] = {}  # since then, on this rank
        self._earlier_seconds: float = saved.get("seconds", 0.0)
        self._begin = time.monotonic()
        self._purpose = ""
        self._mark = self._seen()
        journal.before_put = lambda: journal.pieces.update(ledger=self.state())

    def watch(self, denoiser: Denoiser) -> None:
        """Count what another denoiser of the same network sees too."""
        if all(denoiser is not known for known in self._denoisers):
            self._settle()
            self._denoisers.append(denoiser)
            self._mark = self._seen()

    def close(self) -> None:
        """What other denoisers of the network saw is counted by the first one too, from now on by it alone."""
        self._settle()
        first, *others = self._denoisers
        first.evaluations += sum(other.evaluations for other in others)
        first.spent += sum(other.spent for other in others)
        self._denoisers, self._mark = [first], first.evaluations

    @contextmanager
    def entry(self, purpose: str) -> Iterator[None]:
        """Everything spent inside goes to ``purpose``."""
        self._mark, self._purpose = self._seen(), purpose
        try:
            yield
        finally:
            self._settle()
            self._purpose = ""

    def state(self) -> dict[str, Any]:
        return {"evaluations": self.evaluations, "seconds": self.seconds}

    @property
    def evaluations(self) -> dict[str, int]:
        """By purpose, on all ranks, which must all ask."""
        self._settle()
        totals = dict(self._earlier)
        for own in self.ranks.everyones(self._own):
            for purpose, spent in own.items():
                totals[purpose] = totals.get(purpose, 0) + spent
        return totals

    @property
    def seconds(self) -> float:
        return self._earlier_seconds + time.monotonic() - self._begin

    def _settle(self) -> None:
        spent = self._seen() - self._mark
        self._mark = self._seen()
        if spent and self._purpose:
            self._own[self._purpose] = self._own.get(self._purpose, 0) + spent

    def _seen(self) -> int:
        return sum(denoiser.evaluations for denoiser in self._denoisers)
