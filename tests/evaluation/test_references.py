"""Real images from folders and arrays, and what is kept of them: once per content, features and count, by whichever process."""

from __future__ import annotations

import io
import multiprocessing
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ttune.evaluation import FeatureExtractor, FeatureStatistics
from ttune.evaluation.images.image_source import ENDINGS, ArrayPictures, open_pictures, write_png
from ttune.evaluation.images.references import cache_folder, open_reference, reference_of
from ttune.storage.chunk_folder import ChunkFolder

image = pytest.importorskip("PIL.Image")


class Counting:
    """Features that count the images they saw, and the calls."""

    def __init__(self, digest: str = "", name: str = "mean pixels", batch: int = 4) -> None:
        self.seen = 0
        self.extractor = FeatureExtractor(name, self.features, batch=batch, digest=digest)

    def features(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return torch.stack([x.mean((1, 2, 3)), x.flatten(1)[:, 0], x.square().mean((1, 2, 3))], 1)


def uint8(n: int, channels: int = 3, side: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, channels, side, side), np.uint8)


def folder_of(path: Path, pictures: np.ndarray) -> Path:
    path.mkdir(parents=True)
    for i, picture in enumerate(pictures):
        write_png(path / f"{i:03}.png", torch.from_numpy(picture).float().div(127.5).sub(1))
    return path


def test_png_and_array_give_the_same_images(tmp_path: Path) -> None:
    for channels in (1, 3):
        pictures = uint8(5, channels)
        expected = torch.from_numpy(pictures).float().div(127.5).sub(1)
        folder = open_pictures(folder_of(tmp_path / f"{channels}", pictures), channels)
        assert torch.equal(torch.cat(list(folder.read(range(5)))), expected)
        np.savez(tmp_path / "first.npz", images=pictures)
        np.savez(tmp_path / "last.npz", arr_0=pictures.transpose(0, 2, 3, 1))
        np.save(tmp_path / "plain.npy", pictures)
        for name in ("first.npz", "last.npz", "plain.npy"):
            assert torch.equal(next(open_pictures(tmp_path / name).read(range(1, 4))), expected[1:4])
    np.save(tmp_path / "grey.npy", pictures[:, 0])
    assert torch.equal(next(open_pictures(tmp_path / "grey.npy").read(range(5))), expected[:, :1])
    np.savez(tmp_path / "floating.npz", images=expected.numpy())
    assert torch.equal(next(open_pictures(tmp_path / "floating.npz").read(range(5))), expected)


