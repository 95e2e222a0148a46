"""The backends that serve CPU tensors in this run of the tests."""

from __future__ import annotations

import os

# Triton reads this when a kernel's file is imported, so its interpreter has a process of its own (test_triton.py). It
# takes milliseconds for each block of a kernel: such a run has fewer elements.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CPU_BACKENDS = ("triton",) if INTERPRETED else ("reference", "cpu")
