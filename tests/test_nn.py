"""``ttune.nn``: the modules, and networks of diffusers whose own time embeddings are replaced by them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ttune
from tests.hosts import diffusers
from ttune import ops


@pytest.fixture
def unet() -> Any:
    return unet_of("positional")


def unet_of(kind: str) -> Any:
    torch.manual_seed(0)
    return (
        diffusers()
        .UNet2DModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=(32, 32),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            time_embedding_type=kind,
            num_train_timesteps=1000 if kind == "learned" else None,
        )
        .eval()
    )


def output(network: Any, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        return network(x, t).sample


def embedded(network: Any, t: Tensor, dtype: torch.dtype) -> Tensor:
    """What the network's first layers get of the time."""
    seen = []
    handle = network.time_proj.register_forward_hook(lambda module, arguments, result: seen.append(result))
    output(network, t, dtype)
    handle.remove()
    return seen[0]


WHOLE = [torch.tensor([0, 999]), torch.tensor([3, 480]), torch.tensor(250), torch.tensor([1.0, 640.0])]


@pytest.mark.parametrize("t", WHOLE)
def test_a_replaced_network_equals_the_original(unet: Any, t: Tensor) -> None:
    wanted = output(unet, t)
    with ttune.nn.replace(unet) as replacement:
        assert len(replacement) == 1
        assert isinstance(unet.time_proj, ttune.nn.TimestepEmbedding)
        torch.testing.assert_close(output(unet, t), wanted, rtol=0, atol=1e-5)
    assert not isinstance(unet.time_proj, ttune.nn.TimestepEmbedding)
    assert torch.equal(output(unet, t), wanted)


@pytest.mark.parametrize("t", WHOLE[:3])
def test_a_replaced_table_equals_the_original(t: Tensor) -> None:
    unet = unet_of("learned")
    wanted, keys = output(unet, t), list(unet.state_dict())
    replacement = ttune.nn.replace(unet, ["time_proj"])
    assert len(replacement) == 1
    assert torch.equal(output(unet, t), wanted)
    assert list(unet.state_dict()) == keys
    replacement.undo()
    assert type(unet.time_proj) is nn.Embedding
    assert torch.equal(output(unet, t), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("time_dtype", [torch.float32, torch.float64])
def test_fractional_times_keep_their_precision(unet: Any, dtype: torch.dtype, time_dtype: torch.dtype) -> None:
    t = torch.tensor([999.25, 480.8125], dtype=time_dtype)
    ttune.nn.replace(unet)
    unet.to(dtype)
    got = embedded(unet, t, dtype)
    assert got.dtype == torch.float32
    wanted = ops.timestep_embedding(t.double(), 32, flip_sin_to_cos=True, downscale_freq_shift=0.0)
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=2e-7)
    assert output(unet, t, dtype).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_table_is_read_between_its_rows(dtype: torch.dtype) -> None:
    unet = unet_of("learned")
    ttune.nn.replace(unet, ["time_proj"])
    unet.to(dtype)
    t = torch.tensor([900.25, 480.875])
    got = embedded(unet, t, dtype)
    rows = unet.time_proj.weight.double()
    wanted = torch.lerp(rows[t.long()], rows[t.long() + 1], t.frac()[:, None].double())
    torch.testing.assert_close(got.double(), wanted, rtol=torch.finfo(dtype).eps, atol=8 * torch.finfo(torch.float32).eps)
    assert output(unet, t, dtype).dtype == dtype


def test_undo_keeps_what_became_of_the_weights() -> None:
    unet = unet_of("learned")
    with ttune.nn.replace(unet, "time_proj"):
        unet.double()
        with torch.no_grad():
            unet.time_proj.weight.fill_(0.5)
        unet.train()
    assert unet.time_proj.training
    assert unet.time_proj.weight.dtype == torch.float64
    assert bool((unet.time_proj.weight == 0.5).all())


