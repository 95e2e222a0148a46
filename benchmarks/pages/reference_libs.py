"""Every sampler against the libraries that have it: the largest difference of the final states, as a table in the docs.

The cases are those of the tests (tests/samplers/*_cases.py): same grid, same network (the exact one of a Gaussian mixture),
same noise. Needs diffusers, and k-diffusion (``pip install --no-deps k-diffusion``) for its part.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

from benchmarks.result_paths import ROOT
from tests import hosts
from tests.samplers import k_diffusion_cases
from tests.samplers.originals import Case
from ttune import SAMPLERS
from ttune.storage.atomic_write import write_atomically

PAGE = ROOT / "docs" / "results" / "originals.md"
ROUNDS = "in float32 the original's coefficients are the farther ones from the float64 result"

HEAD = """# Samplers against their originals

Written by `python -m benchmarks originals`. Largest difference of the final states, relative to the largest element, on the
same grid, with the same network (the exact one of a mixture of three Gaussians, 6 samples of 2 numbers) and the same noise.
float32: the original as it is. float64: diffusers' modules run with their float32 read as float64, k-diffusion in float64.
`tests/samplers` holds every row to 1e-10 in float64 and 1e-5 in float32, but those whose note says that the original rounds.
Measured with {versions}.

| sampler | original | its options | float64 | float32 | note |
|---|---|---|---|---|---|
"""

TAIL = """
Not in the table, since neither library has them: {without}. `tests/samplers/test_transcriptions.py` and
`test_tableau.py` hold samplers against the papers' formulas as well: DDPM's posterior, Analytic-DPM's variance (theorem 1),
EDM's algorithm 2, DPM-Solver-3's algorithm 2, DPM-Solver++(2M)'s algorithm 2, RES's weights, UniC's conditions, BDIA's and O-BELM's
coefficients, and the SDE multistep solvers by quadrature.

`res_2m` is ComfyUI 0.8's `res_multistep`: 9.6e-16 apart in float64 and 2.5e-06 in float32, on 7 to 12 levels of an EDM model with the
same network. `res_2s` is RES4LYF's `res_2s_ode`, which works in float32: 1.1e-06 apart. RES4LYF's `res_2m_ode` is another solver: its
first two steps are those of `res_2s`.

## Where an original errs

Each is shown by a test in `tests/samplers/test_diffusers.py`.

- diffusers' `UniPCMultistepScheduler(solver_type="bh1", final_sigmas_type="zero")` returns NaN: B(h) = h is infinite at a clean
  image and multiplies a zero.
- diffusers' `DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", solver_order=3)` has a sign wrong: its weight of the
  second difference tends to -1 with the step, not to 0. `dpmpp_3m_sde` has k-diffusion's. With the sign mended the two agree.
- diffusers' `IPNDMScheduler` starts at alpha = 0 and loses the first prediction, whatever the network returns there.
- diffusers' DPM-Solver and UniPC schedulers truncate the times of a flow model to whole numbers.
- Third-order multistep DPM-Solver and DPM-Solver++ (`dpm_solver_multistep` of order 3, `dpmpp_3m`, `dpmpp_3m_sde`), in every
  library and here, count the second derivative half and so converge in second order (`tests/samplers/test_order.py`).
  `unipc` of order 3 without its corrector is the same step with the whole one, and of third order.

A step to a clean image is first order here. LMS, iPNDM and PNDM keep their order there in both libraries: that is
`options={{"full_order_to_clean": True}}`. diffusers' singlestep solvers evaluate on the grid's own times: `"inner": "grid"`.
"""


def row(case: Case) -> str:
    differences = [f"{case.difference(dtype):.1e}" for dtype in (torch.float64, torch.float32)]
    note = "; ".join(filter(None, [case.note, ROUNDS if case.rounds else ""]))
    return "| " + " | ".join([f"`{case.sampler}`", case.original, case.options, *differences, note]) + " |"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks originals", description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write (default: docs/results/originals.md)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    hosts.diffusers()
    from tests.samplers import diffusers_cases

    if k_diffusion_cases.module() is None:
        parser.error("k-diffusion must be installed: pip install --no-deps k-diffusion")
    cases = sorted([*diffusers_cases.cases(), *k_diffusion_cases.cases()], key=lambda case: list(SAMPLERS).index(case.sampler))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [row(case) for case in cases]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("diffusers", "k-diffusion", "torch"))
    without = ", ".join(f"`{name}`" for name in SAMPLERS if name not in {case.sampler for case in cases}) or "none"
    text = HEAD.format(versions=versions) + "\n".join(rows) + "\n" + TAIL.format(without=without)
    write_atomically(chosen.out, text.encode())
    print(f"{len(rows)} comparisons, written to {chosen.out}")
