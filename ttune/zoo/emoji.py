"""The emoji model: text to image with latents and guidance, a diffusers folder in Stable Diffusion's shape.

At 16 MB it is not in the wheel: a clone of the repository has it in ``examples/emoji/model``, and :data:`VARIABLE` names another place.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "TTUNE_EMOJI"
NAME = "emoji"
PROMPTS = "prompts.txt"  # beside the components


def folder() -> Path:
    """Where the model is.

    Raises:
        FileNotFoundError: there is none; says what to do.
    """
    named = os.environ.get(VARIABLE)
    place = Path(named) if named else Path(__file__).parents[2] / "examples" / "emoji" / "model"
    if not (place / "model_index.json").is_file():
        raise FileNotFoundError(
            f"the emoji model must be a diffusers folder at {place}, and there is none. It is in the repository, in "
            f"examples/emoji/model, and not in the wheel: clone the repository, and set {VARIABLE} to that folder"
        )
    return place


def prompts() -> list[str]:
    """512 names of the pictures that the model was trained on, in both styles: seed i has prompt i modulo 512."""
    return (folder() / PROMPTS).read_text(encoding="utf-8").splitlines()
