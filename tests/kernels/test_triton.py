"""The Triton kernels: interpreted on the CPU, compiled ahead of time for GPUs that are not here, and run on one that is."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cpu_backends import INTERPRETED
from ttune import ops
from ttune.kernels import library
from ttune.kernels import triton as triton_kernels

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
HERE = Path(__file__).parent
# Not in the process of the interpreter either: it captures no graphs, and takes milliseconds for every program of a launch.
needs_gpu = pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="torch finds no CUDA device, or Triton interprets")
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the process that test_interpreted_kernels starts")


# --------------------------------------------------------------------------------------------------------------- inputs

Case = tuple[str, tuple[Any, ...]]  # operator and arguments


def cases(dtype: torch.dtype) -> dict[str, Case]:
    """Every operator in every shape that its kernel tells apart."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32

    def tensors(n: int, *shape: int) -> list[Tensor]:
        return [torch.randn(shape, generator=generator).to(dtype) for _ in range(n)]

    def coeffs(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def times(*shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator) * 11 - 1).to(dtype)

    image = (2, 3, 16, 11)
    last = [x.contiguous(memory_format=torch.channels_last) for x in tensors(3, *image)]
    step = torch.tensor(1)
    special = tensors(3, 2, 40)
    special[0][0, :3] = torch.tensor([float("nan"), float("inf"), float("-inf")])
    found: dict[str, Case] = {
        "update": ("linear_update", (tensors(3, *image), coeffs(1, 3).float())),
        "update, table, clip": ("linear_update", (tensors(2, *image), coeffs(3, 3, 3), step, 0.3)),
        "update, strided coeffs": ("linear_update", (tensors(3, *image), coeffs(3, 2).t())),
        "update, channels last": ("linear_update", (last, coeffs(2, 3))),
        "update, mixed layouts": ("linear_update", ([*last, *tensors(1, *image)], coeffs(2, 4))),
        "update, misaligned": ("linear_update", ([x[1:] for x in tensors(2, 1201)], coeffs(1, 2))),
        "update, 17 rows": ("linear_update", (tensors(3, 700), coeffs(17, 3))),
        "update, 64 terms": ("linear_update", (tensors(64, 3, 7), coeffs(2, 64))),
        "update, 65 terms": ("linear_update", (tensors(65, 3, 7), coeffs(2, 65))),
        "update, 0-d": ("linear_update", (tensors(2), coeffs(2, 2))),
        "update, empty": ("linear_update", (tensors(2, 0, 3), coeffs(2, 2))),
        "update, NaN": ("linear_update", (special, torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.5, 0.0, 1.0, 1.0]]), None, 0.5)),
        "embedding": ("timestep_embedding", (1000 * times(7, 3), 32)),
        "embedding, flipped, odd": ("timestep_embedding", (1000 * times(5), 33, 1e4, True, 0.0, 2.0)),
        "embedding, one column": ("timestep_embedding", (times(5), 1)),
        "embedding, integers": ("timestep_embedding", (torch.tensor([0, 999, 2**40]), 320)),
        "embedding, 0-d": ("timestep_embedding", (times(), 6)),
        "lookup": ("embedding_lookup", (tensors(1, 9, 320)[0], times(6))),
        "lookup, long rows": ("embedding_lookup", (tensors(1, 9, 5, 333)[0], times(2, 2))),
        "lookup, scalars": ("embedding_lookup", (tensors(1, 9)[0], torch.tensor([-1.0, 3.0, 7.5, 8.0, 99.0, float("nan")]))),
        "lookup, integers": ("embedding_lookup", (tensors(1, 9, 16)[0], torch.tensor([[0, 8], [100, -5]]))),
        "lookup, sliced table": ("embedding_lookup", (tensors(1, 9, 50)[0][:, :16], times(3))),
        "products": ("inner_products", (tensors(2, *image), tensors(3, *image))),
        "products, several passes": ("inner_products", (tensors(5, 3, 111), tensors(9, 3, 111))),
        "products, channels last": ("inner_products", (last[:1], last[1:])),
        "products, empty": ("inner_products", (tensors(1, 0), tensors(2, 0))),
    }
    for gradient in ("", "_gradient"):
        operator = f"trajectory_loss{gradient}"
        target = tensors(1, *image)[0]
        each = torch.rand(image, generator=generator).to(wide)
        found |= {
            f"loss{gradient}, l2": (operator, (tensors(3, *image), coeffs(1, 3), target)),
            f"loss{gradient}, l1, clip": (operator, (tensors(2, *image), coeffs(1, 3), target, None, 0.5, each[:, 0, 0, 0], "l1")),
            f"loss{gradient}, huber, table": (operator, (tensors(2, *image), coeffs(3, 2, 3), target, step, 0.5, each, "huber", 0.7)),
            f"loss{gradient}, channels last": (operator, (last[:2], coeffs(1, 2), last[2])),
            f"loss{gradient}, mixed layouts": (operator, (last[:2], coeffs(1, 2), target, None, None, each)),
            f"loss{gradient}, one element": (operator, (tensors(2, 5), coeffs(1, 2), tensors(1, 5)[0])),
            f"loss{gradient}, empty": (operator, (tensors(2, 3, 0), coeffs(1, 2), tensors(1, 3, 0)[0])),
        }
    return found


