"""Threads, forks and repeats: the same numbers, whoever asks and however often."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

import ttune
from tests.oracles import mixture, standard_normal
from ttune import ops
from ttune.kernels.backend import _CHOICE

NOISE = ttune.NoiseSchedule.linear()
BACKENDS = [name for name in ("cpu", "reference") if ttune.backends()[name]["available"]]


def sampled(seed: int = 0) -> Tensor:
    schedule = ttune.Schedule.build(NOISE, "ddpm", 3)
    return ttune.sample(mixture(NOISE).denoiser(), schedule, standard_normal((5, 2), seed), seeds=[1, 2, 3, 4, 5])


def test_eight_threads_sample_what_one_samples() -> None:
    alone = [sampled(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert all(torch.equal(a, b) for a, b in zip(alone, pool.map(sampled, range(8)), strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_eight_threads_compute_on_the_backend_that_was_chosen_before(backend: str) -> None:
    terms = [standard_normal((64, 64), seed) for seed in range(3)]
    coeffs = standard_normal((2, 3), 9)
    right = [sum(c * term for c, term in zip(row, terms, strict=True)) for row in coeffs]

    def work(_: int) -> None:
        for _ in range(60):
            for ours, theirs in zip(ops.linear_update(terms, coeffs), right, strict=True):
                torch.testing.assert_close(ours, theirs)

    with ttune.use_backend(backend), ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_threads_compute_while_another_chooses() -> None:
    """PyTorch frees kernels that are taken out of its table: beside 6,000 choices, 25 of 180,000 calls went to what lay there then."""
    terms, coeffs, target = [standard_normal((8, 8), seed) for seed in range(3)], standard_normal((2, 3), 9), standard_normal((8, 8), 10)
    right = ops.linear_update(terms, coeffs)
    loss = ops.trajectory_loss(terms, coeffs[:1], target)
    done = threading.Event()

    def work(_: int) -> int:
        calls = 0
        while not done.is_set():
            torch.testing.assert_close(ops.linear_update(terms, coeffs), right)
            torch.testing.assert_close(ops.trajectory_loss(terms, coeffs[:1], target), loss)
            calls += 2
        return calls

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work, i) for i in range(4)]
        end = time.monotonic() + 2
        while time.monotonic() < end and not any(future.done() for future in working):
            with ttune.use_backend("reference"):
                pass
        done.set()
        assert sum(future.result() for future in working) > 100
    with ttune.use_backend("reference"):  # nobody else is left, and so nothing is
        pass
    assert _CHOICE._forwarders is None or threading.active_count() > 1


def test_eight_threads_that_choose_leave_no_choice_behind() -> None:
    start = threading.Barrier(8)

    def work(i: int) -> None:
        start.wait()
        for _ in range(60):
            with ttune.use_backend(BACKENDS[i % len(BACKENDS)]):
                pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert _CHOICE.name is None
    assert _CHOICE._blocks == []


def test_blocks_that_end_in_another_order_leave_no_choice_behind() -> None:
    first, second = (ttune.use_backend(name) for name in ("reference", BACKENDS[0]))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert _CHOICE.name == BACKENDS[0]
    second.__exit__(None, None, None)
    assert _CHOICE.name is None


IN_THE_CHILD = """
import os, signal, threading, time
from contextlib import nullcontext
import ttune
from ttune.kernels.backend import _CHOICE

NAME = "cpu" if ttune.backends()["cpu"]["available"] else "reference"
entered, done = threading.Event(), threading.Event()

def other():
    with ttune.use_backend("reference"):
        with _CHOICE.lock if {held} else nullcontext():  # in the middle of a choice, or not
            entered.set()
            time.sleep(0.3)
        done.wait()

def look():
    signal.alarm(20)  # ends what waits for a lock for ever
    assert _CHOICE.name == NAME, _CHOICE.name
    with ttune.use_backend("reference"):
        assert _CHOICE.name == "reference"
    assert _CHOICE.name == NAME, _CHOICE.name

with ttune.use_backend(NAME):
    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    entered.wait()
    child = os.fork()
    if child == 0:
        look()
if child == 0:
    assert _CHOICE.name is None and _CHOICE._blocks == [], (_CHOICE.name, _CHOICE._blocks)
    os._exit(0)
assert _CHOICE.name == "reference", _CHOICE.name
done.set()
thread.join()
assert _CHOICE.name is None
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("held", [False, True])
def test_a_fork_leaves_the_blocks_of_other_threads_behind(held: bool) -> None:
    ran = subprocess.run([sys.executable, "-c", IN_THE_CHILD.format(held=held)], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr


def in_a_fork(work: Callable[[], bool]) -> int:
    """The exit status of a child that does ``work``: 0 where it is true."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            status = 0 if work() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_forked_after_use_computes_the_same() -> None:
    """On one thread, as after any fork with OpenMP: the threads of the parent's pool are not in the child."""
    before, x = sampled(), torch.ones(3, 200_000)
    update = ops.linear_update([x, x], torch.tensor([[0.5, 0.25]]))[0]
    assert in_a_fork(lambda: torch.equal(sampled(), before)) == 0
    assert in_a_fork(lambda: torch.equal(ops.linear_update([x, x], torch.tensor([[0.5, 0.25]]))[0], update)) == 0


def large(threads: int) -> list[bytes]:
    """Operators and a sampling with noise, of enough elements that several threads share them."""
    torch.set_num_threads(threads)
    try:
        x, y = torch.randn(2, 3, 200_003, generator=torch.Generator().manual_seed(0)).unbind()
        x_T = ttune.initial_noise(NOISE, (3, 128, 128), seeds=range(2))
        denoiser = ttune.Denoiser(lambda x, tau: torch.tanh(x), NOISE)
        found = [
            ops.inner_products([x], [x, y]),
            ops.trajectory_loss([x, y], torch.tensor([[0.3, -0.7]]), y),
            *ops.linear_update([x, y], torch.tensor([[0.3, -0.7]])),
            ttune.sample(denoiser, ttune.Schedule.build(NOISE, "ddpm", 3), x_T, seeds=[1, 2]),
        ]
    finally:
        torch.set_num_threads(1)
    return [tensor.numpy().tobytes() for tensor in found]


def test_another_process_and_other_numbers_of_threads_find_the_same_bits() -> None:
    here = large(1)
    assert large(2) == here
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(large, [1, 2, 4])) == [here] * 3


def test_repeats_are_the_same_bits_also_where_torch_insists_on_them() -> None:
    first = sampled()
    result = tuned()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(sampled(), first)
        again = tuned()
    finally:
        torch.use_deterministic_algorithms(False)
    assert again.schedule.network_times.tobytes() == result.schedule.network_times.tobytes()
    assert again.validation == result.validation


def tuned() -> ttune.TuneResult:
    return ttune.tune(
        mixture(NOISE).denoiser(), ttune.Schedule.build(NOISE, "ddim", 2), x_T=standard_normal((8, 2)), iterations=2,
        teacher=ttune.Schedule.build(NOISE, "dpmpp_2m", 6, "log_snr"), search_starts=False, tune=("network_times",), progress=False,
    )  # fmt: skip
