"""Inception through clean-fid: its code, its file format and its resizer, with a small random network in place of the published
weights, which are not at hand. FID with the real ones was never run here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ttune
from ttune.evaluation import (
    CachedSamples,
    Candidate,
    FeatureExtractor,
    FeatureStatistics,
    Real,
    evaluate,
    fid,
    frechet_distance,
    inception,
    kernel_distance,
    metric_name,
    open_reference,
)
from ttune.evaluation.features.cleanfid import import_cleanfid
from ttune.evaluation.features.extractor import to_uint8
from ttune.evaluation.features.inception import INCEPTION, INCEPTION_FILE


def installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


needs_cleanfid = pytest.mark.skipif(not installed("clean-fid"), reason="clean-fid is not installed")


def test_import_needs_no_extra_and_cleanfid_imports_even_where_torchvision_does_not() -> None:
    """In a process of its own: the shim changes what torch knows, and is used only where it is needed."""
    code = """
import sys
from ttune.evaluation.features import cleanfid
print([m for m in ("matplotlib", "PIL", "cleanfid", "torchvision", "scipy") if m in sys.modules])
if sys.argv[1] == "False":
    sys.exit()
try:
    import torchvision
    broken = False
except RuntimeError:
    broken = True
for module in ("fid", "resize", "inception_torchscript"):
    cleanfid.import_cleanfid(module)
import torchvision
from ttune.evaluation.features.torchvision_shim import _schemas
print(broken, _schemas is not None)
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
    with pytest.raises(
        ModuleNotFoundError, match=r"clean-fid is needed for Inception.s features and for kernel distances, pip install 'ttune\[fid\]'"
    ):
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


def pictures(n: int, channels: int, side: tuple[int, int], seed: int) -> Tensor:
    """Smooth random images in [-1, 1], all different."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 4, 4, generator=generator) * 2.2 - 1.1
    return nn.functional.interpolate(coarse, side, mode="bilinear", align_corners=False).clamp(-1, 1)


def cleanfid_features(weights: Path, images: Tensor, folder: Path) -> np.ndarray:
    """clean-fid's own way: PNG files in a folder, its data loader, its resizer, its network."""
    image = pytest.importorskip("PIL.Image")
    folder.mkdir()
    for i, picture in enumerate(to_uint8(images).permute(0, 2, 3, 1).numpy()):
        image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(folder / f"{i:04}.png")
    options: dict[str, Any] = {"num_workers": 0, "device": torch.device("cpu"), "mode": "clean", "verbose": False}
    model = import_cleanfid("inception_torchscript").InceptionV3W(str(weights), download=False)
    return import_cleanfid("fid").get_folder_features(str(folder), model=model, **options)


@needs_cleanfid
@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize(("channels", "side"), [(1, (28, 28)), (3, (32, 32)), (3, (64, 48)), (1, (320, 320)), (3, (299, 299))])
def test_features_are_those_of_cleanfids_folder_route(stand_in: Path, tmp_path: Path, channels: int, side: tuple[int, int]) -> None:
    images = pictures(5, channels, side, 1)
    expected = cleanfid_features(stand_in, images, tmp_path / "images")
    got = inception(stand_in / INCEPTION_FILE)(images)
    assert got.shape == (5, 2048)
    np.testing.assert_array_equal(got.numpy(), expected.astype(np.float64))


@needs_cleanfid
@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize(("channels", "side"), [(1, (28, 28)), (3, (24, 40))])
def test_distances_agree_with_cleanfids(stand_in: Path, tmp_path: Path, channels: int, side: tuple[int, int]) -> None:
    """FID and KID to 1e-6. In 16 of the 2048 columns, so that 40 images make a covariance that clean-fid's root is accurate for."""
    made, real = (pictures(40, channels, side, seed) for seed in (2, 3))
    theirs = [cleanfid_features(stand_in, images, tmp_path / name)[:, ::128] for name, images in (("made", made), ("real", real))]
    extractor = inception(stand_in)
    ours = [extractor(images).numpy().astype(np.float32)[:, ::128] for images in (made, real)]
    module = import_cleanfid("fid")
    expected = module.fid_from_feats(*theirs)
    assert expected > 0
    assert frechet_distance(*ours) == pytest.approx(expected, rel=1e-6, abs=1e-6 * np.trace(np.cov(theirs[0].T)))
    np.random.seed(0)  # noqa: NPY002 (clean-fid draws its subsets from here)
    assert kernel_distance(*ours) == pytest.approx(module.kernel_distance(theirs[1], theirs[0]), abs=1e-6)


