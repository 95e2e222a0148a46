"""A whole sampling that is compiled as one graph, or replayed as one CUDA graph."""

from __future__ import annotations

import re
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch._C._dynamo.eval_frame import reset_code

from ttune.messages.warn import warn
from ttune.network.call_note import add_note
from ttune.network.conditions import layout, leaves, mapped
from ttune.network.denoiser import Denoiser
from ttune.network.guidance import Classifier
from ttune.sampling.plan import Plan
from ttune.sampling.program import Program
from ttune.sampling.sample import as_schedule, check_fits, seed_tensor, started, warn_of_plain_noise
from ttune.sampling.traced import NOTHING, Function, Held, Trace, own_code
from ttune.schedule.schedule import Schedule

T = TypeVar("T")
CAPTURES = 8  # CUDA graphs that are kept, each with memory of its own
LAYOUTS = 64  # compiled graphs that are kept
LONGEST = 64  # evaluations in one graph: tracing and compiling take longer with each


class Recent(Generic[T]):
    """The last ``most`` values that were asked for, by their keys."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._values: OrderedDict[Hashable, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._values:
            while len(self._values) >= self.most:  # first, for its memory may be needed
                self._values.popitem(last=False)
            self._values[key] = make()
        self._values.move_to_end(key)
        return self._values[key]

    def latest(self) -> T | None:
        return next(reversed(self._values.values()), None)


@dataclass(frozen=True)
class _Capture:
    """A captured loop: what to fill before a replay, and where the result is afterwards."""

    replay: Callable[[], None]
    inputs: tuple[Tensor, dict[str, Any], Tensor | None]  # x_T, conditions, seeds
    x_0: Tensor
    function: Callable[..., Tensor]  # held, for the replay reads its constants

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
        compile: compile all steps (network, guidance and updates) as one graph with torch.compile. The network is traced and compiled once.
        unroll: compile every step by itself instead, its numbers constants: faster, and a first call that takes longer with every step.
        cuda_graph: capture all steps in one CUDA graph per layout of the inputs (shapes, strides, dtypes of x_T and of all tensors in
            the conditions, and the other conditions' values) and replay it: a call copies its inputs, launches the graph once and
            copies the result. The last 8 graphs are kept. Needs CUDA tensors, and a network that can be captured. Not run on a GPU yet.
        options: for torch.compile, e.g. ``mode="max-autotune-no-cudagraphs"``, or ``options={"size_asserts": False}``, which spares two
            microseconds per step and what would find a custom operator with a wrong fake. ``fullgraph=True`` and
            ``dynamic=False`` are set unless given: then every layout of the inputs has a graph of its own, and the last 64 are
            kept. ``dynamic=True`` makes graphs that serve all shapes. With it, with ``fullgraph=False``, for more than 64
            evaluations, and where torch cannot make one graph of a network's calls, a graph is a step.

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
        unroll: bool = False,
        cuda_graph: bool = False,
        check_model: bool = True,
        **options: Any,
    ) -> None:
        schedule = as_schedule(schedule)
        check_fits(denoiser, schedule, check_model=check_model)
        if compile and isinstance(denoiser.guidance, Classifier):
            raise ValueError("compile must be False for a denoiser with Classifier guidance: torch.compile cannot trace its gradient")
        options = {"fullgraph": True, "dynamic": False, **options}
        if unroll and not (compile and options["fullgraph"]):
            raise ValueError(f"unroll must be False without one graph, got compile={compile} and fullgraph={options['fullgraph']}")
        self.denoiser = denoiser
        self.schedule = schedule
        self.cuda_graph = cuda_graph
        self._compile = partial(_compiled, options) if compile else None
        self._unroll = unroll
        self._by_layout = options["dynamic"] is False
        self._whole = options["fullgraph"] and (unroll or (self._by_layout and len(schedule.network_times) <= LONGEST))
        plan = Plan.make(denoiser, schedule)
        self._plans = {torch.device("cpu"): plan}
        self._stochastic, self._guided, self._cost = plan.stochastic, plan.guided, plan.cost(denoiser)
        self._looked: set[torch.device] = set()  # where an x_T was looked at
        self._functions: Recent[Callable[..., Tensor]] = Recent(LAYOUTS)
        self._by_steps: set[Hashable] = set()  # layouts that torch cannot put into one graph
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
        denoiser = self.denoiser
        denoiser.check_conditions(conditions, x_T.shape[0])
        with torch.no_grad():
            plan = self._plan(x_T.device)
            if not from_state and x_T.device not in self._looked:
                self._looked.add(x_T.device)
                warn_of_plain_noise(self.schedule.noise, x_T)
            x = x_T if from_state else started(x_T, plan.start_scale)
            drawn = seed_tensor(seeds, x_T) if self._stochastic else None
            run = self._replay if self.cuda_graph else self._run
            counted = denoiser.evaluations, denoiser.spent
            try:
                return run(x, dict(conditions or {}), drawn)
            except Exception as error:
                add_note(error, plan.evaluations[0].network, x, None, conditions or {})
                raise
            finally:  # a graph does not count, and what captures one counts several times
                denoiser.evaluations = counted[0] + x.shape[0] * self._cost[0]
                denoiser.spent = counted[1] + x.shape[0] * self._cost[1]

    def _plan(self, device: torch.device) -> Plan:
        if device not in self._plans:
            self._plans[device] = Plan.make(self.denoiser, self.schedule, device)
        return self._plans[device]

    def _run(self, x: Tensor, conditions: dict[str, Any], seeds: Tensor | None) -> Tensor:
        if self._compile is None:
            key = x.shape[0], x.dtype, x.device
            program = self._functions.get(key, lambda: Program.make(self._plan(x.device), self.denoiser, x).run)
            return program(self.denoiser, {"x": x}, conditions, seeds=seeds)
        x = x if x.is_contiguous() else torch.empty_like(x).copy_(x)  # other strides are another graph
        held = Held.of(self.denoiser.prepared(conditions, x) if self._guided else conditions) if conditions else NOTHING
        inputs = tuple((each.shape, each.stride()) for each in (x, *held.tensors)) if self._by_layout else ()
        key = x.dtype, x.device, inputs, held.key
        whole = self._whole and key not in self._by_steps
        try:
            return self._functions.get((key, whole), lambda: self._function(x, held, whole))(x, held.tensors, seeds)
        except Exception as error:
            if not whole or self._unroll:
                raise
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        # Not all that a network may do works in a region: constant tensors, for one, do not in torch 2.13's Inductor.
        x_0 = self._functions.get((key, False), lambda: self._function(x, held, False))(x, held.tensors, seeds)
        self._by_steps.add(key)
        warn(f"the sampling could not be compiled as one graph ({reason}); it is a graph for every kind of step, as with fullgraph=False")
        return x_0

    def _function(self, x: Tensor, held: Held, whole: bool) -> Function:
        """The sampling of states like ``x`` with conditions like those that are ``held``: one graph, or a graph for every kind of step."""
        trace = Trace(self._plan(x.device), self.denoiser, held, torch.float64 if x.dtype == torch.float64 else torch.float32)
        if not whole:
            return trace.function(self._graph, x.device)
        return self._graph(trace.function(None if self._unroll else torch.compiler.nested_compile_region, x.device))

    def _graph(self, function: Function) -> Function:
        assert self._compile is not None
        own = own_code(function)
        fast = self._compile(own)
        # Its graphs belong to the code object, and torch.compile does not free them by itself.
        weakref.finalize(fast, reset_code, own.__code__).atexit = False
        return fast

    def _replay(self, x: Tensor, conditions: dict[str, Any], seeds: Tensor | None) -> Tensor:
        given = (x, mapped(lambda value: value.to(x.device), conditions), seeds)
        return self._captures.get(layout(given), lambda: self._capture(*given))(*given)

    def _capture(self, x: Tensor, conditions: dict[str, Any], seeds: Tensor | None) -> _Capture:
        inputs = x.clone(), mapped(torch.clone, conditions), None if seeds is None else seeds.clone()
        x_0, replay = recorded(partial(self._run, *inputs), x.device)
        function = self._functions.latest()
        assert function is not None
        return _Capture(replay, inputs, x_0, function)


def _compiled(options: Mapping[str, Any], function: Function) -> Function:
    if "mode" not in options:  # torch.compile takes one of them, and takes the filter out of the dictionary
        options = {**options, "options": {"guard_filter_fn": _needed, **(options.get("options") or {})}}
    return torch.compile(function, **options)


# Names of guards: local variables of the traced function and of a step's, globals of their modules and of those that they use.
_OURS = re.compile(
    r"L\['(plan|steps|numbers|indices|dtype|evaluations|step|denoiser|held|evaluation|shifting|outputs|rows|columns)'\]"
    r"|(list\(dict\.keys\()?G\['(?!__import_)|(list\(dict\.keys\()?G\['__import_(ttune_|torch_dot_utils_dot__pytree|torch_dot__)"
)
_USERS = re.compile(r"\.(network|function|threshold|guidance)\b")


def _needed(guards: Sequence[Any]) -> list[bool]:
    """Which guards of a graph are looked at, at every call: those on inputs and on the user's functions and modules. Those on the plan, its
    steps and the denoiser's settings, which are those of the sampler's construction, took as long as two steps of a small image."""
    names = [entry.orig_guard.name for entry in guards]
    return [not _OURS.match(name) or _USERS.search(name) is not None for name in names]


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
