"""A whole sampling loop that is compiled once, or replayed as one CUDA graph.

In :func:`ttune.sample` every stage has rows of its own. Here all stages have the same shape: coefficients and
network_times are tables, and the number of the stage is data on the device. So torch.compile makes one graph for all
steps, network included, and nothing in the loop waits for the device.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from types import FunctionType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch._C._dynamo.eval_frame import reset_code

from ttune import ops
from ttune.network.call_note import add_note
from ttune.network.conditions import layout, leaves, mapped
from ttune.network.denoiser import Conditions, Denoiser, Evaluation
from ttune.network.guidance import Classifier, Halves
from ttune.samplers.folding import START_DRAW, uniform_block
from ttune.sampling.per_sample_time import Shifting
from ttune.sampling.plan import Bound, Registers, Step, evaluations_of, folded, start_step
from ttune.sampling.sample import as_schedule, check_fits, seed_tensor, start_state, warn_of_plain_noise
from ttune.schedule.schedule import Schedule

Advance = Callable[[Registers, Conditions, Tensor | None, Tensor, Tensor], dict[str, Tensor]]


T = TypeVar("T")
CAPTURES = 8  # CUDA graphs that are kept, each with memory of its own
LAYOUTS = 64  # compiled steps that are kept


class Recent(Generic[T]):
    """The last ``most`` values that were asked for, by their keys."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: OrderedDict[Hashable, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._kept:
            while len(self._kept) >= self.most:  # first, for its memory may be needed
                self._kept.popitem(last=False)
            self._kept[key] = make()
        self._kept.move_to_end(key)
        return self._kept[key]

    def latest(self) -> T | None:
        return next(reversed(self._kept.values()), None)


@dataclass(frozen=True)
class _Capture:
    """A captured loop: what to fill before a replay, and where the result is afterwards."""

    replay: Callable[[], None]
    inputs: tuple[Tensor, dict[str, Any], Tensor | None]  # x_T, conditions, seeds
    x_0: Tensor
    step: Advance | None  # held, for the replay reads its constants

    def __call__(self, *given: Any) -> Tensor:
        for (_, mine), (_, new) in zip(leaves(self.inputs), leaves(given), strict=True):
            if isinstance(mine, Tensor):
                mine.copy_(new)
        self.replay()
        return self.x_0.clone()  # the next replay writes over it