class Shared(nn.Module):
    """One Timesteps at two places, one Embedding of classes and one that is network times."""

    def __init__(self) -> None:
        super().__init__()
        embeddings = diffusers().models.embeddings
        self.first = embeddings.Timesteps(8, True, 0, scale=2)
        self.inner = nn.Sequential(self.first, nn.Linear(8, 2))
        self.classes = nn.Embedding(10, 2)
        self.times = nn.Embedding(10, 2)


def test_only_what_is_passed_the_time_is_replaced() -> None:
    network = Shared()
    first, classes = network.first, network.classes
    t = torch.tensor([1.5, 20.0])
    wanted = network.inner(t)
    replacement = ttune.nn.replace(network, iter(["times"]))
    assert len(replacement) == 2
    assert network.inner[0] is network.first
    assert network.classes is classes
    torch.testing.assert_close(network.inner(t), wanted)
    assert torch.equal(network.times(torch.tensor([3])), network.times.weight[3:4])
    replacement.undo()
    assert network.inner[0] is network.first is first


def test_a_network_without_time_embeddings_is_left_alone() -> None:
    replacement = ttune.nn.replace(nn.Sequential(nn.Linear(2, 2)))
    assert len(replacement) == 0
    replacement.undo()


def test_replace_says_what_is_wrong_and_changes_nothing() -> None:
    network = Shared()
    for name, message in (
        ("time", "embeddings must name modules within network, got 'time'"),
        ("", "embeddings must name modules within network, got ''"),
        ("inner.1", "embeddings must name torch.nn.Embedding modules, got 'inner.1', a Linear"),
    ):
        with pytest.raises(ValueError, match=message):
            ttune.nn.replace(network, ["times", name])
        assert type(network.times) is nn.Embedding


@pytest.mark.parametrize(
    ("option", "value", "plain"),
    [("max_norm", 1.0, None), ("padding_idx", 0, None), ("sparse", True, False), ("scale_grad_by_freq", True, False)],
)
def test_embeddings_that_do_more_are_refused(option: str, value: Any, plain: Any) -> None:
    with pytest.raises(ValueError, match=f"embedding must have {option}={plain}, got {value}"):
        ttune.nn.EmbeddingLookup.from_embedding(nn.Embedding(4, 3, **{option: value}))


# ------------------------------------------------------------------------------------------------------------- modules


def module_samples() -> Iterator[nn.Module]:
    yield ttune.nn.TimestepEmbedding(6, flip_sin_to_cos=True, downscale_freq_shift=0.0, scale=0.5)
    yield ttune.nn.TimestepEmbedding(6, dtype=torch.bfloat16)
    yield ttune.nn.EmbeddingLookup(torch.arange(12.0).view(4, 3))


@pytest.mark.parametrize("module", list(module_samples()))
def test_modules_copy_compile_and_print(module: nn.Module) -> None:
    t = torch.tensor([0.25, 2.5])
    wanted = module(t)
    assert torch.equal(copy.deepcopy(module)(t), wanted)
    assert torch.equal(torch.compile(module, fullgraph=True, backend="aot_eager")(t), wanted)
    assert type(module).__name__ in repr(module)


def test_timestep_embedding_has_the_dtype_asked_for() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert ttune.nn.TimestepEmbedding(6, dtype=dtype)(torch.tensor([1.5])).dtype == dtype
    assert ttune.nn.TimestepEmbedding(6)(torch.tensor([1.5], dtype=torch.float64)).dtype == torch.float64
    assert not list(ttune.nn.TimestepEmbedding(6).parameters())
    assert "dim=6" in repr(ttune.nn.TimestepEmbedding(6))


def test_embedding_lookup_trains_its_parameter() -> None:
    embedding = nn.Embedding(4, 3)
    lookup = ttune.nn.EmbeddingLookup.from_embedding(embedding)
    assert lookup.weight is embedding.weight
    lookup(torch.tensor([1.25])).sum().backward()
    assert embedding.weight.grad is not None
    torch.testing.assert_close(embedding.weight.grad[:, 0], torch.tensor([0.0, 0.75, 0.25, 0.0]))
    assert not ttune.nn.EmbeddingLookup(torch.zeros(2, 2)).weight.requires_grad
