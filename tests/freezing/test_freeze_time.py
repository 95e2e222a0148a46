"""A frozen network returns the bits of the original at every step, says no to anything else, and can be undone."""

from __future__ import annotations

import copy
import gc
import importlib.util
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import ttune
from tests.freezing.diffusers_networks import SMALL
from ttune import zoo
from ttune.freezing.dependence import Dependence
from ttune.freezing.rows import put_together, take_apart

needs_diffusers = pytest.mark.skipif(not importlib.util.find_spec("diffusers"), reason="diffusers is not installed")
TIMES = [999.0, 731.25, 400.5, 20.0]


class Linear(nn.Linear):
    """A layer that gives equal rows equal bits on every machine: a matrix product may round them differently."""

    def forward(self, input: Tensor) -> Tensor:
        return (input.unsqueeze(-2) * self.weight).sum(-1) + self.bias


class Modulated(nn.Module):
    """Time and label into a scale, a zero-initialised shift (as AdaLN-zero's) and a gate; ``mix`` depends on the state."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.time = nn.Sequential(Linear(2, width), nn.SiLU(), Linear(width, width))
        self.label = nn.Embedding(5, width)
        self.scale = Linear(width, width)
        self.shift = Linear(width, width)
        self.mix = Linear(width, width)
        self.gate_of_state = Linear(width, width)
        self.unused = Linear(width, width)
        self.context = Linear(3, width)
        for module in (self.shift, self.gate_of_state):
            nn.init.zeros_(module.weight)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        t = t.reshape(-1).expand(x.shape[0])
        e = self.time(torch.stack([t.sin(), t / 1000], 1).to(x.dtype))
        if label is not None:
            e = e + self.label(label)
        h = self.mix(x) * (1 + self.scale(e)) + self.shift(e)
        h = h + self.gate_of_state(x.mean(1, keepdim=True) + e)  # zero weights: its output never moves
        return h if context is None else h + self.context(context)


def network(dtype: torch.dtype = torch.float32) -> Modulated:
    torch.manual_seed(0)
    return Modulated().to(dtype).eval()


def outputs(
    call: Any, x: Tensor, conditions: dict[str, Any], times: list[float] = TIMES, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    with torch.no_grad():
        return [call(x, torch.full((x.shape[0],), t, dtype=torch.float64).to(dtype), **conditions) for t in times]


def identical(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


def freeze(target: Any, conditions: dict[str, Any] | None = None, **options: Any) -> ttune.FrozenTime:
    return ttune.freeze_time(target, TIMES, conditions, **{"sample_shape": (6,), "batch": 3, "progress": False, **options})


def frozen_names(frozen: ttune.FrozenTime) -> dict[str, int]:
    return {module.name: module.rows for module in frozen.report.modules}


LABELS = {"label": torch.tensor([4, 0, 2])}


@pytest.fixture(autouse=True)
def _compile_anew() -> None:
    torch._dynamo.reset()


# ------------------------------------------------------------------------------------------------------ which and how many


def test_modules_are_found_by_dependence_not_by_their_values() -> None:
    """``shift`` never moves and depends on time; ``gate_of_state`` never moves and depends on the state."""
    net = network()
    frozen = freeze(net)
    assert frozen_names(frozen) == {"time": 4, "scale": 4, "shift": 1}
    assert isinstance(net.gate_of_state, nn.Linear)
    assert isinstance(net.unused, nn.Linear)


def test_weights_and_tables_are_counted() -> None:
    net = network()
    total = sum(p.numel() * 4 for p in net.parameters())
    report = freeze(net).report
    linear = 4 * (6 * 6 + 6)
    assert report.network == total
    assert report.weights == 4 * (2 * 6 + 6) + 3 * linear
    assert report.tables == 4 * 6 * (4 + 4 + 1)  # time, scale at four steps, shift at one; one row for all samples
    assert "3 modules frozen at 4 steps" in str(report)
    assert "1 row" in str(report)


def test_weights_that_others_share_are_not_counted_and_stay() -> None:
    net = network()
    net.mix.weight = net.scale.weight
    frozen = freeze(net, keep="release")
    assert {m.name: m.weights for m in frozen.report.modules}["scale"] == 4 * 6
    assert net.mix.weight.shape == (6, 6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("conditions", [{}, LABELS, LABELS | {"context": torch.ones(3, 3)}], ids=["time", "label", "label and context"])
def test_every_bit_is_the_same(dtype: torch.dtype, conditions: dict[str, Any]) -> None:
    conditions = {k: v.to(dtype) if v.is_floating_point() else v for k, v in conditions.items()}
    net, x = network(dtype), torch.randn(3, 6).to(dtype)
    time_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    expected = outputs(net, x, conditions, dtype=time_dtype)
    frozen = freeze(net, conditions)
    assert identical(outputs(net, x, conditions, dtype=time_dtype), expected)
    assert identical(outputs(frozen, x, conditions, dtype=time_dtype), expected)


def test_samples_may_stand_at_different_steps() -> None:
    net, x = network(), torch.randn(3, 6)
    t = torch.tensor([TIMES[2], TIMES[0], TIMES[3]])
    with torch.no_grad():
        expected = net(x, t, **LABELS)
        freeze(net, LABELS)
        assert torch.equal(net(x, t, **LABELS), expected)
        zero_dim, per_sample = net(x, torch.tensor(TIMES[1]), **LABELS), net(x, torch.full((3,), TIMES[1]), **LABELS)
    assert torch.equal(zero_dim, per_sample)


def test_rows_without_a_sample_serve_any_batch_and_others_say_no() -> None:
    net, x = network(), torch.randn(5, 6)
    expected = outputs(net, x, {})
    frozen = freeze(net)
    for got, right in zip(outputs(net, x, {}), expected, strict=True):
        torch.testing.assert_close(got, right)
    frozen.undo()
    freeze(net, LABELS)
    with pytest.raises(ValueError, match="batch size that the network was frozen for, 3, got 5: rows of label belong to samples"):
        net(x, torch.tensor(20.0), label=torch.arange(5))


def test_what_varies_is_treated_like_the_state() -> None:
    net, x = network(), torch.randn(3, 6)
    frozen = freeze(net, LABELS, varying=["label"])
    assert frozen_names(frozen) == {"time": 4}  # scale and shift see the label, a whole number without a gradient
    other = {"label": torch.tensor([1, 1, 3])}
    got = outputs(net, x, other)
    frozen.undo()
    assert identical(outputs(net, x, other), got)


def test_max_table_bytes_leaves_large_tables_out() -> None:
    net = network()
    frozen = freeze(net, LABELS | {"context": torch.randn(3, 3)}, max_table_bytes=4 * 3 * 6)
    assert frozen_names(frozen) == {"label": 1, "shift": 1, "context": 1}


class Zoo(nn.Module):
    """Outputs of every kind, a module called twice, one that is written into, one that takes randomness, one step only."""

    @dataclass
    class Both:
        scale: Tensor
        shift: Tensor | None
        name: str

    class Structured(nn.Module):
        def __init__(self, kind: str) -> None:
            super().__init__()
            self.kind = kind
            self.inner = nn.Linear(1, 4)

        def forward(self, t: Tensor) -> Any:
            e = self.inner(t[:, None] / 1000)
            if self.kind == "tuple":
                return e, [e * 2, None]
            if self.kind == "dict":
                return {"scale": e, "n": 3}
            return Zoo.Both(e, None, "both") if self.kind == "dataclass" else OrderedDict(scale=e)

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, t: Tensor) -> Tensor:
            return self.weight * torch.randn(len(t), 4)

    def __init__(self, *, noisy: bool = False) -> None:
        super().__init__()
        self.tuple, self.dict, self.dataclass, self.ordered = (Zoo.Structured(k) for k in ("tuple", "dict", "dataclass", "ordered"))
        self.twice, self.different = nn.Linear(1, 4), nn.Linear(1, 4)
        self.written, self.late = nn.Linear(4, 4), nn.Linear(1, 4)
        self.frequencies = nn.Linear(2, 4)
        self.noisy = Zoo.Noisy() if noisy else None
        self.passing = nn.Identity()

    def forward(self, x: Tensor, t: Tensor) -> dict[str, Tensor]:
        s = t[:, None] / 1000
        a, (b, _) = self.tuple(t)
        c = self.dict(t)
        d = self.dataclass(t)
        constant = self.written(torch.ones(len(t), 4))
        constant += x
        e = self.twice(s) + self.twice(s) + self.different(s) * self.different(2 * s)
        if t[0] < 500:
            e = e + self.late(s)
        e = e + self.frequencies(torch.tensor([[1.0, 2.0]]))  # (1, 4): no sample's
        if self.noisy is not None:
            e = e + self.noisy(t)
        return {"y": x * a + b * c["scale"] * c["n"] + self.passing(d.scale) + constant + e + self.ordered(t)["scale"]}


def test_structures_repeated_calls_and_writes() -> None:
    torch.manual_seed(0)
    net, x = Zoo().eval(), torch.randn(3, 4)
    call = lambda x, t: net(x, t)["y"]  # noqa: E731
    expected = outputs(call, x, {})
    frozen = freeze(call, module=net, sample_shape=(4,))
    names = frozen_names(frozen)
    assert names == {"tuple": 4, "dict": 4, "dataclass": 4, "ordered.inner": 4, "twice": 4, "written": 1, "frequencies": 1}
    for _ in range(2):  # what the network writes into is its own
        assert identical(outputs(call, x, {}), expected)
    for got, right in zip(outputs(call, x[:2], {}), expected, strict=True):
        torch.testing.assert_close(got, right[:2])


def test_random_modules_stay_and_a_random_network_is_refused() -> None:
    net = Zoo(noisy=True).eval()
    call = lambda x, t: net(x, t)["y"]  # noqa: E731
    with pytest.raises(RuntimeError, match="must return the same bits as before"):
        freeze(call, module=net, sample_shape=(4,))
    assert isinstance(net.twice, nn.Linear)  # undone
    frozen = freeze(call, module=net, sample_shape=(4,), verify=False)
    assert "noisy" not in frozen_names(frozen)


# ------------------------------------------------------------------------------------------------ other times and conditions


def test_an_unknown_time_is_an_error_or_nan_never_its_neighbour() -> None:
    net, x = network(), torch.randn(3, 6)
    freeze(net)
    t = torch.tensor([TIMES[0], 730.0, TIMES[3]])
    with pytest.raises(ValueError, match=r"t must be one of the times .*\[999.0, 731.25, 400.5, 20.0\], got 730.0"):
        net(x, t)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    with torch.no_grad():
        got, known = compiled(x, t), net(x, torch.full((3,), TIMES[0]))
        nowhere = compiled(x, torch.full((3,), torch.nan))
    assert got[1].isnan().all()
    assert torch.equal(got[0], known[0])
    assert nowhere.isnan().all()


def test_a_single_step_knows_its_time_too() -> None:
    net, x = network(), torch.randn(3, 6)
    expected = outputs(net, x, LABELS, [400.5])
    ttune.freeze_time(net, [400.5], LABELS, sample_shape=(6,), batch=3, progress=False)
    assert identical(outputs(net, x, LABELS, [400.5]), expected)
    with pytest.raises(ValueError, match=r"got 400\.0"):
        net(x, torch.full((3,), 400.0), **LABELS)
    assert torch.compile(net, fullgraph=True, backend="eager")(x, torch.full((3,), 400.0), **LABELS).isnan().all()


def test_other_conditions_are_an_error_or_nan() -> None:
    net, x, t = network(), torch.randn(3, 6), torch.full((3,), 20.0)
    freeze(net, LABELS)
    other = torch.tensor([4, 1, 2])
    with pytest.raises(ValueError, match=r"label must have the values that the network was frozen for"):
        net(x, t, label=other)
    got = torch.compile(net, fullgraph=True, backend="eager")(x, t, label=other)
    assert got.isnan().all(1).tolist() == [False, True, False]
    with pytest.raises(ValueError, match=r"label must be what the network was frozen for, torch.int64 .*, got None"):
        net(x, t)
    with pytest.raises(ValueError, match=r"context must be absent or None, .*, got torch.float32"):
        net(x, t, label=LABELS["label"], context=torch.ones(3, 3))


def test_equal_conditions_serve_any_batch() -> None:
    net, x = network(), torch.randn(2, 6)
    same = {"label": torch.tensor([2, 2, 2])}
    expected = outputs(net, x, {"label": torch.tensor([2, 2])})
    freeze(net, same)
    for got, right in zip(outputs(net, x, {"label": torch.tensor([2, 2])}), expected, strict=True):
        torch.testing.assert_close(got, right)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": 20.0}, r"t must be a torch.float32 tensor, .*, got float"),
        ({"t": torch.full((3,), 20.0, dtype=torch.bfloat16)}, r"t must be a torch.float32 tensor, .*, got torch.bfloat16"),
        ({"t": torch.full((2,), 20.0)}, r"t must be one time, or one per sample \(B,\) = \(3,\), got shape \(2,\)"),
        ({"x": torch.ones(3, 7)}, r"x must be \(B, \*\(6,\)\), .*, got \(3, 7\)"),
    ],
)
def test_calls_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    net = network()
    freeze(net)
    with pytest.raises(ValueError, match=message):
        net(**({"x": torch.ones(3, 6), "t": torch.full((3,), 20.0)} | change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "disk"}, r"keep must be one of .*, got 'disk'"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"varying": ["text"]}, r"varying must name conditions, of \[\], got \['text'\]"),
        ({"sample_shape": None}, "sample_shape must be given"),
        ({"time_dtype": torch.int64}, "whole times"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        freeze(network(), **options)


def test_networks_that_cannot_be_frozen() -> None:
    net = network()
    with pytest.raises(ValueError, match=r"eval mode, got .* the first: the network"):
        freeze(net.train())
    with pytest.raises(ValueError, match="frozen before it is compiled"):
        freeze(torch.compile(net.eval()))
    freeze(net)
    with pytest.raises(ValueError, match="frozen already"):
        freeze(net)
    inner = Stateful().eval()
    with pytest.raises(ValueError, match="none was found"):
        freeze(inner)
    with pytest.raises(ValueError, match="must receive the time in one argument, got none"):
        freeze(lambda x, t: inner(x) * t[:, None], module=inner)


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return self.inner(x)


def test_times_that_coincide_in_their_dtype() -> None:
    """As bfloat16, 999 and 998.5 are one number: the network is passed the same, so one row is right."""
    net, x = network(), torch.randn(3, 6)
    close = [999.0, 998.5, 20.0]
    expected = outputs(net, x, {}, close, torch.bfloat16)
    ttune.freeze_time(net, close, sample_shape=(6,), batch=3, time_dtype=torch.bfloat16, progress=False)
    assert identical(outputs(net, x, {}, close, torch.bfloat16), expected)


def test_times_that_coincide_with_different_rows_are_refused() -> None:
    """A function that rounds the time on its way to the module, and tells it the whole one by the back door."""
    net = network()

    def call(x: Tensor, t: Tensor) -> Tensor:
        net.scale.bias.data.fill_(float(t[0]))
        return net(x, t.bfloat16())

    with pytest.raises(ValueError, match=r"steps 0 and 1 must differ as torch.bfloat16, both are 1000.0, and scale has different rows"):
        ttune.freeze_time(call, [999.0, 998.5], module=net, sample_shape=(6,), batch=3, progress=False)


# --------------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("keep", ["memory", "offload"])
def test_undo_restores_every_bit(keep: str) -> None:
    net, x = network(), torch.randn(3, 6)
    modules, state, expected = dict(net.named_modules()), copy.deepcopy(net.state_dict()), outputs(net, x, LABELS)
    frozen = freeze(net, LABELS, keep=keep)
    assert dict(net.named_modules()) != modules
    frozen.undo()
    assert dict(net.named_modules()) == modules
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert identical(outputs(net, x, LABELS), expected)
    assert not {"forward", "unfrozen_shapes"} & set(vars(net))
    with pytest.raises(RuntimeError, match="back already"):
        frozen.undo()


def test_released_weights_are_gone() -> None:
    net, x = network(), torch.randn(3, 6)
    weight, expected = weakref.ref(net.scale.weight), outputs(net, x, LABELS)
    frozen = freeze(net, LABELS, keep="release")
    gc.collect()
    assert weight() is None
    assert identical(outputs(net, x, LABELS), expected)
    with pytest.raises(RuntimeError, match="released"):
        frozen.undo()


def test_a_copy_is_a_frozen_network_of_its_own() -> None:
    net, x = network(), torch.randn(3, 6)
    frozen = freeze(net, LABELS)
    other, expected = copy.deepcopy(net), outputs(net, x, LABELS)
    frozen.undo()
    net.mix.weight.data.zero_()
    assert identical(outputs(other, x, LABELS), expected)
    with pytest.raises(RuntimeError, match="only inside a call"):
        other.scale(torch.ones(3, 6))


def test_gradients_of_the_state_are_the_same() -> None:
    net, x, t = network(), torch.randn(3, 6, requires_grad=True), torch.full((3,), 20.0)
    (expected,) = torch.autograd.grad(net(x, t).square().sum(), x)
    freeze(net)
    (got,) = torch.autograd.grad(net(x, t).square().sum(), x)
    assert torch.equal(got, expected)


def test_another_dtype_leaves_the_times_alone() -> None:
    net = network()
    freeze(net)
    net.bfloat16()
    with torch.no_grad():
        assert net(torch.ones(3, 6).bfloat16(), torch.full((3,), 731.25)).isfinite().all()


# -------------------------------------------------------------------------------------------------------------- the hosts


@pytest.mark.parametrize("guidance", [None, 2.5])
@pytest.mark.parametrize("name", ["ddim_5", "dpmpp_2m_5"])
def test_the_bundled_model_samples_the_same_images(name: str, guidance: float | None) -> None:
    denoiser, schedule = zoo.load("fashion", guidance_scale=guidance), zoo.schedule(name)
    if guidance is not None:
        schedule = ttune.Schedule.build(denoiser.noise, "ddim", 5)
    conditions = {"class_label": torch.tensor([3, 9])}
    x_T = ttune.initial_noise(denoiser.noise, (1, 28, 28), range(2))
    expected = ttune.sample(denoiser, schedule, x_T, conditions=conditions)
    frozen = ttune.freeze_time(denoiser, schedule, conditions, batch=2, progress=False)
    assert torch.equal(ttune.sample(denoiser, schedule, x_T, conditions=conditions), expected)
    assert len(frozen.report.modules) == 7
    # The rounding of a compiled network: float32, five steps.
    compiled = ttune.CompiledSampler(denoiser, schedule)
    torch.testing.assert_close(compiled(x_T, conditions=conditions), expected, rtol=1e-4, atol=1e-4)
    frozen.undo()
    assert torch.equal(ttune.sample(denoiser, schedule, x_T, conditions=conditions), expected)


def test_guidance_at_some_steps_only_is_refused() -> None:
    denoiser = zoo.load("fashion")
    denoiser.guidance = ttune.ClassifierFree(2.5, {"class_label": 10}, interval=(0.5, 2.0))
    schedule, conditions = ttune.Schedule.build(denoiser.noise, "ddim", 5), {"class_label": torch.tensor([3, 9])}
    with pytest.raises(ValueError, match=r"guidance must be at work at all steps or at none, .* got \d guided steps of 5"):
        ttune.freeze_time(denoiser, schedule, conditions, batch=2, progress=False)
    denoiser.guidance = ttune.ClassifierFree(2.5, {"class_label": 10}, batched=False)
    with pytest.raises(ValueError, match="called twice"):
        ttune.freeze_time(denoiser, schedule, conditions, batch=2, progress=False)


@needs_diffusers
@pytest.mark.parametrize("name", SMALL)
def test_networks_of_diffusers(name: str) -> None:
    torch.manual_seed(0)
    net = SMALL[name]()
    conditions, x = net.conditions(2), torch.randn(2, *net.shape)
    times = [999.0, 731.0, 400.0, 20.0] if name == "dit" else TIMES
    expected = outputs(net.call, x, conditions, times)
    frozen = ttune.freeze_time(net.call, times, conditions, module=net.module, sample_shape=net.shape, batch=2, progress=False)
    assert identical(outputs(net.call, x, conditions, times), expected)
    names = " ".join(frozen_names(frozen))
    for part in {
        "dit": ("norm1.emb", "norm1.linear", "proj_out_1"),
        "unet": ("time_embedding", "time_emb_proj"),
        "unet_with_text": ("time_embedding", "time_emb_proj", "attn2.to_k", "attn2.to_v"),
        "flux": ("time_text_embed", "norm1.linear", "norm_out.linear"),
        "sd3": ("time_text_embed", "norm1.linear", "norm_out.linear"),
    }[name]:
        assert part in names
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(net.call, fullgraph=True, backend=counter)
    assert identical(outputs(compiled, x, conditions, times), expected)
    assert counter.frame_count == 1
    frozen.undo()
    assert identical(outputs(net.call, x, conditions, times), expected)


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_one_graph_serves_all_steps(backend: str) -> None:
    net, x = network(), torch.randn(3, 6)
    expected = outputs(net, x, LABELS)
    freeze(net, LABELS)
    counter = CompileCounterWithBackend(backend)
    got = outputs(torch.compile(net, fullgraph=True, backend=counter), x, LABELS)
    assert counter.frame_count == 1
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


# -------------------------------------------------------------------------------------------------------------- the parts


def test_dependence_is_followed_through_views_writes_and_whole_numbers() -> None:
    marks = Dependence()
    a, b, index = torch.randn(4), torch.randn(4), torch.tensor([1, 2])
    marks.mark(a, 1)
    marks.mark(index, 2)
    with marks, torch.no_grad():
        buffer = torch.zeros(4)
        view = buffer[:2]
        buffer.add_(a.detach())
        picked = b[index]
        like = torch.zeros_like(a)
        product = torch.stack([b * 2, b]).sum()
        target = torch.empty(4)
        torch.add(a, 1, out=target)
    assert [marks.of(t) for t in (buffer, view, picked, like, product, b, target)] == [1, 1, 2, 0, 0, 0, 1]
    assert marks.of({"x": (a, [index])}) == 3


def test_a_freed_storage_leaves_no_mark_behind() -> None:
    marks = Dependence()
    for _ in range(200):
        gone = torch.randn(4)
        marks.mark(gone, 1)
        del gone
        assert marks.of(torch.randn(4)) == 0


def test_structures_come_back_as_they_were() -> None:
    a, b = torch.ones(2), torch.zeros(3)
    value = {"both": Zoo.Both(a, None, "n"), "list": [1, (b, 2.5)], "nothing": None}
    tensors: list[Tensor] = []
    template = take_apart(value, tensors)
    assert len(tensors) == 2
    assert put_together(template, tensors) == value
    with pytest.raises(TypeError, match="a set cannot be taken apart"):
        take_apart({1, 2}, [])
