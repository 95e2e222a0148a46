"""A network is known by its base weights, however it is wrapped and whatever adapters it has."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm
from torch.optim.swa_utils import AveragedModel

import ttune
from tests.oracles import standard_normal
from ttune import ClassifierFree, Denoiser, NoiseSchedule, Schedule, zoo
from ttune.network.identity import architecture, digest_of_weights, earlier_architectures, other_weights, signature

NOISE = NoiseSchedule.linear()


class Attention(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.to_q(x) + self.to_k(x).tanh() * self.to_v(x)


class Net(nn.Module):
    def __init__(self, width: int = 8, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv1d(1, width, 3, padding=1)
        self.attention = Attention(width)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        h = self.conv(x[:, None].float()).mT
        return self.out(self.norm(self.attention(h)))[..., 0].to(x.dtype)


class Lora(nn.Module):
    """As peft's: the layer itself beside what is added to it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(layer.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, layer.out_features, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


class IPAdapterProcessor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_k_ip = nn.ModuleList([nn.Linear(4, 8)])


class Wrapped(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        return self.model(x, tau)


def lora(net: Net) -> nn.Module:
    net.attention.to_q, net.out = Lora(net.attention.to_q), Lora(net.out)  # type: ignore[assignment, arg-type]
    return net


def lora_within_the_layer(net: Net) -> nn.Module:
    net.out.lora_down = nn.Linear(8, 2)
    net.out.register_parameter("lora_B", nn.Parameter(torch.zeros(1, 2)))
    return net


def fused(net: Net, *, beside: bool = True) -> nn.Module:
    layers = [net.attention.to_q, net.attention.to_k, net.attention.to_v]
    net.attention.to_qkv = nn.Linear(8, 24)
    with torch.no_grad():
        net.attention.to_qkv.weight.copy_(torch.cat([layer.weight for layer in layers]))
        net.attention.to_qkv.bias.copy_(torch.cat([layer.bias for layer in layers]))
    if not beside:
        del net.attention.to_q, net.attention.to_k, net.attention.to_v
        net.attention.forward = lambda x: (lambda q, k, v: q + k.tanh() * v)(*net.attention.to_qkv(x).chunk(3, -1))  # type: ignore[method-assign]
    return net


def ip_adapter(net: Net) -> nn.Module:
    net.attention.processor = IPAdapterProcessor()
    net.encoder_hid_proj = type("MultiIPAdapterImageProjection", (Attention,), {})()
    return net


def old_weight_norm(net: Net) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weight_norm(net.conv)
    weight_norm(net.out)
    return net


def new_weight_norm(net: Net) -> nn.Module:
    parametrizations.weight_norm(net.out)
    return net


WRAPPINGS: dict[str, Callable[[Net], nn.Module]] = {
    "plain": lambda net: net,
    "DataParallel": nn.DataParallel,
    "compiled": torch.compile,
    "compiled DataParallel": lambda net: torch.compile(nn.DataParallel(net)),
    "EMA": AveragedModel,
    "a user's module": Wrapped,
    "two of them": lambda net: Wrapped(AveragedModel(net)),
    "LoRA": lora,
    "LoRA in a layer": lora_within_the_layer,
    "LoRA in DataParallel": lambda net: nn.DataParallel(lora(net)),
    "fused beside": fused,
    "fused instead": lambda net: fused(net, beside=False),
    "IP-Adapter": ip_adapter,
    "weight_norm": old_weight_norm,
    "weight_norm as a parametrisation": new_weight_norm,
    "float16": lambda net: net.half(),
    "bfloat16": lambda net: net.bfloat16(),
    "float64": lambda net: net.double(),
}


@pytest.mark.filterwarnings("error::UserWarning", "ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("wrapping", WRAPPINGS.values(), ids=WRAPPINGS)
def test_wrappers_and_adapters_do_not_make_another_network(wrapping: Callable[[Net], nn.Module]) -> None:
    plain, wrapped = Denoiser(Net(), NOISE), Denoiser(wrapping(Net()), NOISE)
    assert plain.identity()["parameter_shapes"] == wrapped.identity()["parameter_shapes"]
    for tuned_for, used in ((plain, wrapped), (wrapped, plain)):
        used.check_model(tuned_for.identity())


def test_a_wrapped_network_samples_with_the_schedule_of_the_plain_one() -> None:
    schedule = Schedule.build(NOISE, "ddim", 3).replace(model=Denoiser(Net(), NOISE).identity())
    x_T = standard_normal((2, 5)).float()
    expected = ttune.sample(Denoiser(Net(), NOISE), schedule, x_T)
    for wrapping in ("DataParallel", "EMA", "a user's module", "fused instead"):
        torch.testing.assert_close(ttune.sample(Denoiser(WRAPPINGS[wrapping](Net()), NOISE), schedule, x_T), expected)


@pytest.mark.parametrize("wrapping", ["plain", "DataParallel", "LoRA", "fused beside"])
def test_another_architecture_is_refused_without_hashes(wrapping: str) -> None:
    remembered = Denoiser(Net(), NOISE).identity()
    for other in (Net(width=16), nn.Sequential(nn.Linear(5, 5)), nn.ModuleList([Net(), nn.Linear(1, 1)])):
        wrapped = WRAPPINGS[wrapping](other) if isinstance(other, Net) and other.out.in_features == 8 else other
        with pytest.raises(ValueError, match="parameter_shapes is another") as caught:
            Denoiser(wrapped, NOISE).check_model(remembered)
        assert not re.search("[0-9a-f]{32}", str(caught.value))


def test_other_weights_warn_once_and_say_so() -> None:
    schedule = Schedule.build(NOISE, "ddim", 2).replace(model=Denoiser(Net(), NOISE).identity())
    other, x_T = Denoiser(Net(seed=1), NOISE), standard_normal((2, 5)).float()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for one in (schedule, schedule, schedule.replace(tuned={})):
            ttune.sample(other, one, x_T)
    assert len(caught) == 1
    assert "same architecture with other weights: tuned for another checkpoint" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert not re.search("[0-9a-f]{32}", str(caught[0].message))
    with pytest.warns(UserWarning, match="other weights"):
        ttune.CompiledSampler(Denoiser(Net(seed=1), NOISE), schedule, compile=False)


@pytest.mark.filterwarnings("error::UserWarning")
def test_check_model_false_goes_on() -> None:
    x_T = standard_normal((2, 5)).float()
    schedule = Schedule.build(NOISE, "ddim", 2)
    tuned_elsewhere = schedule.replace(model=Denoiser(Net(16), NOISE, name="a", clip_sample=1.0).identity())
    denoiser = Denoiser(Net(), NOISE, name="b")
    with pytest.raises(ValueError, match=r"tuned for another denoiser.*check_model=False \(--no-check-model\) goes on"):
        ttune.sample(denoiser, tuned_elsewhere, x_T)
    x_0 = ttune.sample(denoiser, tuned_elsewhere, x_T, check_model=False)
    torch.testing.assert_close(x_0, ttune.sample(denoiser, schedule, x_T))
    compiled = ttune.CompiledSampler(denoiser, tuned_elsewhere, compile=False, check_model=False)
    torch.testing.assert_close(compiled(x_T), x_0)
    with pytest.raises(ValueError, match="another denoiser"):  # after it was let pass, too
        ttune.sample(denoiser, tuned_elsewhere, x_T)


def test_the_message_says_what_to_type() -> None:
    remembered = Denoiser(Net(), NOISE, name="UNet2DModel", guidance=ClassifierFree(7.5, {})).identity()
    with pytest.raises(
        ValueError, match=r"guidance_scale is None, .*for 7.5; name is 'fashion', .*'UNet2DModel'\. Pass --model and "
    ) as caught:
        Denoiser(Net(), NOISE, name="fashion").check_model(remembered)
    assert "--guidance-scale 7.5" in str(caught.value)
    with pytest.raises(ValueError, match="Pass --model without --guidance-scale"):
        Denoiser(Net(), NOISE, guidance=ClassifierFree(7.5, {})).check_model(Denoiser(Net(), NOISE).identity())


@pytest.mark.filterwarnings("error::UserWarning")
def test_hashes_of_earlier_versions_are_read() -> None:
    """The bundled model's, in the gallery; and from inside a wrapper that they did not know."""
    fashion = zoo.load("fashion")
    for wrapping in (lambda net: net, nn.DataParallel, torch.compile, Wrapped):
        Denoiser(wrapping(fashion.modules()[0]), fashion.noise).check_model(
            {"parameter_shapes": "b00208cacd7b4fe79a8bf88507de04a272edb52bcfd608b47f786e2e173e073f"}
        )
    net = Net()
    (old,) = earlier_architectures([net]) & earlier_architectures([lora(copy.deepcopy(net))])
    Denoiser(lora(net), NOISE).check_model({"parameter_shapes": old})


@pytest.mark.parametrize("share", [0.02, 1.0])
def test_a_little_training_is_seen(share: float) -> None:
    net = Net(32)
    trained = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1 + share * torch.randn_like(parameter))
    assert other_weights(signature([net]), signature([trained]))
    assert other_weights(signature([net]), signature([trained.bfloat16()])) or share < 0.1


@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_not_at_hand_are_not_compared() -> None:
    known = signature([Net()])
    assert known is not None
    with torch.device("meta"):
        nowhere = Net()
    broken = Net()
    with torch.no_grad():
        broken.out.weight[0, 0] = float("nan")
    quantised = torch.ao.quantization.quantize_dynamic(Net(), {nn.Linear}, torch.qint8)
    for net in (nowhere, broken, quantised):
        assert signature([net]) is None
        assert architecture([net]) == architecture([Net()])
        assert not other_weights(signature([net]), known)
        assert digest_of_weights([net])  # for resuming, whatever they are
    assert not other_weights(known, {"of": "another version"})


def test_a_frozen_network_is_still_the_one_that_it_was() -> None:
    fashion = zoo.load("fashion")
    schedule = Schedule.build(fashion.noise, "ddim", 2).replace(model=fashion.identity())
    frozen = ttune.freeze_time(fashion, schedule, {"class_label": torch.zeros(1, dtype=torch.long)}, batch=1, verify=False, progress=False)
    try:
        fashion.check_model(schedule.model)
        Denoiser(frozen, fashion.noise).check_model({"parameter_shapes": schedule.model["parameter_shapes"]})
    finally:
        frozen.undo()


def test_freezing_does_not_pull_attention_apart() -> None:
    """Of its projections only the total size counts, frozen or not, also in a wrapper."""

    class Timed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.time = nn.Linear(1, 6)

        def forward(self, x: Tensor, tau: Tensor) -> Tensor:
            return super().forward(x + self.time(tau[:, None]), tau)

    net = Timed().eval()
    before = architecture([net])
    frozen = ttune.freeze_time(net, [900.0, 500.0], sample_shape=(6,), verify=False, progress=False)
    assert [architecture([one]) for one in (net, frozen, nn.Sequential(net))] == [before] * 3
    frozen.undo()
    assert architecture([net]) == before


def test_networks_of_a_stitched_denoiser_count_together() -> None:
    two = Denoiser(ttune.Stitched([Net(), Net(16)], [500.0]), NOISE)
    wrapped = Denoiser(ttune.Stitched([nn.DataParallel(Net()), lora(Net(16))], [500.0]), NOISE)
    wrapped.check_model(two.identity())
    assert two.identity()["parameter_shapes"] != Denoiser(Net(), NOISE).identity()["parameter_shapes"]
