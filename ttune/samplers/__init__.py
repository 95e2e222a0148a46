"""Samplers: functions from a schedule to a tableau. To add one, write the function and name it here.

A builder's keyword-only parameters are the sampler's options, ``Schedule.build(..., options={"order": 3})``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ttune.samplers.adams import deis, ipndm, lms, pndm
from ttune.samplers.ddim import ddim, ddpm
from ttune.samplers.dpm_solver import dpm_solver_1, dpm_solver_2, dpm_solver_3, dpm_solver_fast, dpm_solver_multistep
from ttune.samplers.dpmpp_multistep import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m, dpmpp_3m_sde
from ttune.samplers.dpmpp_singlestep import dpmpp_2s, dpmpp_3s, dpmpp_sde
from ttune.samplers.euler import euler, euler_ancestral
from ttune.samplers.heun import edm_heun, heun, kdpm_2
from ttune.samplers.tableau import Row, Stage, Start, Tableau
from ttune.samplers.unipc import unipc

if TYPE_CHECKING:
    from ttune.schedule import Schedule

SAMPLERS: dict[str, Callable[..., Tableau]] = {
    builder.__name__: builder
    for builder in (
        ddim,
        ddpm,
        euler,
        euler_ancestral,
        heun,
        edm_heun,
        kdpm_2,
        dpm_solver_1,
        dpm_solver_2,
        dpm_solver_3,
        dpm_solver_fast,
        dpm_solver_multistep,
        dpmpp_2s,
        dpmpp_3s,
        dpmpp_sde,
        dpmpp_2m,
        dpmpp_3m,
        dpmpp_2m_sde,
        dpmpp_3m_sde,
        deis,
        ipndm,
        pndm,
        lms,
        unipc,
    )
}


def sampler_options(name: str) -> dict[str, Any]:
    """The options of a sampler and their defaults."""
    return {p.name: p.default for p in inspect.signature(SAMPLERS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY}


def build_tableau(schedule: Schedule) -> Tableau:
    """The tableau of ``schedule.sampler`` with ``schedule.options``; ValueError for an option that it does not have."""
    accepted = sampler_options(schedule.sampler)
    unknown = [name for name in schedule.options if name not in accepted]
    if unknown:
        raise ValueError(f"options of the sampler {schedule.sampler!r} must be among {list(accepted)}, got {unknown}")
    try:
        return SAMPLERS[schedule.sampler](schedule, **schedule.options)
    except TypeError as error:  # a word where a number belongs, say
        raise ValueError(
            f"options of the sampler {schedule.sampler!r} must be of the kind of {accepted}, got {schedule.options} ({error})"
        ) from None


__all__ = ["SAMPLERS", "Row", "Stage", "Start", "Tableau", "build_tableau", "sampler_options"]
