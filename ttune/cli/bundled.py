"""What the command line has at hand for the bundled model: clean images and features."""

from __future__ import annotations

from typing import Any


def bundled_data(model: str) -> Any:
    if model != "fashion":
        raise ValueError(f"clean images are needed, which the command line has for the bundled model (fashion) only, got {model!r}")
    from ttune.zoo.fashion_mnist import load_test_images, to_unit_range

    images, labels = load_test_images()
    return to_unit_range(images), {"class_label": labels}


def bundled_features(model: str) -> Any:
    from ttune.evaluation import lenet64

    return lenet64() if model == "fashion" else None
