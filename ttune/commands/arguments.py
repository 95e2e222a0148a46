"""Words that several commands take: the registries are the list of choices."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ttune.grids import GRIDS
from ttune.samplers import SAMPLERS, sampler_options
from ttune.tuning.methods import METHODS

if TYPE_CHECKING:
    Sampler = SamplerOrAuto = Spacing = Method = str
else:
    Sampler = Literal[tuple(SAMPLERS)]
    SamplerOrAuto = Literal[(*SAMPLERS, "auto")]
    Spacing = Literal[tuple(GRIDS)]
    Method = Literal[tuple(METHODS)]


def options_of(given: dict[str, str] | None, sampler: str | None = None) -> dict[str, float | str | bool]:
    """Words of the command line as the numbers and truth values that they spell; what ``sampler`` takes as a word stays one."""
    defaults = {} if sampler is None else sampler_options(sampler)
    options: dict[str, float | str | bool] = {}
    for name, word in (given or {}).items():
        if isinstance(defaults.get(name), str):  # "2" of dpm_solver_fast's tail, say
            options[name] = word
            continue
        try:
            options[name] = int(word) if word.lstrip("+-").isdigit() else float(word)
        except ValueError:
            options[name] = {"true": True, "false": False}.get(word.lower(), word)
    return options


def check_counts(**counts: int) -> None:
    """ValueError for a count that is not at least 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be a whole number >= 1, got {count}")


def check_seed(seed: int, **counts: int) -> None:
    """ValueError if the seeds SEED ... SEED + n - 1 of samples, n being one of ``counts``, are no 64-bit integers."""
    for name, n in counts.items():
        if not -(2**63) <= seed <= 2**63 - n:
            raise ValueError(
                f"seed and {name} must satisfy -2^63 <= seed <= 2^63 - {name}, so that the samples' seeds are 64-bit integers, "
                f"got seed={seed} and {name}={n}"
            )


def check_paths(**paths: Path | Iterable[Path] | None) -> None:
    """ValueError for a path that no file can have, in whatever word of the command line it came; None is none."""
    for name, given in paths.items():
        for path in () if given is None else (given,) if isinstance(given, Path) else given:
            try:
                possible = b"\0" not in os.fsencode(path)
            except UnicodeEncodeError:
                possible = False
            if not possible:
                raise ValueError(f"{name} must be a path without a zero byte or half a surrogate pair, got {str(path)!r}")