class CompiledSampler:
    """:func:`ttune.sample` for one denoiser and one schedule, made for being called often.

    Args:
        denoiser, schedule: as for :func:`ttune.sample`; the schedule must fit the denoiser.
        check_model: refuse a schedule that was tuned for another model, as :func:`ttune.sample` does.
        compile: compile the step (network, guidance and update) with torch.compile; one graph serves all steps.
        cuda_graph: capture all steps in one CUDA graph per layout of the inputs (shapes, strides, dtypes of x_T and of all tensors in
            the conditions, and the other conditions' values) and replay it: a call copies its inputs, launches the graph once and
            copies the result. The last 8 graphs are kept. Needs CUDA tensors, and a network that can be captured. Not run on a GPU yet.
        options: for torch.compile, e.g. ``mode="max-autotune-no-cudagraphs"``. ``fullgraph=True`` and
            ``dynamic=False`` are set unless given: then every layout of the inputs has a graph of its own, and the last 64 are
            kept. ``dynamic=True`` makes graphs that serve all shapes.

    Results are those of :func:`ttune.sample` up to rounding. The noise of stochastic samplers depends on the seeds
    alone. Raises ValueError like :func:`ttune.sample`, and RuntimeError for ``cuda_graph`` without CUDA tensors.

        sampler = ttune.CompiledSampler(denoiser, schedule)
        x_0 = sampler(x_T, conditions={"class_label": labels})
    """

    def __init__(
        self,
        denoiser: Denoiser,
        schedule: Schedule | str | PathLike[str],
        *,
        compile: bool = True,
        cuda_graph: bool = False,
        check_model: bool = True,
        **options: Any,
    ) -> None:
        schedule = as_schedule(schedule)
        check_fits(denoiser, schedule, check_model=check_model)
        if compile and isinstance(denoiser.guidance, Classifier):
            raise ValueError("compile must be False for a denoiser with Classifier guidance: torch.compile cannot trace its gradient")
        self.denoiser = denoiser
        self.schedule = schedule
        self.cuda_graph = cuda_graph
        evaluations = evaluations_of(denoiser, schedule)
        stages = folded(denoiser, schedule, evaluations)
        self._evaluation, self._bound = _uniform(denoiser, schedule, evaluations)
        self._steps = len(stages)
        self._block = uniform_block(stages)
        self._stochastic = schedule.tableau().stochastic
        self._retained = tuple(dict.fromkeys(name for rows in stages for name in rows if name not in ("D", "x")))
        options = {"fullgraph": True, "dynamic": False, **options}
        self._compile = partial(torch.compile, **options) if compile else None
        self._by_layout = compile and options["dynamic"] is False
        self._per_device: dict[torch.device, tuple[Step | None, Advance, list[tuple[Tensor, Tensor]]]] = {}
        self._compiled: Recent[Advance] = Recent(LAYOUTS)
        self._captures: Recent[_Capture] = Recent(CAPTURES)

    def __call__(
        self,
        x_T: Tensor,
        *,
        conditions: Mapping[str, Any] | None = None,
        seeds: Tensor | Sequence[int] | None = None,
        from_state: bool = False,
    ) -> Tensor:
        """x_0 (B, ...) from ``x_T`` (B, ...), in its dtype; the other arguments as for :func:`ttune.sample`."""
        if not isinstance(x_T, Tensor) or not x_T.is_floating_point() or x_T.ndim < 1:
            raise TypeError(
                f"x_T must be a floating-point tensor (B, ...), got {x_T.dtype if isinstance(x_T, Tensor) else type(x_T).__name__}"
            )
        if self.cuda_graph and not x_T.is_cuda:
            raise RuntimeError(f"cuda_graph=True must be given CUDA tensors, got x_T on {x_T.device}")
        self.denoiser.check_conditions(conditions, x_T.shape[0])
        with torch.no_grad():
            if not from_state and x_T.device not in self._per_device:
                warn_of_plain_noise(self.schedule.noise, x_T)
            x = x_T if from_state else start_state(self.schedule, x_T)
            drawn = seed_tensor(seeds, x_T) if self._stochastic else None
            self.denoiser.count(self._steps * x.shape[0], self._evaluation)
            run = self._replay if self.cuda_graph else self._loop
            try:
                return run(x, dict(conditions or {}), drawn)
            except Exception as error:
                add_note(error, self._evaluation.network, x, None, conditions or {})
                raise

    def _loop(self, x: Tensor, conditions: Conditions, seeds: Tensor | None) -> Tensor:
        start, plain, numbers = self._on(x.device)
        if self._evaluation.scale is not None:
            conditions = self.denoiser.prepared(conditions, x)
        # A copy in the layout of the states to come: another layout would be another graph.
        registers = {"x": torch.empty_like(x).copy_(x)}
        if start is not None:
            registers = start(registers, (), seeds, START_DRAW)
        registers |= {name: torch.zeros_like(x) for name in self._retained}
        advance = self._fast(plain, registers["x"], conditions)
        for number, draw in numbers:
            registers = advance(registers, conditions, seeds, number, draw)
        return registers["x"]

    def _on(self, device: torch.device) -> tuple[Step | None, Advance, list[tuple[Tensor, Tensor]]]:
        """What comes first, one step as a function of the registers, and every step's number and draw, on ``device``."""
        if device not in self._per_device:
            bound = (
                None if self._bound is None or self.denoiser.threshold is None else Bound.make(self._bound, self.denoiser.threshold, device)
            )
            step = Step.make(self._block, float(self.schedule.times[0]), self.denoiser.clip_sample, device, bound)
            network_times = torch.tensor(self.schedule.network_times, dtype=torch.float64, device=device)
            denoiser, evaluation, retained, first = self.denoiser, self._evaluation, self._retained, self.schedule.first
            shifting = Shifting.make(self.schedule, device, whole=denoiser.integer_time)

            def advance(
                registers: Registers, conditions: Conditions, seeds: Tensor | None, number: Tensor, draw: Tensor
            ) -> dict[str, Tensor]:
                tau = ops.embedding_lookup(network_times, number) if shifting is None else shifting(number, registers["x"])
                outputs = denoiser.evaluate(registers["x"], tau, conditions, evaluation)
                after = step(registers, outputs, seeds, draw, number)
                return {name: after[name] for name in ("x", *retained)}

            # One tensor each and not views of one: torch.compile copies inputs that are not aligned to 16 bytes.
            numbers = [(torch.tensor(i, device=device), torch.tensor(first + i, device=device)) for i in range(self._steps)]
            start = start_step(self.schedule.tableau(), device)
            self._per_device[device] = (start, advance, numbers)
        return self._per_device[device]

    def _fast(self, advance: Advance, x: Tensor, conditions: Conditions) -> Advance:
        """``advance`` compiled, for inputs of this layout where sizes are not dynamic."""
        compile = self._compile
        if compile is None:
            return advance
        held = [conditions, conditions.null, conditions.both] if isinstance(conditions, Halves) else [conditions]
        key = (layout(x), *(layout(dict(part)) for part in held)) if self._by_layout else x.device

        def compiled() -> Advance:
            own = _own_code(advance)
            fast: Advance = compile(own)
            # Its graphs belong to the code object, and torch.compile does not free them by itself.
            weakref.finalize(fast, reset_code, own.__code__).atexit = False
            return fast

        return self._compiled.get(key, compiled)

    def _replay(self, x: Tensor, conditions: dict[str, Any], seeds: Tensor | None) -> Tensor:
        given = (x, mapped(lambda value: value.to(x.device), conditions), seeds)
        return self._captures.get(layout(given), lambda: self._capture(*given))(*given)

    def _capture(self, x: Tensor, conditions: dict[str, Any], seeds: Tensor | None) -> _Capture:
        inputs = x.clone(), mapped(torch.clone, conditions), None if seeds is None else seeds.clone()
        x_0, replay = recorded(partial(self._loop, *inputs), x.device)
        return _Capture(replay, inputs, x_0, self._compiled.latest())


