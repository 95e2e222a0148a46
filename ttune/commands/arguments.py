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
