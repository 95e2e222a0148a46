"""Samplers against k-diffusion's, where it is installed: ``pip install --no-deps k-diffusion`` (its samplers need torch and
scipy alone; the package asks for much that they do not use). test_transcriptions.py has the same mathematics without it."""

from __future__ import annotations

import pytest
import torch

from tests.samplers import k_diffusion_cases
from tests.samplers.originals import Case, relative

CASES = k_diffusion_cases.cases()


@pytest.mark.skipif(k_diffusion_cases.module() is None, reason="k-diffusion is not installed (pip install --no-deps k-diffusion)")
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_numbers_are_the_originals(case: Case) -> None:
    assert case.difference(torch.float64) < 1e-10
    if case.rounds:  # Its grid and steps of log sigma are in float32 then: it is the farther one from the truth.
        mine, theirs = case.run(torch.float32)
        exact, _ = case.run(torch.float32, exact=True)
        assert relative(mine, exact) < relative(theirs, exact) / 2
        assert relative(theirs, exact) < 1e-4
    else:
        assert case.difference(torch.float32) < 1e-5