def recorded(run: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, Callable[[], None]]:
    """``run`` as a CUDA graph: where its result is after a replay, and the replay."""
    # On a side stream, once before: the first run compiles, chooses algorithms and allocates workspaces.
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # What other threads do in the meantime, loading data for example, is no part of the capture and does not end it.
    with torch.cuda.device(device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        x_0 = run()
    return x_0, graph.replay


def _own_code(advance: Advance) -> Advance:
    """The same function with a code object of its own: torch.compile counts graphs per code object, and gives up at the ninth."""
    return FunctionType(advance.__code__.replace(), advance.__globals__, advance.__name__, advance.__defaults__, advance.__closure__)


def _uniform(
    denoiser: Denoiser, schedule: Schedule, evaluations: Sequence[Evaluation]
) -> tuple[Evaluation, list[tuple[float, ...]] | None]:
    """One evaluation that does for all steps, and for a threshold the rows of D; ValueError where steps differ in more than numbers."""
    if len({id(evaluation.network) for evaluation in evaluations}) > 1:
        raise ValueError("denoiser: one graph for all steps needs one network, and this schedule uses several; use ttune.sample")
    if any(stage.log_variance is not None for stage in schedule.tableau().stages):
        raise ValueError(f"schedule: {schedule.sampler!r} with a learned variance has no uniform step; use ttune.sample")
    if len({evaluation.scale is None for evaluation in evaluations}) > 1 or (
        getattr(denoiser.guidance, "rescale", 0.0) and len({evaluation.scale for evaluation in evaluations}) > 1
    ):
        raise ValueError("denoiser: one graph for all steps needs guidance at all of them or none, and its own scale only if not rescaled")
    one = dataclasses.replace(evaluations[0], index=None, time=None)
    return one, [evaluation.row for evaluation in evaluations] if denoiser.threshold is not None else None