def test_folders_are_read_in_order_with_sizes_mixed_and_grey_as_asked(tmp_path: Path) -> None:
    folder_of(tmp_path / "b", uint8(2, 3, 6, 1))
    folder_of(tmp_path / "a", uint8(1, 3, 8, 2))
    folder_of(tmp_path / "c", uint8(1, 1, 6, 3))
    (tmp_path / "notes.txt").write_text("no image")
    found = open_pictures(tmp_path, 3)
    assert len(found) == 4
    assert [tuple(part.shape) for part in found.read(range(4))] == [(1, 3, 8, 8), (3, 3, 6, 6)]
    assert [part.shape[1] for part in open_pictures(tmp_path, 1).read(range(4))] == [1, 1]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 1, 4, 4), np.float32) + 7, r"floating images must lie in \[-1, 1\], got values up to 7"),
        (np.zeros((3, 4, 4), np.float32), r"must hold images \(N, C, H, W\), .* got float32 \(3, 4, 4\)"),
        (np.zeros((3, 4, 4, 3), np.float32), r"C being 1 or 3, .* got float32 \(3, 4, 4, 3\)"),
        (np.zeros((3, 1, 0, 4), np.uint8), r"got uint8 \(3, 1, 0, 4\)"),
        (np.zeros((3, 1, 4, 4), np.int64), "got int64"),
        (np.zeros((0, 1, 4, 4), np.uint8), r"got uint8 \(0, 1, 4, 4\)"),
        (np.full((3, 1, 4, 4), np.nan), "reference: must be finite"),
        (np.array([None]), "must be a folder, an .npz"),
    ],
)
def test_arrays_are_checked(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        open_pictures(tmp_path / "x.npy")


def test_files_are_checked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"reference: .*nothing does not exist"):
        open_pictures(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"must hold image files .*, found none"):
        open_pictures(tmp_path)
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(ValueError, match=r"x\.npz"):
        open_reference(tmp_path / "x.npz", "f")
    np.savez(tmp_path / "y.npz", other=np.zeros(3))
    with pytest.raises(ValueError, match=r"must hold an array 'images' or 'arr_0' \(or 'mu' and 'sigma'\), got \['other'\]"):
        open_reference(tmp_path / "y.npz", "f")
    (tmp_path / "x.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"x\.png is not a readable image"):
        list(open_pictures(tmp_path).read(range(1)))


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as written:
        for name, content in members.items():
            written.writestr(f"{name}.npy", content)
    return path


def npy(array: np.ndarray) -> bytes:
    with io.BytesIO() as file:
        np.save(file, array)
        return file.getvalue()


@pytest.mark.parametrize("name", ["images", "mu"])
def test_hostile_archives_are_refused_in_words(name: str, tmp_path: Path) -> None:
    good, one = npy(np.zeros(3)), {"sigma": npy(np.eye(3))}
    torn = archive(tmp_path / "torn.npz", **{name: npy(np.random.default_rng(0).random(3000))}, **one)
    content = bytearray(torn.read_bytes())
    content[200:400] = bytes(200)  # within the packed member: zlib's own error
    torn.write_bytes(content)
    for contents in (good[:10] + b"(" * 118 + good[128:], good[:40], b"text", good.replace(b"(3,)", b"(" + b"9" * 17 + b",)")):
        archive(tmp_path / f"{len(list(tmp_path.iterdir()))}.npz", **{name: contents}, **one)
    for file in sorted(tmp_path.iterdir()):
        with pytest.raises(ValueError, match=f"reference: .*{file.name}"):
            open_reference(file, "f")


def test_archives_are_not_unpacked_beyond_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttune.evaluation.images.image_source.MOST", 1000)
    file = archive(tmp_path / "x.npz", images=npy(np.zeros((4, 1, 20, 20), np.uint8)))
    with pytest.raises(ValueError, match=r"images\.npy must have at most 1000 bytes, got 1728"):
        open_reference(file, "f")
    monkeypatch.setattr("ttune.evaluation.images.references.MAX_FEATURES", 2)
    archive(tmp_path / "s.npz", mu=npy(np.zeros(3)), sigma=npy(np.eye(3)))
    with pytest.raises(ValueError, match=r"mu must be numbers of at most 2 features in one or two dimensions, got float64 \(3,\)"):
        open_reference(tmp_path / "s.npz", "f")
    monkeypatch.setattr("ttune.evaluation.images.references._MOMENT", 190)
    with pytest.raises(ValueError, match=r"sigma\.npy must have at most 190 bytes, got 200"):
        open_reference(tmp_path / "s.npz", "f")


@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.safetensors"])
def test_a_pipe_is_no_reference(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="must be a regular file or a folder"):
        open_reference(tmp_path / name, "f")


def test_a_file_is_read_as_what_its_ending_can_mean(tmp_path: Path) -> None:
    """Pillow would hand an EPS to Ghostscript, whatever the file is called."""
    image.new("RGB", (4, 4)).save(tmp_path / "x.png", format="EPS")
    with pytest.raises(ValueError, match=r"x\.png is not a readable image \(cannot identify"):
        list(open_pictures(tmp_path).read(range(1)))
    for ending in sorted(ENDINGS):
        (tmp_path / "good").mkdir(exist_ok=True)
        image.new("RGB", (4, 4)).save(tmp_path / "good" / f"x{ending}")
    assert torch.cat(list(open_pictures(tmp_path / "good").read(range(len(ENDINGS))))).shape == (len(ENDINGS), 3, 4, 4)


def test_features_that_are_not_finite_are_neither_kept_nor_taken(tmp_path: Path) -> None:
    source, counting = ArrayPictures("x", uint8(11)), Counting()
    broken = FeatureExtractor("mean pixels", lambda x: counting.features(x) * torch.nan, batch=4)
    with pytest.raises(ValueError, match="features: must be finite"):
        reference_of(source, broken, cache=tmp_path, progress=False)
    assert list(tmp_path.rglob("*.safetensors")) == []
    reference_of(source, counting.extractor, cache=tmp_path, progress=False)
    (folder,) = (path for path in (tmp_path / "references").iterdir() if path.is_dir())
    ChunkFolder(folder, 11, 4).write(0, {"features": np.full((4, 3), np.nan, np.float32)})  # by an older version
    with pytest.raises(ValueError, match="is not what they are now"):
        reference_of(source, counting.extractor, cache=tmp_path, progress=False)


def test_computed_once_and_found_again_by_content(tmp_path: Path) -> None:
    pictures, cache = uint8(11), tmp_path / "cache"
    first = Counting()
    found = reference_of(open_pictures(folder_of(tmp_path / "a", pictures), 3), first.extractor, features=True, cache=cache, progress=False)
    assert first.seen == 11
    assert found.features is not None
    assert found.features.dtype == np.float32
    assert found.statistics is not None
    x = first.extractor(torch.from_numpy(pictures).float().div(127.5).sub(1)).numpy()
    np.testing.assert_allclose(found.features, x, rtol=1e-6)
    np.testing.assert_allclose(found.statistics.covariance, np.cov(x.T), rtol=1e-5)
    assert found.statistics.count == 11
    assert found.name == str(tmp_path / "a")

    again = Counting()  # the same images elsewhere
    copy = open_pictures(folder_of(tmp_path / "b", pictures), 3)
    assert np.array_equal(reference_of(copy, again.extractor, features=True, cache=cache, progress=False).features, found.features)
    assert again.seen == 2  # the first two, to see whether the function is still the same

    changed = FeatureExtractor("mean pixels", lambda x: again.features(x) * 1.1, batch=4)
    with pytest.raises(ValueError, match=r"cache: what .* holds of the features 'mean pixels' is not what they are now"):
        reference_of(copy, changed, cache=cache, progress=False)


def test_another_image_count_or_network_is_computed_anew(tmp_path: Path) -> None:
    pictures = uint8(11)

    def seen(images: np.ndarray, count: int | None = None, **options: str) -> int:
        counting = Counting(**options)
        reference_of(ArrayPictures("x", images), counting.extractor, count=count, cache=tmp_path, progress=False)
        return counting.seen

    other = pictures.copy()
    other[10, 2, 5, 5] ^= 1
    assert [seen(pictures), seen(pictures), seen(other), seen(pictures, 5), seen(pictures, 5)] == [11, 2, 11, 5, 2]
    assert [seen(pictures, digest="a"), seen(pictures, digest="b"), seen(pictures, name="n"), seen(pictures)] == [11, 11, 11, 2]


def test_what_is_broken_in_the_cache_is_made_again(tmp_path: Path) -> None:
    source, counting = ArrayPictures("x", uint8(11)), Counting()
    first = reference_of(source, counting.extractor, features=True, cache=tmp_path, progress=False)
    (folder,) = (path for path in (tmp_path / "references").iterdir() if path.is_dir())
    (folder / "000001.safetensors").write_bytes(b"broken")
    (folder / "statistics").write_bytes(b"broken")
    again = reference_of(source, counting.extractor, features=True, cache=tmp_path, progress=False)
    assert counting.seen == 11 + 2 + 4  # one batch, and the first two to see whether the function is still the same
    assert np.array_equal(again.features, first.features)
    assert first.statistics is not None
    assert again.statistics is not None
    assert np.array_equal(again.statistics.covariance, first.statistics.covariance)


def test_a_half_made_reference_is_not_completed_by_another_function(tmp_path: Path) -> None:
    source, counting = ArrayPictures("x", uint8(11)), Counting()
    reference_of(source, counting.extractor, cache=tmp_path, progress=False)
    (folder,) = (path for path in (tmp_path / "references").iterdir() if path.is_dir())
    for name in ("000000.safetensors", "000001.safetensors", "statistics"):
        (folder / name).unlink()
    changed = FeatureExtractor("mean pixels", lambda x: counting.features(x) * 1.1, batch=4)
    with pytest.raises(ValueError, match="is not what they are now"):
        reference_of(source, changed, cache=tmp_path, progress=False)
    assert [file.name for file in folder.iterdir()] == ["000002.safetensors"]


def _compute(cache: Path, seen: str) -> None:
    counting = Counting()
    reference_of(ArrayPictures("x", uint8(40)), counting.extractor, features=True, cache=cache, progress=False)
    (cache / f"{seen}.{os.getpid()}").write_text(str(counting.seen))


def test_processes_share_the_work_of_one(tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=_compute, args=(tmp_path, "seen")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    seen = sorted(int(file.read_text()) for file in tmp_path.glob("seen.*"))
    assert seen[2] == 40
    assert set(seen[:2]) <= {0, 2}  # 0 waited for the lock; 2 came when all was there, and looked whether the function is the same


def test_statistics_are_taken_as_they_are_and_only_of_the_right_features(tmp_path: Path) -> None:
    counting = Counting()
    x = np.random.default_rng(0).normal(size=(20, 3))
    statistics = FeatureStatistics.of_features(x, "mean pixels")
    statistics.save(tmp_path / "s.safetensors")
    np.savez(tmp_path / "s.npz", mu=statistics.mean, sigma=statistics.covariance)
    for name, count in (("s.safetensors", 20), ("s.npz", None)):
        source = open_reference(tmp_path / name, "mean pixels")
        assert isinstance(source, FeatureStatistics)
        found = reference_of(source, counting.extractor, name=name)
        assert found.statistics is not None
        assert np.array_equal(found.statistics.covariance, statistics.covariance)
        assert (found.name, found.statistics.count) == (name, count)
        with pytest.raises(ValueError, match="need real images, got statistics"):
            reference_of(source, counting.extractor, features=True)
        with pytest.raises(ValueError, match="reference_samples: statistics cannot be cut down to their first images, got 7"):
            reference_of(source, counting.extractor, count=7)
    with pytest.raises(ValueError, match="features: must be 'LeNet-64', got 'mean pixels'"):
        open_reference(tmp_path / "s.safetensors", "LeNet-64")
    with pytest.raises(ValueError, match=r"reference_samples must lie in \[2, 11\], the images in x, got 12"):
        reference_of(ArrayPictures("x", uint8(11)), counting.extractor, count=12, cache=tmp_path)


def test_unknown_counts_survive_a_file(tmp_path: Path) -> None:
    FeatureStatistics(np.zeros(2), np.eye(2), None, "f").save(tmp_path / "s.safetensors")
    assert FeatureStatistics.load(tmp_path / "s.safetensors").count is None


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TTUNE_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("TTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ttune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/.cache/ttune")
