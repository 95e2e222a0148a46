"""torchvision beside a torch that it was not built for: plain scripts import what imports it, and a warning says so once."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from ttune.evaluation.features import torchvision_shim


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def installed(*packages: str) -> bool:
    found = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    return set(packages) <= found


@pytest.mark.skipif(not installed("diffusers", "transformers", "clean-fid"), reason="needs diffusers, transformers and clean-fid")
def test_a_plain_script_imports_diffusers_and_clean_fid() -> None:
    """What ``make install`` leaves in the environment; ttune is not imported."""
    code = "import sys; from diffusers import StableDiffusionPipeline; from cleanfid import fid; print('ttune' in sys.modules)"
    done = run(code)
    assert done.stdout.split() == ["False"]
    assert done.stderr.count("its operators declared and not implemented") <= 1


FAKES = {
    "healthy": "from torchvision import inner",
    "of another torch": "from torchvision import inner\nimport torch\n"
    "if not hasattr(torch.ops.torchvision, 'nms'): raise RuntimeError('operator torchvision::nms does not exist')",
    "broken": "raise RuntimeError('something else')",
}


def test_only_an_import_that_fails_for_its_operators_is_helped(tmp_path: Path) -> None:
    for name, text in FAKES.items():
        package = tmp_path / name / "torchvision"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(text)
        (package / "inner.py").write_text("")
    code = """
import importlib, os, sys, warnings, torch
from ttune.evaluation.features import torchvision_shim
warnings.simplefilter("always")
for name in ("healthy", "of another torch", "broken"):
    sys.path.insert(0, os.path.join(sys.argv[1], name))
    importlib.invalidate_caches()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            torchvision_shim.ensure()
            torchvision_shim.ensure()
            import torchvision as found
            result = os.path.basename(os.path.dirname(os.path.dirname(found.__file__)))
            from torchvision import inner
            del found
        except RuntimeError as error:
            result = str(error)
    print(result, hasattr(torch.ops.torchvision, "nms"), [str(w.message)[:25] for w in caught], sep=" | ")
    for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    del sys.path[0]
""".replace("import torchvision as found", "found = importlib.import_module('torchvision')")
    done = run(code, tmp_path)
    assert done.stdout.splitlines() == [
        "healthy | False | []",
        "of another torch | True | ['the installed torchvision']",
        "something else | True | []",
    ]


def test_the_habit_of_an_environment_is_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = tmp_path / "torchvision_beside_cpu_torch.py", tmp_path / "torchvision_beside_cpu_torch.pth"
    monkeypatch.setattr(torchvision_shim, "_places", lambda: tuple(map(str, places)))
    assert torchvision_shim.install() == [*map(str, places)]
    assert places[0].read_text() == Path(torchvision_shim.__file__).read_text()
    code = "import site, sys; site.addsitedir(sys.argv[1]); print(type(sys.meta_path[0]).__name__, 'torch' in sys.modules)"
    assert run(code, tmp_path).stdout.split() == ["TorchvisionFinder", "False"]
    assert torchvision_shim.remove() == [*map(str, places)]
    assert torchvision_shim.remove() == []
    assert not any(place.exists() for place in places)
