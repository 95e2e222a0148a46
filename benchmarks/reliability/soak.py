"""Thousands of tunings and samplings in one process: does its memory grow?

A small model with an exact score (two dimensions, three Gaussians), so that what is measured is ttune and not a network. The resident
memory of the whole process and the numbers of live tensors and of Python's objects are recorded after the first, after a tenth and after
all of the work. After a tenth everything that is made once has been made: from there to the end they are compared. Exit status 1 where
they grew.

examples:
  python -m benchmarks soak                                      1,000 tunings, 10,000 samplings; benchmarks/results/soak.json
  python -m benchmarks soak --tunings 20 --samplings 200         does it work? build/soak.json
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import trange

import ttune
from benchmarks.machine import UNKNOWN, machine
from benchmarks.oracles import Smoothed
from benchmarks.result_paths import command, parser_of, result_path, write_json
from ttune.noise.schedules import DiscreteVP

TUNINGS, SAMPLINGS = 1000, 10_000
MOST_BYTES = 8 * 2**20  # the allocator keeps pages or not as it likes: a few MiB; a leak of 10 kB a tuning would be 9 MiB
MOST_OBJECTS = 2_000  # of 175,906 that were counted; a leak of one object a sampling would be 9,000


@dataclass(frozen=True)
class State:
    """Of this process: bytes of resident memory, live tensors, objects that the garbage collector knows."""

    bytes: int
    tensors: int
    objects: int

    @staticmethod
    def now() -> State:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        known = gc.get_objects()
        return State(pages * resource.getpagesize(), sum(issubclass(type(value), Tensor) for value in known), len(known))


@dataclass(frozen=True)
class Soaked:
    """One kind of work, done ``times`` times: the state after the first, after a tenth of them, and at the end."""

    times: int
    seconds: float
    first: State
    warm: State
    end: State

    @property
    def grew(self) -> list[str]:
        grown = {name: value - asdict(self.warm)[name] for name, value in asdict(self.end).items()}
        limits = {"bytes": MOST_BYTES, "tensors": 0, "objects": MOST_OBJECTS}
        return [f"{name} by {value:,}" for name, value in grown.items() if value > limits[name]]


def main(argv: Sequence[str] | None = None) -> None:
    """``argv``: the command line after ``python -m benchmarks soak``. Exits with 1 where the process grew, and before any work where
    nothing says which commit is measured."""
    parser = parser_of("soak", __doc__)
    parser.add_argument("--tunings", type=int, default=TUNINGS)
    parser.add_argument("--samplings", type=int, default=SAMPLINGS)
    parser.add_argument("--commit", help="where git does not know it: of the copy that is measured")
    parser.add_argument("--out", type=Path, help="the JSON file to write (default: benchmarks/results/soak.json; of fewer in build/)")
    options = parser.parse_args(argv)
    if min(options.tunings, options.samplings) < 1:
        parser.error(f"tunings and samplings must be at least 1, got {options.tunings} and {options.samplings}")
    torch.set_num_threads(1)
    about = machine()  # before the minutes in which the tree may change
    if options.commit:
        about["commit"] = options.commit
    if about["commit"] in ("", UNKNOWN):
        parser.error(f"commit must be recorded, and git does not know it, got {about['commit']!r}: name it with --commit")
    tune, sample = _work()
    work = {"tunings": soaked(tune, options.tunings), "samplings": soaked(sample, options.samplings)}
    for name, result in work.items():
        said = ", ".join(result.grew) or "nothing"
        states = (result.first, result.warm, result.end)
        print(f"{result.times:,} {name} in {result.seconds:.0f} s, after 1, a tenth and all: "
              f"{', '.join(f'{state.bytes / 2**20:.1f}' for state in states)} MiB of resident memory, "
              f"{', '.join(str(state.tensors) for state in states)} tensors; grew: {said}")  # fmt: skip
    fewer = options.tunings < TUNINGS or options.samplings < SAMPLINGS
    states = {name: asdict(result) | {"grew": result.grew} for name, result in work.items()}
    write_json(options.out or result_path("soak.json", fewer), {"command": command("soak", argv), "machine": about, "work": states})
    sys.exit(int(any(result.grew for result in work.values())))


def soaked(work: Callable[[int], object], times: int) -> Soaked:
    """Do ``work(i)`` so many times, at least once, and look at the process after the first, after a tenth of them and at the end."""
    begin, states = time.monotonic(), {}
    for i in trange(times, mininterval=5):
        work(i)
        if i + 1 in (1, max(1, times // 10)):
            states[i + 1] = State.now()
    return Soaked(times, round(time.monotonic() - begin, 1), states[1], states[max(1, times // 10)], State.now())


def _work() -> tuple[Callable[[int], object], Callable[[int], object]]:
    """A tuning and a sampling, each a little another one every time, by several samplers."""
    noise = ttune.NoiseSchedule.linear(steps=100)
    assert isinstance(noise, DiscreteVP)
    centres = torch.tensor([[1.0, 0.5], [-0.8, 0.9], [0.1, -1.1]])
    denoiser = ttune.Denoiser(Smoothed(centres, 0.2, noise), noise)
    schedules = [ttune.Schedule.build(noise, name, 3, "linspace") for name in ("ddim", "dpmpp_2m", "unipc", "heun", "ddpm")]
    teacher = ttune.Schedule.build(noise, "dpmpp_2m", 6, "log_snr")

    def tune(i: int) -> ttune.TuneResult:
        return ttune.tune(
            denoiser, schedules[i % 3], x_T=ttune.initial_noise(noise, (2,), range(i, i + 8)), teacher=teacher, iterations=1,
            search_starts=False, tune=("network_times",), progress=False,
        )  # fmt: skip

    def sample(i: int) -> Tensor:
        seeds = range(i, i + 4)
        return ttune.sample(denoiser, schedules[i % len(schedules)], ttune.initial_noise(noise, (2,), seeds), seeds=list(seeds))

    return tune, sample
