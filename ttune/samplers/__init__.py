"""Samplers: functions from a schedule to a tableau. To add one, write the function and name it here.

A builder's keyword-only parameters are the sampler's options, ``Schedule.build(..., options={"order": 3})``. Each is of its default's
kind: an option that defaults to 1.0 takes any finite number, one that defaults to 1 only whole ones.
"""

from __future__ import annotations

import inspect
import reprlib
import sys
from collections.abc import Callable
from typing import Any

from ttune.samplers.adams import deis, ipndm, lms, pndm
from ttune.samplers.ddim import ddim, ddpm
from ttune.samplers.dpm_solver import dpm_solver_1, dpm_solver_2, dpm_solver_3, dpm_solver_fast, dpm_solver_multistep
from ttune.samplers.dpmpp_multistep import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m, dpmpp_3m_sde
from ttune.samplers.dpmpp_singlestep import dpmpp_2s, dpmpp_3s, dpmpp_sde
from ttune.samplers.euler import euler, euler_ancestral
from ttune.samplers.heun import edm_heun, heun, kdpm_2
from ttune.samplers.res import res_2m, res_2s
from ttune.samplers.steps import Steps
from ttune.samplers.tableau import Row, Stage, Start, Tableau
from ttune.samplers.two_step import bdia, belm
from ttune.samplers.unipc import unipc

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
        res_2m,
        res_2s,
        deis,
        ipndm,
        pndm,
        lms,
        unipc,
        bdia,
        belm,
    )
}


def sampler_options(name: str) -> dict[str, Any]:
    """The options of a sampler and their defaults."""
    return {p.name: p.default for p in inspect.signature(SAMPLERS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY}


# Of an option's default, and what an option of this kind is, once :class:`ttune.Schedule` has made it plain. A default of another type
# says nothing of what may be given.
_KINDS: dict[type, tuple[str, Callable[[Any], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    float: ("a finite number", lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and _fits(value)),
    str: ("a word", lambda value: isinstance(value, str)),
    tuple: ("a sequence of numbers", lambda value: isinstance(value, tuple) and all(map(_fits, value))),
}


def _fits(number: float) -> bool:
    """Whether float64 can hold it, as not every int is."""
    return abs(number) <= sys.float_info.max


def build_tableau(schedule: Steps) -> Tableau:
    """The tableau of ``schedule.sampler`` with ``schedule.options``.

    ValueError for an option that it does not have or that is not of its default's kind, and where float64 cannot hold the coefficients.
    """
    accepted = sampler_options(schedule.sampler)
    unknown = [name for name in schedule.options if name not in accepted]
    if unknown:
        raise ValueError(f"options of the sampler {schedule.sampler!r} must be among {list(accepted)}, got {unknown}")
    for name, value in schedule.options.items():
        wanted, fits = _KINDS.get(type(accepted[name]), ("", None))
        if fits is not None and not fits(value):
            raise ValueError(
                f"{name} of the sampler {schedule.sampler!r} must be {wanted}, as its default {accepted[name]!r} is, "
                f"got {reprlib.repr(value)}"
            )
    try:
        return SAMPLERS[schedule.sampler](schedule, **schedule.options)
    except TypeError as error:  # of a sampler that is not ours, say, whose default says nothing of the kind
        raise ValueError(
            f"options of the sampler {schedule.sampler!r} must be of the kind of {accepted}, got {schedule.options} ({error})"
        ) from None
    except ArithmeticError as error:  # times a rounding error apart, or numbers whose squares are beyond float64
        raise ValueError(
            f"times and options of the sampler {schedule.sampler!r} must leave its coefficients within float64, got times "
            f"{schedule.times.tolist()} and options {schedule.options} ({error})"
        ) from None


__all__ = ["SAMPLERS", "Row", "Stage", "Start", "Tableau", "build_tableau", "sampler_options"]
