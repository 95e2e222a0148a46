"""Feature extractors: batches, checks and names."""

from __future__ import annotations

import pytest
import torch

from ttune.evaluation import FeatureExtractor, lenet64, pooled_pixels
from ttune.evaluation.features.extractor import as_levels, to_uint8
from ttune.evaluation.features.local_contrast import contrast, local_contrast


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


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e39])
def test_features_that_are_not_finite_are_named(value: float) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, 0, 0] > 0.5, value, x[:, 0, 0].double())

    message = "features: must be finite, got NaN or infinity from 'mine' for 1 of 3 images; look at its weights"
    with pytest.raises(ValueError, match=message):
        FeatureExtractor("mine", function)(torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2))


def test_memory_that_does_not_hold_a_batch_is_asked_for_less() -> None:
    seen = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return x.flatten(1)

    extractor, images = FeatureExtractor("mine", function, batch=6), torch.rand(15, 1, 2, 2)
    with pytest.warns(RuntimeWarning, match="6 samples in one call of the features: going on with 3 at a time; a smaller batch of the"):
        got = extractor(images)
    assert torch.equal(got, images.flatten(1).double())
    assert seen == [6, 3, 3, 3, 3, 3]


def test_lenet64_is_cached_and_named() -> None:
    assert lenet64() is lenet64()
    assert lenet64().name == "LeNet-64"
    assert lenet64()(torch.zeros(3, 1, 28, 28)).shape == (3, 64)


def test_pooled_pixels_of_any_size() -> None:
    small, large = torch.rand(2, 3, 4, 4), torch.rand(2, 1, 32, 32)
    assert pooled_pixels()(small).shape == (2, 48)
    assert pooled_pixels()(large).shape == (2, 64)
    assert pooled_pixels()(large)[0, 0].item() == pytest.approx(large[0, 0, :4, :4].double().mean().item())


def test_levels_are_bytes_with_a_gradient() -> None:
    images = torch.linspace(-1.2, 1.2, 997).requires_grad_()
    levels = as_levels(images)
    assert torch.equal(levels, to_uint8(images).float())
    (slope,) = torch.autograd.grad(levels.sum(), images)
    assert (slope == 127.5).all()


def test_local_contrast_sees_what_pooled_pixels_do_not() -> None:
    smooth = torch.zeros(1, 1, 28, 28)
    rough = smooth + 0.5 * (-1.0) ** (torch.arange(28)[:, None] + torch.arange(28))
    assert torch.allclose(pooled_pixels()(smooth), pooled_pixels()(rough), atol=0.13)
    assert local_contrast()(smooth).abs().max() == 0
    assert torch.allclose(local_contrast()(rough), torch.ones(1, 32, dtype=torch.float64))
    assert contrast(torch.rand(3, 5)).shape == (3, 5)