@needs_cleanfid
@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize("channels", [1, 3])
def test_an_evaluation_is_cleanfids_of_the_files_it_saved(stand_in: Path, tmp_path: Path, channels: int) -> None:
    """From x_T to FID and KID without a file, against clean-fid on the folders: generated pictures and real ones of two sizes."""
    noise, shape = ttune.NoiseSchedule.linear(), (channels, 20, 12)
    full = inception(stand_in)
    narrow = FeatureExtractor(INCEPTION, lambda x: full.function(x)[:, ::128], batch=16, digest=full.digest)
    expected_real = cleanfid_features(stand_in, pictures(30, channels, (40, 28), 3), tmp_path / "real")[:, ::128]
    real = Real("real", open_reference(tmp_path / "real", INCEPTION, channels), cache=tmp_path / "cache")

    def points(seeds: Tensor) -> tuple[Tensor, dict[str, Any]]:
        return ttune.initial_noise(noise, shape, seeds), {}

    denoiser = ttune.Denoiser(lambda x, tau: 0.8 * x + 0.1 * torch.sin(3 * x), noise)
    candidate = Candidate("DDIM", "base", ttune.Schedule.build(noise, "ddim", 3))
    samples = CachedSamples(denoiser, points, narrow, 40, 16, 0, tmp_path / "work", images=tmp_path / "images", progress=False)
    (row,) = evaluate(samples, [candidate], metrics=("fid", "kid"), real=real, splits=0, resamples=0)
    module, options = import_cleanfid("fid"), {"num_workers": 0, "device": torch.device("cpu"), "verbose": False}
    network = import_cleanfid("inception_torchscript").InceptionV3W(str(stand_in), download=False)
    saved = module.get_folder_features(str(tmp_path / "images" / samples.folder(candidate).path.name), model=network, **options)[:, ::128]
    assert saved.shape == (40, 16)
    entry, kernel = row["frechet"], row.get("kernel")
    assert entry is not None
    assert kernel is not None
    assert entry.get("name") == "FID"
    assert entry.get("features_sha256") == kernel["features_sha256"] == full.digest
    assert entry["value"] == pytest.approx(module.fid_from_feats(saved, expected_real), rel=1e-6)
    np.random.seed(0)  # noqa: NPY002
    assert kernel["value"] == pytest.approx(module.kernel_distance(expected_real, saved), abs=1e-6)


@needs_cleanfid
def test_weights_of_another_name_never_give_an_fid(stand_in: Path, tmp_path: Path) -> None:
    shutil.copy(stand_in / INCEPTION_FILE, tmp_path / "mine.pt")
    extractor, published = inception(tmp_path / "mine.pt"), inception(stand_in)
    images = pictures(3, 3, (32, 32), 4)
    assert torch.equal(extractor(images), published(images))
    assert extractor.digest == published.digest != ""
    assert published.name == INCEPTION
    assert metric_name(extractor) == "Fréchet distance (weights mine.pt in place of Inception's)"
    with pytest.raises(ValueError, match="features: FID is defined for"):
        fid(images, images, features=extractor)


@needs_cleanfid
def test_a_program_in_a_shared_folder_must_be_ones_own(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttune.evaluation.features.inception.DEFAULT_FOLDER", tmp_path)
    file = tmp_path / INCEPTION_FILE
    with pytest.raises(FileNotFoundError):
        inception()
    shutil.copy(stand_in / INCEPTION_FILE, file)
    file.chmod(0o644)
    assert inception().name == INCEPTION
    file.chmod(0o666)
    with pytest.raises(PermissionError, match=r"must belong to this user or root and not be writable by all, and all users may write it"):
        inception()
    assert inception(file).digest == inception(stand_in).digest  # named, so trusted
    file.chmod(0o644)
    if os.getuid() == 0:
        os.chown(file, 12345, -1)
        with pytest.raises(PermissionError, match="and it belongs to the user 12345; name it"):
            inception()
        file.rename(tmp_path / "theirs.pt")
        file.symlink_to(tmp_path / "theirs.pt")
        with pytest.raises(PermissionError, match="it belongs to the user 12345"):
            inception()


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
