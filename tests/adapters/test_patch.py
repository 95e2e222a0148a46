"""A schedule in somebody else's object."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import ttune
from ttune.adapters.patch import Patch, is_paused, paused
from ttune.adapters.timestep_override import TimestepOverride


def test_a_denoiser_pauses_the_schedule_in_its_own_thread_alone() -> None:
    host = SimpleNamespace()
    schedule = ttune.Schedule.build(ttune.NoiseSchedule.linear(), "ddim", 4)
    with Patch(host, TimestepOverride.of(schedule), []), ThreadPoolExecutor(1) as other:
        with paused(host), paused(host):
            assert is_paused(host)
            assert not other.submit(is_paused, host).result()
        assert not is_paused(host)
