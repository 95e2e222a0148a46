"""Entries of ComfyUI's own lists of schedulers, for KSampler and BasicScheduler: the steps of files whose times alone were tuned."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch

import ttune

from . import files
from .host import check_model, levels


def register() -> None:
    """An entry "ttune: FILE" for each file that a list of sigmas says all of. A file that cannot be read is left out, with a warning."""
    from comfy.samplers import SCHEDULER_HANDLERS, SCHEDULER_NAMES, SchedulerHandler

    for name in files.names():
        entry = f"ttune: {name.removesuffix('.json')}"
        try:
            schedules = ttune.load_schedules(files.path_of(name))
        except (OSError, ValueError) as error:
            logging.warning("ttune: %s is in none of the lists of schedulers: %s", name, error)
            continue
        if entry not in SCHEDULER_HANDLERS and all(map(is_times_alone, schedules.values())):
            SCHEDULER_HANDLERS[entry] = SchedulerHandler(partial(sigmas_of_file, name))
            SCHEDULER_NAMES.append(entry)


def is_times_alone(schedule: ttune.Schedule) -> bool:
    """Whether the network is passed the solver's times, by the solver's own coefficients: a list of sigmas says nothing else."""
    return schedule == schedule.replace(network_times=None, coefficients=None, shift=None)


def sigmas_of_file(name: str, model_sampling: Any, steps: int) -> torch.Tensor:
    """(steps + 1,) float32. ValueError where the file has no schedule of so many steps, or one for another model."""
    schedule = ttune.Schedule.load(files.path_of(name), steps=steps)
    check_model(model_sampling, schedule)
    if not is_times_alone(schedule):  # the file is another one by now
        raise ValueError(f"scheduler: the network times of {name} were tuned too, which a scheduler cannot pass; use 'ttune: KSampler'")
    return torch.tensor(levels(schedule.noise, schedule.times), dtype=torch.float32)
