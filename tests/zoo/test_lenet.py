"""LeNet-64: the shipped weights, and that the shipped statistics are theirs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ttune.evaluation import FeatureStatistics, frechet_distance, lenet64, lenet64_train_statistics
from ttune.zoo import lenet
from ttune.zoo.fashion_mnist import load_test_images, to_unit_range


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two OpenMP threads that share busy cores wait for each other: seven times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bundled() -> tuple[Tensor, Tensor]:
    images, labels = load_test_images()
    return to_unit_range(images), labels


@pytest.fixture(scope="module")
def bundled_features(bundled: tuple[Tensor, Tensor]) -> Tensor:
    return lenet64()(bundled[0])


def test_accuracy_is_the_one_on_the_card(bundled: tuple[Tensor, Tensor], bundled_features: Tensor) -> None:
    network = lenet.load_lenet64()
    with torch.no_grad():
        logits = network.classify(torch.relu(bundled_features.float()))
    accuracy = (logits.argmax(1) == bundled[1]).double().mean().item()
    with safetensors.safe_open(lenet.WEIGHTS, framework="numpy") as file:
        stated = float(file.metadata()["test_accuracy"])
    assert accuracy >= 0.90
    # Another machine's rounding may move an image or two over a boundary.
    assert accuracy == pytest.approx(stated, abs=5e-4)
    assert f"{stated:.2%}".replace("%", " %") in lenet.WEIGHTS.with_name("LENET64.md").read_text(encoding="utf-8")


def test_statistics_belong_to_the_weights(bundled_features: Tensor) -> None:
    with safetensors.safe_open(lenet.TRAIN_STATISTICS, framework="numpy") as file:
        assert file.metadata()["weights_sha256"] == hashlib.sha256(lenet.WEIGHTS.read_bytes()).hexdigest()
    statistics = lenet64_train_statistics()
    assert statistics.count == 60_000
    assert statistics.features == "LeNet-64"
    # Standardised over the training set, up to the rounding of the weights to float16.
    assert abs(statistics.mean).max() < 0.01
    assert statistics.covariance.diagonal() == pytest.approx([1.0] * 64, abs=0.01)

    near = {n: frechet_distance(bundled_features[:n], statistics) for n in (1_000, 10_000)}
    noise = torch.randn(1_000, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    far = frechet_distance(lenet64()(noise), statistics)
    print(f"Fréchet distance (LeNet-64) from the training set: test images {near}, noise {far:.1f}")
    assert near[10_000] < 0.05
    assert near[1_000] < 0.6
    assert far > 50


def test_evaluation_is_deterministic_and_ignores_the_batch(bundled: tuple[Tensor, Tensor], bundled_features: Tensor) -> None:
    network = lenet.load_lenet64()
    assert network is lenet.load_lenet64()
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    x = bundled[0][:64]
    assert torch.equal(network.features(x), network.features(x))
    torch.testing.assert_close(network.features(x).double(), bundled_features[:64], rtol=1e-5, atol=1e-5)
    assert network(x).shape == (64, 10)


def test_training_statistics_are_recomputable() -> None:
    """A stratum of the training set itself, where Debian's package is installed."""
    from ttune.zoo.fashion_mnist import DEBIAN_FOLDER, read_debian

    if not DEBIAN_FOLDER.is_dir():
        pytest.skip("dataset-fashion-mnist is not installed")
    images, _ = read_debian(DEBIAN_FOLDER, "train")
    part = FeatureStatistics.of_features(lenet64()(to_unit_range(images[::12])), "LeNet-64")
    assert frechet_distance(part, lenet64_train_statistics()) < 0.12


def test_from_weights_refuses_what_does_not_fit() -> None:
    weights = safetensors.torch.load_file(lenet.WEIGHTS)
    assert all(value.dtype == torch.float16 for value in weights.values())
    with pytest.raises(ValueError, match=r"missing or unknown: \['conv1.weight'\]"):
        lenet.from_weights({name: value for name, value in weights.items() if name != "conv1.weight"})
    with pytest.raises(ValueError, match=r"weights\['classify.bias'\]: must be finite and \(10,\), got \(11,\)"):
        lenet.from_weights({**weights, "classify.bias": torch.zeros(11)})
    with pytest.raises(ValueError, match=r"weights\['classify.bias'\]: must be finite"):
        lenet.from_weights({**weights, "classify.bias": torch.full((10,), torch.nan)})


def test_files_are_small() -> None:
    assert lenet.WEIGHTS.stat().st_size < 250_000
    assert lenet.TRAIN_STATISTICS.stat().st_size < 50_000
