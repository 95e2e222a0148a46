"""Several networks behind one denoiser, chosen per evaluation, and networks with layers passed by."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ttune
from tests.oracles import Gaussian, standard_normal
from ttune import ClassifierFree, CompiledSampler, Denoiser, NoiseSchedule, Schedule, Stitched, Variants, skip_layers
from ttune.numpy import Plan
from ttune.zoo.unet import UNet

NOISE = NoiseSchedule.linear()
X_T = standard_normal((3, 4))
SCHEDULE = Schedule.build(NOISE, "ddim", 4, "linspace")
EXACT = Gaussian(NOISE)


def rough(x: Tensor, tau: Tensor) -> Tensor:
    return 0.9 * EXACT(x, tau)


def denoiser() -> Denoiser:
    return Denoiser(Variants([EXACT, rough], [1.0, 0.6]), NOISE)


# ------------------------------------------------------------------------------------------------------ in a schedule


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_3m", "unipc"])
def test_each_evaluation_uses_its_variant(sampler: str) -> None:
    """A network that changes at a time is the same said in another way."""
    plain = Schedule.build(NOISE, sampler, 4, "linspace")
    stitched = Denoiser(Stitched([rough, EXACT], [500.0]), NOISE)
    chosen = plain.replace(variants=[int(t > 500) for t in plain.times[:-1]])
    assert 0 < sum(chosen.variants) < 4
    assert torch.equal(ttune.sample(denoiser(), chosen, X_T), ttune.sample(stitched, plain, X_T))
    assert torch.equal(ttune.sample(denoiser(), plain, X_T), ttune.sample(EXACT.denoiser(), plain, X_T))


def test_order_and_costs_are_those_of_the_schedule() -> None:
    calls: list[str] = []

    def named(name: str) -> Callable[..., Tensor]:
        def run(x: Tensor, tau: Tensor, label: Tensor) -> Tensor:
            calls.append(name)
            return EXACT(x, tau)

        return run

    guidance = ClassifierFree(2.0, {"label": 0.0})
    several = Denoiser(Variants([named("a"), named("b"), named("c")], [1, 0.5, 0.25]), NOISE, guidance=guidance)
    schedule = Schedule.build(NOISE, "heun", 2, "linspace").replace(variants=(2, 0, 1))  # two evaluations, then one
    ttune.sample(several, schedule, X_T, conditions={"label": torch.ones(3)})
    wanted = ["c", "a", "b"]
    assert calls == wanted
    assert several.evaluations == 3 * 2 * len(wanted)
    assert isinstance(several.evaluations, int)
    assert several.spent == pytest.approx(3 * 2 * sum({"a": 1, "b": 0.5, "c": 0.25}[name] for name in wanted))
    assert isinstance(several.network, Variants)
    assert several.network.cost(schedule.variants, 3) * 6 == pytest.approx(several.spent)
    assert several.network.cost((), 7) == 7
    assert [several.network.fitting(4, budget) for budget in (9, 4, 3, 1.75, 1)] == [
        (0, 0, 0, 0),
        (0, 0, 0, 0),
        (2, 2, 0, 0),
        (2, 2, 2, 0),
        (2, 2, 2, 2),
    ]


def test_variants_are_part_of_a_schedule() -> None:
    chosen = SCHEDULE.replace(variants=(0, 1, 0, 1))
    assert chosen != SCHEDULE
    assert hash(chosen) != hash(SCHEDULE)
    assert chosen.settings() == SCHEDULE.settings() | {"variants": [0, 1, 0, 1]}
    assert SCHEDULE.replace(variants=[0, 0, 0, 0]) == SCHEDULE
    assert chosen.part(1, 3).variants == (1, 0)
    assert chosen.part(2).first == 2
    assert chosen.replace(times=[900, 500, 300, 20, -1]).variants == chosen.variants
    assert chosen.replace(times=[900, 500, -1]).variants == ()
    assert chosen.replace(sampler="heun").variants == ()
    assert chosen.replace(network_times=SCHEDULE.network_times * 0.9).variants == chosen.variants
    assert not chosen.replace(tuned={"a": 1}).replace(variants=()).tuned
    assert "variant 1" in str(chosen)
    assert "variant" not in str(SCHEDULE)
    x = ttune.sample(denoiser(), chosen.part(0, 2), X_T)
    whole = ttune.sample(denoiser(), chosen, X_T)
    assert torch.equal(ttune.sample(denoiser(), chosen.part(2), x, from_state=True), whole)


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ((1, 0), "variants must hold one number per network evaluation, 4, or none, got 2"),
        ((0, 1, -1, 0), "variants must be whole numbers >= 0"),
        ((0, 1, 0.5, 0), "variants must be whole numbers >= 0"),
        ((0, True, 0, 0), "variants must be whole numbers >= 0"),
        (3, "variants must be a sequence of whole numbers, got 3"),
    ],
)
def test_wrong_variants_are_refused(variants: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SCHEDULE.replace(variants=variants)


def test_the_file(tmp_path: Path) -> None:
    chosen = SCHEDULE.replace(variants=(0, 1, 0, 1), model=denoiser().identity())
    chosen.save(tmp_path / "a.json")
    assert Schedule.load(tmp_path / "a.json") == chosen
    ttune.sample(denoiser(), Schedule.load(tmp_path / "a.json"), X_T)
    content = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "b.json").write_text(json.dumps(content | {"variants": [0, 1, 1, 1]}))
    with pytest.raises(ValueError, match="its digest does not match"):
        Schedule.load(tmp_path / "b.json")
    (tmp_path / "b.json").write_text(json.dumps(content | {"variants": [0, 1], "digest": ""}))
    with pytest.raises(ValueError, match=r"b\.json: variants must hold one number per network evaluation"):
        Schedule.load(tmp_path / "b.json")
    # A file from before there were variants keeps its digest.
    SCHEDULE.save(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text())
    assert content.pop("variants") == []
    (tmp_path / "d.json").write_text(json.dumps(content))
    assert Schedule.load(tmp_path / "d.json") == SCHEDULE


def test_what_cannot_use_variants_says_so() -> None:
    chosen = SCHEDULE.replace(variants=(0, 1, 0, 2))
    with pytest.raises(ValueError, match="its variants must be less than 2, the number of networks, got 2"):
        ttune.sample(denoiser(), chosen, X_T)
    with pytest.raises(ValueError, match=r"chooses variant [12] of the network, and this denoiser's network is no ttune\.Variants"):
        ttune.sample(EXACT.denoiser(), chosen, X_T)
    mixed = SCHEDULE.replace(variants=(0, 1, 0, 1))
    with pytest.raises(ValueError, match=r"must not choose variants of a network, which ttune\.numpy has not, got \[0, 1, 0, 1\]"):
        Plan.make(mixed)
    with pytest.raises(ValueError, match=r"got a ttune\.Variants: freeze each of its networks"):
        ttune.freeze_time(denoiser(), mixed, sample_shape=(4,))
    with pytest.raises(ValueError, match="evaluation must be given"):
        denoiser().outputs(X_T, 3.0)
    several = denoiser()
    alike = SCHEDULE.replace(variants=(1, 1, 1, 1))
    x = CompiledSampler(several, alike, compile=False)(X_T)
    torch.testing.assert_close(x, ttune.sample(denoiser(), alike, X_T))
    assert several.spent == pytest.approx(0.6 * several.evaluations)
    torch.testing.assert_close(CompiledSampler(denoiser(), mixed, compile=False)(X_T), ttune.sample(denoiser(), mixed, X_T))
    assert several.differences(EXACT.denoiser().identity()) == ["variants is 2, the schedule was tuned for None"]


@pytest.mark.parametrize(
    ("networks", "costs", "error", "message"),
    [
        ([], [], TypeError, "networks must be callables, at least one"),
        ([EXACT, 3], [1, 0.5], TypeError, "networks must be callables"),
        ([EXACT, rough], [1], ValueError, r"one per network, the first 1, got \[1.0\] for 2"),
        ([EXACT, rough], [0.5, 1], ValueError, "the first 1"),
        ([EXACT, rough], [1, -0.5], ValueError, "positive numbers"),
        ([EXACT, rough], [1, float("nan")], ValueError, "positive numbers"),
    ],
)
def test_wrong_networks_and_costs_are_refused(networks: list, costs: list, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Variants(networks, costs)


# ---------------------------------------------------------------------------------------------------- skipped layers


class Block(nn.Module):
    def __init__(self, width: int, out: int | None = None, kind: str = "tensor") -> None:
        super().__init__()
        self.linear = nn.Linear(width, out or width)
        self.kind = kind

    def forward(self, x: Tensor, scale: float = 1.0) -> object:
        y = self.linear(x) * scale
        y = x + y if y.shape == x.shape else y
        return {"tensor": y, "tuple": (y,), "pair": (y, x), "dict": {"y": y}}[self.kind]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Block(4)
        self.inner = nn.ModuleList([Block(4), nn.Sequential(Block(4), Block(4))])
        self.odd = Block(4, kind="tuple")
        self.pair = Block(4, kind="pair")
        self.wide = Block(4, 6)
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        x = self.inner[1](self.inner[0](self.first(x, scale=0.5), scale=0.3))
        (x,) = self.odd(x)
        x, _ = self.pair(x)
        return self.last(self.wide(x))


def test_the_named_blocks_are_passed_by_and_nothing_else_changes() -> None:
    network = Net().double()
    before, tau = copy.deepcopy(network.state_dict()), torch.zeros(3)
    whole = network(X_T, tau)
    skipped = skip_layers(network, ["first", "inner.1.0", "odd"])
    by_hand = copy.deepcopy(network)
    for block in (by_hand.first, by_hand.inner[1][0], by_hand.odd):  # pyright: ignore[reportIndexIssue]
        nn.init.zeros_(block.linear.weight)
        nn.init.zeros_(block.linear.bias)
    for _ in range(2):  # the first call looks at the blocks
        torch.testing.assert_close(skipped(X_T, tau), by_hand(X_T, tau))
    assert not torch.allclose(skipped(X_T, tau), whole)
    assert torch.equal(network(X_T, tau), whole)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [type(module).__name__ for module in network.modules()].count("Passed") == 0
    # Weights are shared, those of what is skipped are gone, and moving the copy moves the original.
    mine = {p.data_ptr() for p in skipped.parameters()}
    assert mine < {p.data_ptr() for p in network.parameters()}
    assert len(mine) == len(list(network.parameters())) - 6
    with torch.no_grad():
        network.last.bias += 1
    torch.testing.assert_close(skipped(X_T, tau), by_hand(X_T, tau) + 1)


def test_blocks_that_cannot_be_skipped_are_named() -> None:
    network, tau = Net().double(), torch.zeros(3)
    for names, error, message in (
        (["first", "nothing", "inner.7"], ValueError, r"has none called \['nothing', 'inner.7'\]"),
        ([""], ValueError, r"has none called \[''\]"),
        ([], ValueError, "at least one name"),
        ("first", ValueError, "must be a sequence"),
        (["inner.1", "inner.1.0"], ValueError, "'inner.1.0' inside 'inner.1'"),
        (["wide"], ValueError, r"block 'wide' cannot be skipped: .*\(3, 4\), got \(3, 6\)"),
        (["pair"], TypeError, "block 'pair' cannot be skipped: it must make one tensor of another, got tuple of Tensor"),
    ):
        with pytest.raises(error, match=message):
            skip_layers(network, names, example=(X_T, tau))
    late = skip_layers(network, ["wide"])
    for _ in range(2):  # it does not forget
        with pytest.raises(ValueError, match="block 'wide' cannot be skipped"):
            late(X_T, tau)
    with pytest.raises(TypeError, match=r"network must be a torch\.nn\.Module, got function"):
        skip_layers(rough, ["first"])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="skip layers first"):
        skip_layers(torch.compile(network), ["first"])  # pyright: ignore[reportArgumentType]


def test_a_residual_block_of_the_bundled_network() -> None:
    torch.manual_seed(0)
    network = UNet(8, 16, 16).eval()
    for parameter in network.parameters():  # some layers begin at zero
        nn.init.normal_(parameter, std=0.2)
    x, tau = torch.randn(2, 1, 28, 28), torch.full((2,), 300.0)
    light = skip_layers(network, ["middle", "up2_attention"], example=(x, tau))
    assert not torch.allclose(light(x, tau), network(x, tau), atol=1e-3)
    assert not light.training
    with pytest.raises(ValueError, match=r"block 'up2' cannot be skipped: .*\(2, 32, 7, 7\), got \(2, 16, 7, 7\)"):
        skip_layers(network, ["up2"], example=(x, tau))
    several = Denoiser(Variants([network, light], [1.0, 0.8]), NOISE)
    schedule = SCHEDULE.replace(variants=(0, 1, 1, 0))
    x_0 = ttune.sample(several, schedule, x)
    assert several.spent == pytest.approx(2 * 3.6)
    assert not torch.equal(x_0, ttune.sample(several, SCHEDULE, x))
    assert several.identity()["parameter_shapes"] != Denoiser(network, NOISE).identity()["parameter_shapes"]
    np.testing.assert_array_equal(ttune.sample(several, SCHEDULE, x), ttune.sample(Denoiser(network, NOISE), SCHEDULE, x))
