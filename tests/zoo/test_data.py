"""The bundled Fashion-MNIST test set."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from ttune.zoo import fashion_mnist

ROOT = Path(__file__).parents[2]


def test_load_test_images_shapes_types_and_classes() -> None:
    images, labels = fashion_mnist.load_test_images()
    assert images.shape == (10_000, 1, 28, 28)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [1000] * len(fashion_mnist.CLASS_NAMES)
    assert images.amax() == 255
    assert images.amin() == 0


def test_bundle_equals_debian_and_is_reproducible(tmp_path: Path) -> None:
    if not fashion_mnist.DEBIAN_FOLDER.is_dir():
        pytest.skip("dataset-fashion-mnist is not installed")
    pytest.importorskip("tyro")
    images, labels = fashion_mnist.read_debian(fashion_mnist.DEBIAN_FOLDER, "test")
    bundled_images, bundled_labels = fashion_mnist.load_test_images()
    assert torch.equal(images, bundled_images)
    assert torch.equal(labels, bundled_labels)

    bundle = runpy.run_path(str(ROOT / "examples" / "bundle_fashion_mnist.py"))
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    for path in (first, second):
        bundle["write_bundle"](path, images[:100], labels[:100])
    assert first.read_bytes() == second.read_bytes()


def test_licence_ships_with_the_data() -> None:
    text = (fashion_mnist.TEST_IMAGES.parent / "LICENSE-fashion-mnist.txt").read_text(encoding="utf-8")
    assert "Zalando SE" in text
    assert "Permission is hereby granted" in text


def test_to_unit_range() -> None:
    x = fashion_mnist.to_unit_range(torch.tensor([0, 255], dtype=torch.uint8))
    assert x.tolist() == [-1.0, 1.0]
    with pytest.raises(ValueError, match=r"images: must be uint8, got torch\.float32"):
        fashion_mnist.to_unit_range(x)


def test_read_debian_names_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte\.gz does not exist"):
        fashion_mnist.read_debian(tmp_path, "train")
