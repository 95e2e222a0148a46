"""Libraries whose networks the tests borrow."""

from __future__ import annotations

from typing import Any

import pytest

from ttune.evaluation.features import torchvision_shim


def diffusers() -> Any:
    """The package ``diffusers``, or the test is skipped."""
    torchvision_shim.ensure()
    return pytest.importorskip("diffusers")
