"""Libraries whose networks the tests borrow."""

from __future__ import annotations

from typing import Any

import pytest

from ttune import torchvision


def diffusers() -> Any:
    """The package ``diffusers``, or the test is skipped."""
    torchvision.ensure()
    return pytest.importorskip("diffusers")
