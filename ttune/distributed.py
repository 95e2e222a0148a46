"""Several processes that tune or evaluate together, as torchrun starts them: who does what, and how results come together.

Samples are dealt out in whole chunks, in turn. A network call then sees the same batch on one rank as on eight, and what is
summed over samples is summed chunk by chunk in the order of the chunks, wherever they were computed: the results are those of
one process, bit for bit as far as the network's are on the machines at hand. Everything that decides is computed on every rank
from the same gathered numbers, so all ranks take the same path; only the first writes files and prints.

What is exchanged are float64 sums, figures per sample and features, in the CPU's memory: gloo carries them, on machines with
GPUs too, and unlike NCCL notices at once when another rank is gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from ttune.noise.schedules import Float64

T = TypeVar("T")

# How long a rank waits for the others. One may compute a whole phase alone, when it has fewer chunks than there are ranks, and an
# evaluation of 50,000 samples on unequal GPUs may keep the faster ones waiting for hours; a rank that ended is noticed at once,
# whatever this says.
TIMEOUT = timedelta(hours=6)


class RankLost(RuntimeError):
    """Another rank ended before the work was done."""


@dataclass(frozen=True)
class Ranks:
    """This process, number ``rank`` of ``world`` that work together; the default is a process of its own."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and prints."""
        return self.rank == 0

    def everyones(self, value: T) -> list[T]:
        """``value`` of every rank, by rank. All ranks must call this, as with every method here that returns others' values."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        with self._exchange():
            dist.all_gather_object(values, value)
        return values

    def from_first(self, compute: Callable[[], T]) -> T:
        """What ``compute`` returns on the first rank, where alone it runs; its exception, if it raises one, on every rank."""
        if self.world == 1:
            return compute()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[0] = compute()
            except Exception as error:
                answer[1] = error
        with self._exchange():
            dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def share(self, count: int, batch_size: int) -> Share:
        """This rank's part of ``count`` samples that are computed ``batch_size`` at a time."""
        return Share(self, count, batch_size)

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world}"

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RankLost(f"rank {self.rank} waited for the others, and one of them is gone or stuck: {error}") from error


ALONE = Ranks()


@dataclass(frozen=True)
class Share:
    """Which of ``count`` samples are this rank's: chunk k (of ``batch_size`` samples, the last may be shorter) is rank k mod world's."""

    ranks: Ranks
    count: int
    batch_size: int

    @property
    def rows(self) -> Tensor:
        """Indices of this rank's samples, ascending, int64."""
        index = torch.arange(self.count)
        return index[(index // self.batch_size) % self.ranks.world == self.ranks.rank]

    def head(self, n: int) -> Share:
        """This rank's part of the first ``n`` samples: the first rows of its part of all."""
        return Share(self.ranks, min(n, self.count), self.batch_size)

    def check(self, argument: str) -> None:
        """ValueError if a rank would have nothing to do."""
        chunks = -(-self.count // self.batch_size)
        if chunks < self.ranks.world:
            raise ValueError(
                f"batch_size must leave every rank some samples: {argument}={self.count} in batches of {self.batch_size} are {chunks} "
                f"for {self.ranks.world} ranks; use at most {max(1, self.count // self.ranks.world)}, or fewer ranks"
            )

    def gathered(self, parts: Sequence[T]) -> list[T]:
        """What every rank found for each of its chunks, in the order of all chunks. Other ranks' tensors come to the CPU."""
        if self.ranks.world == 1:
            return list(parts)
        moved: Any = [part.cpu() if isinstance(part, Tensor) else part for part in parts]
        everyones = self.ranks.everyones(moved)
        chunks = sum(map(len, everyones))
        return [everyones[k % self.ranks.world][k // self.ranks.world] for k in range(chunks)]

    def total(self, parts: Sequence[Sequence[Float64 | float]]) -> tuple[Float64, ...]:
        """The sums over all chunks: ``parts`` holds the same several arrays or numbers for each of this rank's chunks.

        Added in the order of the chunks in float64, so that the sums do not depend on the number of ranks.
        """
        columns = zip(*self.gathered(parts), strict=True)
        return tuple(
            sum((np.asarray(part, np.float64) for part in column[1:]), start=np.array(column[0], np.float64)) for column in columns
        )


def world_size() -> int:
    """How many processes torchrun started, 1 without it. ValueError where the environment says no number."""
    return _number("WORLD_SIZE", least=1)


def _number(name: str, *, least: int) -> int:
    """What torchrun says in the environment; ``least`` where it says nothing."""
    said = os.environ.get(name, str(least))
    if not said.isdecimal() or int(said) < least:
        raise ValueError(f"{name} must be a whole number >= {least}, as torchrun sets it in the environment, got {said!r}; or unset it")
    return int(said)


def current() -> Ranks:
    """The ranks that this process has :func:`joined`; else :data:`ALONE`."""
    return Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE


@contextmanager
def joined(timeout: timedelta = TIMEOUT) -> Iterator[Ranks]:
    """The ranks that torchrun started (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT in the environment); else :data:`ALONE`.

    Where there are GPUs, the current one becomes LOCAL_RANK's. Raises ValueError where there are fewer GPUs than local ranks.
    """
    if world_size() == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        local = _number("LOCAL_RANK", least=0)
        if local >= torch.cuda.device_count():
            raise ValueError(f"nproc-per-node must be at most the number of GPUs, {torch.cuda.device_count()}, got a local rank {local}")
        torch.cuda.set_device(local)
    dist.init_process_group("gloo", timeout=timeout)
    try:
        yield current()
    finally:
        dist.destroy_process_group()
