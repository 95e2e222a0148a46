"""Models in ONNX, run by ONNX Runtime itself: as denoisers and in the loop for arrays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ttune
from tests.adapters.small import Small, noise_like, tuned
from ttune import NoiseSchedule
from ttune import numpy as tnp

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

NOISE = NoiseSchedule.linear()
X_T = noise_like(3, 2, 6, 6, dtype=torch.float32)
TYPES = {"double": onnx.TensorProto.DOUBLE, "float": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}


def model(time: str = "float", shape: list[Any] | None = None, name: str = "t") -> bytes:
    """The arithmetic of :class:`Small` with labels, node by node."""
    network = Small(scale=1000, dtype=torch.float32)
    make = onnx.helper.make_node
    constants = {
        "w1": network.first.weight,
        "b1": network.first.bias,
        "w2": network.last.weight,
        "b2": network.last.bias,
        "table": network.label.weight,
        "k": torch.arange(1, 9)[None] * 3 / 1000,
    }
    nodes = [
        make("Cast", [name], ["tf"], to=onnx.TensorProto.FLOAT),
        make("Reshape", ["tf", "column"], ["tc"]),
        make("Mul", ["tc", "k"], ["angle"]),
        make("Sin", ["angle"], ["wave"]),
        make("Gather", ["table", "y"], ["label"]),
        make("Add", ["wave", "label"], ["embedding"]),
        make("Unsqueeze", ["embedding", "axes"], ["grid"]),
        make("Conv", ["x", "w1", "b1"], ["conv"], pads=[1, 1, 1, 1]),
        make("Add", ["conv", "grid"], ["hidden"]),
        make("Tanh", ["hidden"], ["active"]),
        make("Conv", ["active", "w2", "b2"], ["eps"], pads=[1, 1, 1, 1]),
    ]
    tensors = [onnx.numpy_helper.from_array(v.detach().float().numpy(), k) for k, v in constants.items()]
    tensors += [onnx.numpy_helper.from_array(np.array(v), k) for k, v in {"column": [-1, 1], "axes": [2, 3]}.items()]
    info = onnx.helper.make_tensor_value_info
    inputs = [
        info("x", onnx.TensorProto.FLOAT, ["B", 2, 6, 6]),
        info(name, TYPES[time], ["B"] if shape is None else shape),
        info("y", onnx.TensorProto.INT64, ["B"]),
    ]
    graph = onnx.helper.make_graph(nodes, "small", inputs, [info("eps", onnx.TensorProto.FLOAT, ["B", 2, 6, 6])], tensors)
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def session(**kind: Any) -> Any:
    return runtime.InferenceSession(model(**kind), providers=["CPUExecutionProvider"])


def test_sampled_and_tuned_as_the_same_network_in_torch(tmp_path: Path) -> None:
    (tmp_path / "small.onnx").write_bytes(model())
    denoiser = ttune.onnx.denoiser(tmp_path / "small.onnx", NOISE, providers=["CPUExecutionProvider"])
    twin = ttune.Denoiser(Small(scale=1000, dtype=torch.float32), NOISE)
    schedule, labels = tuned(NOISE, "dpmpp_2m", 5), {"y": torch.tensor([1, 2, 3])}
    mine, theirs = (ttune.sample(d, schedule, X_T, conditions=labels) for d in (denoiser, twin))
    assert (mine - theirs).abs().max() / theirs.abs().max() < 1e-5
    x_T, conditions = noise_like(8, 2, 6, 6, dtype=torch.float32), {"y": torch.arange(8) % 4}
    start = ttune.Schedule.build(NOISE, "ddim", 2, "log_snr")
    result = ttune.tune(denoiser, start, x_T=x_T, conditions=conditions, iterations=1, search_starts=False, fallback=False, progress=False)
    assert not np.array_equal(result.schedule.network_times, start.network_times)


@pytest.mark.parametrize("kind", [{}, {"shape": []}, {"shape": [1]}, {"time": "double", "name": "timestep"}])
def test_the_loop_for_arrays(kind: dict[str, Any]) -> None:
    network = ttune.onnx.network(session(**kind))
    labels = np.array([1, 2, 3])
    schedule = tuned(NOISE, "dpmpp_2m", 5)
    plan = tnp.Plan.make(schedule)
    registers = plan.start(X_T.numpy())
    for step in plan.steps:
        registers = step(registers, [network(registers["x"], step.network_times, y=labels)])
    twin = ttune.Denoiser(Small(scale=1000, dtype=torch.float32), NOISE)
    expected = ttune.sample(twin, schedule, X_T, conditions={"y": torch.from_numpy(labels)})
    assert np.abs(registers["x"] - expected.numpy()).max() / expected.abs().max() < 1e-5


def test_whole_times_are_not_truncated() -> None:
    denoiser = ttune.onnx.denoiser(session(time="int64"), NOISE)
    assert denoiser.integer_time
    labels, schedule = {"y": torch.tensor([1, 2, 3])}, tuned(NOISE, "ddim", 4)
    with pytest.raises(ValueError, match="knows whole times only"):
        ttune.sample(denoiser, schedule, X_T, conditions=labels)
    with pytest.raises(ValueError, match=r"t must be whole, as this model's input is \(tensor\(int64\)\), got 480\.5"):
        ttune.onnx.network(session(time="int64"))(X_T.numpy(), 480.5, y=np.arange(3))
    whole = schedule.with_integer_times()
    mine = ttune.sample(denoiser, whole, X_T, conditions=labels)
    theirs = ttune.sample(ttune.Denoiser(Small(scale=1000, dtype=torch.float32), NOISE), whole, X_T, conditions=labels)
    assert (mine - theirs).abs().max() / theirs.abs().max() < 1e-5


@pytest.mark.parametrize("label", [3.7, float("nan"), 1e30])
def test_conditions_of_whole_inputs_are_not_truncated(label: float) -> None:
    network, x = ttune.onnx.network(session()), X_T.numpy()
    with pytest.raises(ValueError, match=r"y must fit this model's input, tensor\(int64\), without being rounded, got"):
        network(x, 3.0, y=np.array([1.0, 2.0, label]))
    np.testing.assert_array_equal(network(x, 3.0, y=np.array([1.0, 2.0, 3.0])), network(x, 3.0, y=np.array([1, 2, 3])))


def test_what_does_not_fit_is_refused() -> None:
    network, x, y = ttune.onnx.network(session()), X_T.numpy(), np.arange(3)
    with pytest.raises(ValueError, match=r"conditions must give \['y'\], inputs of the model, got \[\]"):
        network(x, 3.0)
    with pytest.raises(ValueError, match=r"conditions must be inputs of the model, \['y'\], got 'label'"):
        network(x, 3.0, y=y, label=y)
    with pytest.raises(ValueError, match=r"time must be one of \['x', 't', 'y'\], got 'tau'"):
        ttune.onnx.network(session(), time="tau")
    with pytest.raises(ValueError, match="the same for all samples, this model has one for the batch"):
        ttune.onnx.network(session(shape=[]))(x, np.array([1.0, 2.0, 3.0]), y=y)
    with pytest.raises(ValueError, match="providers go with the path of a model"):
        ttune.onnx.network(session(), providers=["CPUExecutionProvider"])


class Node:
    def __init__(self, name: str, kind: str = "tensor(float)", shape: tuple[Any, ...] = ("B",)) -> None:
        self.name, self.type, self.shape = name, kind, list(shape)


class Bound:
    """A session as a server may hold it: its inputs in any order, its output always in the same memory (IO binding)."""

    def __init__(self, *inputs: Node) -> None:
        self.inputs, self.memory, self.fed = inputs, np.empty((2, 1, 2, 2), np.float32), {}

    def get_inputs(self) -> tuple[Node, ...]:
        return self.inputs

    def get_outputs(self) -> tuple[Node, ...]:
        return (Node("out"),)

    def run(self, names: list[str], feed: dict[str, Any]) -> list[Any]:
        self.fed = feed
        self.memory[:] = feed["x"] * 0.5 + feed["t"].reshape(-1, 1, 1, 1) / 1000 + feed.get("y", 0)
        return [self.memory]


IMAGE = ("B", 1, 2, 2)


@pytest.mark.parametrize("inputs", [("x", "t"), ("t", "x"), ("y", "t", "x"), ("t", "y", "x")])
def test_inputs_in_any_order_and_an_output_in_one_memory(inputs: tuple[str, ...]) -> None:
    made = Bound(*(Node(name, shape=IMAGE if name == "x" else ("B",) if name == "t" else (1,)) for name in inputs))
    network, x = ttune.onnx.network(made), np.ones((2, 1, 2, 2), np.float32)
    more = {"y": np.array([1.0])} if "y" in inputs else {}
    first = network(x, 100.0, **more)
    kept, second = first.copy(), network(2 * x, 200.0, **more)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(second, 1 + np.float32(0.2) + len(more))
    schedule = tuned(NOISE, "pndm", 4)
    plan = tnp.Plan.make(schedule)
    registers = plan.start(x)
    for step in plan.steps:
        registers = step(registers, [network(registers["x"], step.network_times, **more)])
    twin = ttune.Denoiser(lambda z, tau: z * 0.5 + tau.reshape(-1, 1, 1, 1) / 1000 + len(more), NOISE)
    expected = ttune.sample(twin, schedule, torch.from_numpy(x)).numpy()
    assert np.abs(registers["x"] - expected).max() / np.abs(expected).max() < 1e-5


def test_inputs_that_cannot_be_the_time_and_values_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="time must be an input of at most one dimension, got 'embedding'"):
        ttune.onnx.network(Bound(Node("x", shape=IMAGE), Node("embedding", shape=("B", 77, 8))))
    with pytest.raises(ValueError, match="sample and time must be two inputs, got 't' for both"):
        ttune.onnx.network(Bound(Node("x", shape=IMAGE), Node("t")), sample="t")
    half = ttune.onnx.network(Bound(Node("x", "tensor(float16)", IMAGE), Node("t", "tensor(float16)")))
    with pytest.raises(ValueError, match=r"x must fit this model's input, tensor\(float16\), got 1e\+06"):
        half(np.full((2, 1, 2, 2), 1e6, np.float32), 1.0)
    assert half(np.full((2, 1, 2, 2), 1e3, np.float32), 1.0).dtype == np.float32
    small = ttune.onnx.network(Bound(Node("x", shape=IMAGE), Node("t"), Node("y", "tensor(uint8)", (1,))))
    with pytest.raises(ValueError, match=r"y must fit this model's input, tensor\(uint8\), without being rounded, got 300"):
        small(np.ones((2, 1, 2, 2), np.float32), 1.0, y=np.array([300]))


def test_the_loop_for_arrays_has_as_many_outputs_as_it_is_guided_by() -> None:
    schedule, x = tuned(NOISE, "ddim", 2), np.ones((2, 1, 2, 2), np.float32)
    plain, guided = tnp.Plan.make(schedule), tnp.Plan.make(schedule, guidance_scale=3.0)
    with pytest.raises(ValueError, match="outputs must be 1, by the guidance_scale of the plan, got 2"):
        plain.steps[0](plain.start(x), [x, x.copy()])
    with pytest.raises(ValueError, match="outputs must be 2, by the guidance_scale of the plan, got 1"):
        guided.steps[0](guided.start(x), [x])
    with pytest.raises(ValueError, match="outputs must be two arrays, got one memory twice"):
        guided.steps[0](guided.start(x), [x, x])
    assert np.isfinite(guided.steps[0](guided.start(x), [x, x.copy()])["x"]).all()


def test_without_torch() -> None:
    code = """
import sys
sys.modules["torch"] = None
import ttune
assert callable(ttune.onnx.network)
try:
    ttune.edm
except AttributeError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.startswith("ttune.edm needs torch, which is not installed"), run.stderr