def to(value: Any, device: str) -> Any:
    """Arguments on a device, with their strides; a slice stays a slice."""
    if isinstance(value, Tensor):
        if value.is_contiguous():
            return value.to(device)
        whole = value.as_strided((value.untyped_storage().nbytes() // value.element_size(),), (1,), 0).to(device)
        return whole.as_strided(value.shape, value.stride(), value.storage_offset())
    return type(value)(to(item, device) for item in value) if isinstance(value, list | tuple) else value


def call(name: str, case: Case) -> list[Tensor]:
    operator, arguments = case
    with ops.use_backend(name):
        result = getattr(torch.ops.ttune, operator).default(*arguments)
    return [result] if isinstance(result, Tensor) else list(result)


def assert_close(got: Tensor, wanted: Tensor, case: Case) -> None:
    operator, (first, *_) = case
    first = first[0] if isinstance(first, list) else first
    assert (got.shape, got.dtype, got.stride()) == (wanted.shape, wanted.dtype, wanted.stride())
    # One rounding of the result, which is all that a half type can differ by. The interpreter truncates float32 to
    # bfloat16, which is again one ulp. The rest: float32 arithmetic in another order, on terms of size 1 to 10.
    arithmetic = 1e-12 if first.dtype == torch.float64 else 1e-5
    rounding = torch.finfo(got.dtype).eps if got.dtype in (torch.bfloat16, torch.float16) else arithmetic
    terms = first.numel() if operator == "inner_products" else 1
    torch.testing.assert_close(got.cpu(), wanted, rtol=rounding, atol=arithmetic * max(1, terms**0.5), equal_nan=True)


# ------------------------------------------------------------------------------------------------------- interpreted


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_interpreted_kernels() -> None:
    """The operators' own tests and those below, with Triton's interpreter on CPU tensors. Left out: what takes it minutes
    (gradient checks call an operator thousands of times, a million elements are a thousand blocks), and the exact
    rounding of half types, where the interpreter truncates float32 to bfloat16 and misreads its subnormals."""
    out = (
        *("test_linear_update.py::test_half_bits_round_to_nearest_even", "test_linear_update.py::test_gradients["),
        *("test_philox.py::test_extreme_words_give_finite_noise", "test_philox.py::test_noise_is_independent_of_batch_layout_and_threads"),
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore"]
    command += [str(HERE / name) for name in ("test_linear_update.py", "test_philox.py", "test_triton.py")]
    command += ["-k", "not opcheck and not compiles and not compiled"]
    for name in out:
        command += ["--deselect", f"tests/kernels/{name}"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(command, cwd=HERE.parent.parent, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert re.search(r"\d\d+ passed", run.stdout), run.stdout[-1000:]


@interpreted
@pytest.mark.parametrize("dtype", DTYPES)
def test_interpreted_agree_with_the_reference(dtype: torch.dtype) -> None:
    for case in cases(dtype).values():
        for got, wanted in zip(call("triton", case), call("reference", case), strict=True):
            assert_close(got, wanted, case)


@interpreted
@pytest.mark.parametrize("step", [-1, 3, 2**40])
def test_a_step_outside_the_table_gives_nan(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the host must not read it."""
    from ttune.kernels.triton import linear_update, trajectory_loss

    for module in (linear_update, trajectory_loss):
        monkeypatch.setattr(module, "table_of", lambda coeffs, step: (coeffs.shape[0], *coeffs.stride()))
    index, terms = torch.tensor(step), [torch.zeros(2, 3), torch.ones(2, 3)]
    for out in linear_update.linear_update(terms, torch.ones(3, 2, 3), index, 0.5):
        assert out.isnan().all()
    loss, gradient = trajectory_loss.trajectory_loss_gradient(terms, torch.ones(3, 2, 3), terms[0], index, 0.5)
    assert loss.isnan().all()
    assert gradient.isnan().all()


@interpreted
def test_a_loop_over_blocks_counts_every_element_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples so large that a program takes several blocks, which would take the interpreter minutes: fewer programs."""
    from ttune.kernels.triton import inner_products, trajectory_loss

    monkeypatch.setattr(inner_products, "MOST_PARTS", 2)
    monkeypatch.setattr(trajectory_loss, "MOST_PARTS", 3)
    x, y = (torch.randint(-3, 4, (2, 3600)).float() for _ in range(2))  # whole numbers: sums are exact
    assert torch.equal(inner_products.inner_products([x], [x, y]), torch.stack([(x * x).sum(), (x * y).sum()])[None])
    loss, gradient = trajectory_loss.trajectory_loss_gradient([x], torch.ones(1, 1), y)
    assert torch.equal(loss, (x - y).square().sum(1))
    assert torch.equal(gradient, 2 * (x - y))


@interpreted
def test_interpreted_noise_is_independent_of_batch_and_layout() -> None:
    terms, seeds, coeffs = torch.randn(3, 2, 9, 61), torch.tensor([7, -8, 2**62]), torch.tensor([[0.5, 2.0]])
    outs = []
    with ops.use_backend("triton"):
        for layout in (torch.contiguous_format, torch.channels_last):
            outs.append(torch.full_like(terms, torch.nan, memory_format=layout))
            ops.linear_update_(outs[-1:], [terms], coeffs, seeds=seeds, draw=4)
        outs.append(torch.full_like(terms, torch.nan))
        for i in range(3):
            ops.linear_update_([outs[-1][i : i + 1]], [terms[i : i + 1]], coeffs, seeds=seeds[i : i + 1], draw=4)
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


# -------------------------------------------------------------------------------------------- compiled ahead of time


class Launches:
    """Stands in for the launch of kernels: records what would be launched, and compiles it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from triton.runtime.jit import JITFunction

        self.recorded: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

        def record(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
            assert all(isinstance(size, int) and 0 < size < 2**31 for size in grid)
            self.recorded.append((kernel, arguments, options))

        monkeypatch.setattr(JITFunction, "run", record)

    def compile(self, capability: int) -> Iterator[tuple[str, Any]]:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        for kernel, arguments, options in self.recorded:
            signature, constants, attributes = specialised(kernel, arguments)
            source = ASTSource(kernel, signature, constants, attributes)
            yield kernel.fn.__name__, triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def specialised(kernel: Any, arguments: tuple[Any, ...]) -> tuple[dict[str, Any], dict[Any, Any], dict[Any, Any]]:
    """The signature, the constants and the known divisibilities of a launch, as Triton's run time derives them."""
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}

    def type_of(value: Any, path: tuple[int, ...], parameter: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(type_of(item, (*path, i), parameter) for i, item in enumerate(value))
        free = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1 and free):
            constants[path] = value
            return "constexpr"
        if parameter.annotation_type:
            return parameter.annotation_type
        if free and (value.data_ptr() if isinstance(value, Tensor) else value) % 16 == 0:
            attributes[path] = [["tt.divisibility", 16]]
        if isinstance(value, Tensor):
            return "*" + NAMES[value.dtype]
        assert isinstance(value, int)
        return "i32" if -(2**31) <= value < 2**31 else "i64"

    assert len(arguments) == len(kernel.params)
    types = {p.name: type_of(value, (p.num,), p) for p, value in zip(kernel.params, arguments, strict=True)}
    return types, constants, attributes


NAMES = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int64: "i64"}
# The kernels that read or write the images, and for them what a 16-byte access is called.
STREAMS = {"update_kernel", "lookup_kernel", "products_kernel", "loss_kernel"}
WIDE = r"\.global(?:\.\w+)*\.(?:v4\.[bf]32|v2\.[bf]64)"


def resources(compiled: Any, folder: Path) -> dict[str, int]:
    """Registers, stack and local memory of a kernel: what NVIDIA's own tool, which comes with Triton, reads in it."""
    import triton

    path = folder / "kernel.cubin"
    path.write_bytes(compiled.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    text = subprocess.run([tool, "--dump-resource-usage", path], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}


def implementation(operator: str) -> Callable[..., Any]:
    return triton_kernels._load(operator)


def launch_noise(dtype: torch.dtype) -> None:
    terms, seeds, draw = [torch.zeros(2, 3, 16, 16, dtype=dtype) for _ in range(2)], torch.tensor([1, 2]), torch.tensor(3)
    run = implementation("linear_update_")
    run([torch.empty_like(terms[0]) for _ in range(2)], terms, torch.ones(3, 2, 4), torch.tensor(1), 0.5, seeds, draw)
    run([terms[0]], [], torch.ones(1, 1), None, None, seeds, None)


@pytest.mark.skipif(INTERPRETED, reason="an interpreted kernel is not compiled")
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_compile_ahead_of_time(dtype: torch.dtype, capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launches = Launches(monkeypatch)
    for name, (operator, arguments) in cases(dtype).items():
        if capability == 90 or name not in ("update, 17 rows", "update, 64 terms"):  # the longest to compile, once
            implementation(operator)(*arguments)
    launch_noise(dtype)
    seen = set()
    for name, compiled in launches.compile(capability):
        seen.add(name)
        used = resources(compiled, tmp_path)
        print(f"sm_{capability} {dtype} {name}: {used}")
    assert seen == {"update_kernel", "embedding_kernel", "lookup_kernel", "products_kernel", "loss_kernel", "finish_kernel"}


@pytest.mark.skipif(INTERPRETED, reason="an interpreted kernel is not compiled")
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_images_move_16_bytes_at_a_time_and_spill_nothing(
    dtype: torch.dtype, capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    launches = Launches(monkeypatch)
    image = [torch.zeros(2, 4, 64, 64, dtype=dtype) for _ in range(4)]
    implementation("linear_update")(image, torch.ones(2, 5), None, 1.0)
    implementation("linear_update_")(image[:1], image[1:], torch.ones(1, 4), None, None, torch.tensor([1, 2]), torch.tensor(0))
    implementation("embedding_lookup")(torch.zeros(9, 1024, dtype=dtype), torch.zeros(2))
    implementation("inner_products")(image[:1], image)
    implementation("trajectory_loss_gradient")(image[:2], torch.ones(1, 2), image[2])
    names = []
    for name, compiled in launches.compile(capability):
        names.append(name)
        ptx = compiled.asm["ptx"]
        if name in STREAMS:
            assert re.search("ld" + WIDE, ptx), name
            assert name == "products_kernel" or re.search("st" + WIDE, ptx), name
            used = resources(compiled, tmp_path)
            # In float64 the library's sine and cosine, which noise uses, keep a table of their own on the stack.
            assert used["LOCAL"] == 0
            assert used["STACK"] == 0 or dtype == torch.float64
    assert set(names) >= STREAMS


def test_every_operator_has_a_kernel() -> None:
    assert set(triton_kernels.MODULES) == set(library.REFERENCES)


# ------------------------------------------------------------------------------------------------------------- on a GPU


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_gpu_agrees_with_the_reference(dtype: torch.dtype) -> None:
    for operator, arguments in cases(dtype).values():
        wanted = call("reference", (operator, arguments))
        for got, right in zip(call("triton", (operator, to(arguments, "cuda"))), wanted, strict=True):
            assert got.device.type == "cuda"
            assert_close(got, right, (operator, arguments))


@needs_gpu
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (3, 4, 129, 127), (64, 4, 64, 64)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gpu_noise_is_that_of_the_reference(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    seeds = torch.arange(shape[0]) * 2**40 - 3
    wanted = ops.philox_normal(shape[1:], seeds, 2**35 + 1, torch.float64 if dtype == torch.float64 else torch.float32)
    with ops.use_backend("triton"):
        got = ops.philox_normal(shape[1:], seeds.cuda(), torch.tensor(2**35 + 1).cuda(), dtype)
        alone = ops.philox_normal(shape[1:], seeds[-1:].cuda(), torch.tensor(2**35 + 1).cuda(), dtype)
    bound = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 4 * torch.finfo(dtype).eps)
    torch.testing.assert_close(got.cpu().to(wanted.dtype), wanted, rtol=0, atol=bound)
    assert torch.equal(got[-1:], alone)


@needs_gpu
def test_gpu_half_types_round_to_nearest_even() -> None:
    every = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    for dtype in (torch.float16, torch.bfloat16):
        values = every.view(dtype)
        for scale in (1.0, 1 + 2.0**-11, 2.0**-3 + 2.0**-14):
            with ops.use_backend("triton"):
                (got,) = ops.linear_update([values.cuda()], torch.full((1, 1), scale).cuda())
            torch.testing.assert_close(got.cpu(), (values.float() * scale).to(dtype), rtol=0, atol=0, equal_nan=True)


@needs_gpu
def test_gpu_in_place_over_its_own_terms() -> None:
    """Blocks whose loads and stores are of different widths: outputs that are misaligned terms, crosswise."""
    terms = [torch.randn(3, 40_001)[:, 1:], torch.randn(3, 40_000), torch.randn(3, 40_001)[:, 1:].contiguous()]
    coeffs = torch.randn(2, 3, dtype=torch.float64)
    for chosen in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        columns = [terms[i] for i in chosen]
        wanted = ops.linear_update(columns, coeffs)
        flat = [torch.empty(column.numel() + i).cuda()[i:].view(3, -1).copy_(column) for i, column in enumerate(columns)]
        with ops.use_backend("triton"):
            ops.linear_update_([flat[1], flat[0]], flat, coeffs.cuda())
        torch.testing.assert_close(flat[1].cpu(), wanted[0])
        torch.testing.assert_close(flat[0].cpu(), wanted[1])


@needs_gpu
def test_gpu_a_step_outside_the_table_gives_nan() -> None:
    terms, coeffs = [torch.zeros(2, 3).cuda(), torch.ones(2, 3).cuda()], torch.ones(3, 2, 3).cuda()
    with ops.use_backend("triton"):
        for step in (-1, 3, 2**40):
            index = torch.tensor(step).cuda()
            assert all(out.isnan().all() for out in ops.linear_update(terms, coeffs, index, 0.5))
            assert ops.trajectory_loss(terms, coeffs, terms[0], index, 0.5).isnan().all()


@pytest.mark.gradcheck
@needs_gpu
def test_gpu_gradients() -> None:
    def gradcheck(function: Callable[..., Any], *arguments: Tensor) -> None:
        leaves = tuple(argument.double().cuda().requires_grad_() for argument in arguments)
        assert torch.autograd.gradcheck(function, leaves)

    index = torch.tensor(1).cuda()
    x, y, z = torch.randn(3, 2, 3, 4).unbind()
    with ops.use_backend("triton"):
        gradcheck(lambda c, a, b: tuple(ops.linear_update([a, b], c, index, 0.4)), torch.randn(3, 2, 3), x, y)
        gradcheck(lambda t: ops.timestep_embedding(t, 7), torch.rand(3) * 5)
        gradcheck(ops.embedding_lookup, torch.randn(5, 3), torch.tensor([0.3, 3.7]))
        gradcheck(lambda a, b: ops.inner_products([a], [b, a]), x, y)
        for kind in ("l2", "huber"):
            gradcheck(lambda c, a, b, t, k=kind: ops.trajectory_loss([a, b], c, t, index, 0.4, kind=k), torch.randn(3, 2, 3), x, y, z)


@needs_gpu
def test_gpu_graph_capture() -> None:
    """Every operator in one CUDA graph, replayed with a new step, draw, coefficients and images."""
    step, draw = torch.tensor(0).cuda(), torch.tensor(0).cuda()
    x, y, target = torch.randn(3, 4, 3, 32, 32).cuda().unbind()
    coeffs, seeds, weight = torch.randn(3, 1, 3).cuda(), torch.arange(4).cuda(), torch.rand(4).cuda()
    table, out = torch.randn(10, 64).cuda(), torch.empty_like(x)

    def everything() -> list[Tensor]:
        ops.linear_update_([out], [x, y], coeffs, step, seeds=seeds, draw=draw)
        (update,) = ops.linear_update([x, y, target], coeffs, step)
        loss = ops.trajectory_loss([x, y, target], coeffs, target, step, weight=weight, kind="huber")
        time = step.float().reshape(1) + 0.5
        return [
            out.clone(),
            update,
            loss,
            ops.inner_products([x], [y]),
            ops.embedding_lookup(table, time),
            ops.timestep_embedding(time, 32),
        ]

    with torch.no_grad(), ops.use_backend("triton"):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            everything()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = everything()
        for i in range(3):
            step.fill_(i)
            draw.fill_(10 + i)
            for tensor in (x, y, coeffs):
                tensor.copy_(torch.randn_like(tensor))
            graph.replay()
            for got, wanted in zip(captured, everything(), strict=True):
                assert torch.equal(got, wanted)


@needs_gpu
def test_gpu_sums_are_the_same_every_time() -> None:
    x, y = torch.randn(2, 8, 4, 128, 128).cuda().unbind()
    coeffs = torch.ones(1, 1).cuda()
    with ops.use_backend("triton"):
        products, losses = ops.inner_products([x], [y]), ops.trajectory_loss([x], coeffs, y)
        for _ in range(100):
            assert torch.equal(ops.inner_products([x], [y]), products)
            assert torch.equal(ops.trajectory_loss([x], coeffs, y), losses)
        assert torch.equal(ops.trajectory_loss([x[3:5]], coeffs, y[3:5]), losses[3:5])
