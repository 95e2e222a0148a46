"""k-diffusion's own wrappers of networks (``external``, ``layers.Denoiser``), without what the package around them imports."""

from __future__ import annotations

import functools
import importlib.util
import sys
import types
from pathlib import Path
from unittest import mock

import pytest

from tests.samplers import k_diffusion_cases


@functools.cache
def _loaded() -> tuple[types.ModuleType, types.ModuleType, types.ModuleType] | None:
    sampling = k_diffusion_cases.module()
    found = importlib.util.find_spec("k_diffusion")
    if sampling is None or found is None or not found.submodule_search_locations:
        return None
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(found.submodule_search_locations)
    utils = types.ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]  # type: ignore[attr-defined]
    package.utils, package.sampling = utils, sampling  # type: ignore[attr-defined]
    stubs = {"k_diffusion": package, "k_diffusion.utils": utils, "k_diffusion.sampling": sampling}
    stubs |= {"dctorch": types.ModuleType("dctorch"), "dctorch.functional": types.ModuleType("dctorch.functional")}
    stubs["dctorch"].functional = stubs["dctorch.functional"]  # type: ignore[attr-defined]
    einops = types.ModuleType("einops")
    einops.rearrange = einops.repeat = None  # type: ignore[attr-defined]
    stubs["einops"] = einops
    made = []
    with mock.patch.dict(sys.modules, stubs):
        for name in ("external", "layers"):
            spec = importlib.util.spec_from_file_location(f"k_diffusion.{name}", Path(package.__path__[0]) / f"{name}.py")
            assert spec is not None
            assert spec.loader is not None
            made.append(importlib.util.module_from_spec(spec))
            spec.loader.exec_module(made[-1])
    return sampling, made[0], made[1]


def modules() -> tuple[types.ModuleType, types.ModuleType, types.ModuleType]:
    """(sampling, external, layers), or the test is skipped."""
    found = _loaded()
    if found is None:
        pytest.skip("k-diffusion is not installed (pip install --no-deps k-diffusion)")
    return found
