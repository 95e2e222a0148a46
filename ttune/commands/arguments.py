"""Words that several commands take: the registries are the list of choices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ttune.grids import GRIDS
from ttune.samplers import SAMPLERS
from ttune.tuning.methods import METHODS

if TYPE_CHECKING:
    Sampler = SamplerOrAuto = Spacing = Method = str
else:
    Sampler = Literal[tuple(SAMPLERS)]
    SamplerOrAuto = Literal[(*SAMPLERS, "auto")]
    Spacing = Literal[tuple(GRIDS)]
    Method = Literal[tuple(METHODS)]


def options_of(given: dict[str, str] | None) -> dict[str, float | str | bool]:
    """Words of the command line as the numbers and truth values that they spell."""
    options: dict[str, float | str | bool] = {}
    for name, word in (given or {}).items():
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


def check_seed(seed: int, n: int) -> None:
    """ValueError if the seeds SEED ... SEED + n - 1 of the samples are no 64-bit integers."""
    if not -(2**63) <= seed <= 2**63 - n:
        raise ValueError(f"seed must be in [-2^63, 2^63 - {n}], so that the samples' seeds are 64-bit integers, got {seed}")
