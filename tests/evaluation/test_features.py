"""Feature extractors, and Inception through clean-fid with a stand-in for the weights: nothing is downloaded."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ttune.evaluation import FeatureExtractor, FeatureStatistics, fid, inception, lenet64
from ttune.evaluation.features import INCEPTION_FILE, import_cleanfid, to_uint8


def installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


needs_cleanfid = pytest.mark.skipif(not installed("clean-fid"), reason="clean-fid is not installed")


def test_batches_do_not_matter_and_gradients_are_not_kept() -> None:
    images = torch.rand(10, 1, 28, 28, requires_grad=True) * 2 - 1
    seen = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return x.flatten(1)[:, :7]

    got = FeatureExtractor("mine", function, batch=4)(images)
    assert seen == [4, 4, 2]
    assert got.shape == (10, 7)
    assert got.dtype == torch.float64
    assert not got.requires_grad
    assert torch.equal(got, images.detach().flatten(1)[:, :7].double())


def test_values_beyond_the_range_are_clamped() -> None:
    extractor = FeatureExtractor("mine", lambda x: x.flatten(1))
    assert extractor(torch.tensor([-3.0, 0.5, 2.0]).reshape(1, 1, 1, 3)).tolist() == [[-1.0, 0.5, 1.0]]
    assert to_uint8(torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 28, 28), r"images: must be \(B, C, H, W\), got shape \(1, 28, 28\)"),
        (torch.zeros(1, 1, 28, 28, dtype=torch.uint8), r"images: must be floating in \[-1, 1\], got torch.uint8"),
        (torch.full((1, 1, 28, 28), torch.nan), "images: must be finite, got 784 values"),
        (torch.zeros(0, 1, 28, 28), "images: must hold at least one image"),
        (torch.zeros(1, 3, 32, 32), r"images: LeNet-64 takes \(B, 1, 28, 28\), got shape \(1, 3, 32, 32\)"),
    ],
)
def test_images_are_checked(images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lenet64()(images)


def test_extractor_is_checked() -> None:
    with pytest.raises(ValueError, match="name: must name the features"):
        FeatureExtractor("", lambda x: x)
    with pytest.raises(ValueError, match="batch: must be at least 1, got 0"):
        FeatureExtractor("f", lambda x: x, batch=0)
    with pytest.raises(ValueError, match=r"function: must return \(2, F\) features for 2 images, got \(2, 1, 4, 4\)"):
        FeatureExtractor("f", lambda x: x)(torch.zeros(2, 1, 4, 4))


def test_lenet64_is_cached_and_named() -> None:
    assert lenet64() is lenet64()
    assert lenet64().name == "LeNet-64"
    assert lenet64()(torch.zeros(3, 1, 28, 28)).shape == (3, 64)


def test_import_needs_no_extra_and_cleanfid_imports_even_where_torchvision_does_not() -> None:
    """In a process of its own: the shim changes what torch knows, and is used only where it is needed."""
    code = """
import sys
from ttune.evaluation import features
print([m for m in ("matplotlib", "PIL", "cleanfid", "torchvision", "scipy") if m in sys.modules])
if sys.argv[1] == "False":
    sys.exit()
try:
    import torchvision
    broken = False
except RuntimeError:
    broken = True
for module in ("fid", "resize", "inception_torchscript"):
    features.import_cleanfid(module)
import torchvision
print(broken, features._nms_schemas is not None)
"""
    done = subprocess.run([sys.executable, "-c", code, str(installed("clean-fid"))], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "[]"
    if not installed("clean-fid"):
        pytest.skip("clean-fid is not installed")
    broken, shimmed = lines[1].split()
    assert broken == shimmed


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"tried to download {args}")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@needs_cleanfid
@pytest.mark.usefixtures("no_download")
def test_missing_weights_are_named_and_not_downloaded(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / INCEPTION_FILE, str(tmp_path)):
        with pytest.raises(FileNotFoundError) as caught:
            inception(path)
        assert str(tmp_path / INCEPTION_FILE) in str(caught.value)
        assert "ttune downloads nothing" in str(caught.value)
        assert import_cleanfid("downloads_helper").inception_url in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_missing_cleanfid_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "cleanfid", None)
    monkeypatch.setitem(sys.modules, "cleanfid.downloads_helper", None)
    with pytest.raises(ModuleNotFoundError, match=r"features: Inception needs clean-fid, pip install 'ttune\[fid\]'"):
        inception(tmp_path)


class StandIn(nn.Module):
    """The interface of Inception's TorchScript file: ``layers`` from (B, 3, 299, 299) to 2048 values."""

    def __init__(self) -> None:
        super().__init__()
        grey = nn.Conv2d(3, 1, 1)
        self.layers = nn.Sequential(grey, nn.AdaptiveAvgPool2d((32, 64)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.jit.save(torch.jit.script(StandIn()), str(folder / INCEPTION_FILE))
    return folder


@needs_cleanfid
@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize("channels", [1, 3])
def test_inception_equals_cleanfids_folder_route(stand_in: Path, tmp_path: Path, channels: int) -> None:
    image = pytest.importorskip("PIL.Image")
    images = torch.rand(5, channels, 28, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for i, picture in enumerate(to_uint8(images).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()):
        image.fromarray(picture).save(tmp_path / f"{i}.png")
    model = import_cleanfid("inception_torchscript").InceptionV3W(str(stand_in), download=False)
    expected = import_cleanfid("fid").get_folder_features(
        str(tmp_path), model=model, num_workers=0, device=torch.device("cpu"), mode="clean", verbose=False
    )
    got = inception(stand_in / INCEPTION_FILE)(images)
    assert got.shape == (5, 2048)
    np.testing.assert_array_equal(got.numpy(), expected.astype(np.float64))


@needs_cleanfid
def test_fid_runs_through_inception(stand_in: Path) -> None:
    images = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(2)) * 2 - 1
    extractor = inception(stand_in)
    # 64 of the 2048 columns: the formula is tested elsewhere, and 2048 of them take seconds.
    narrow = FeatureExtractor(extractor.name, lambda x: extractor.function(x)[:, ::32])
    reference = FeatureStatistics.of_features(narrow(images), narrow.name)
    assert fid(images, reference, features=narrow) == pytest.approx(0.0, abs=1e-9)
    assert fid(-images, reference, features=narrow) > 0
    with pytest.raises(ValueError, match=r"images: Inception takes 1 or 3 channels, got shape \(2, 4, 8, 8\)"):
        extractor(torch.zeros(2, 4, 8, 8))
