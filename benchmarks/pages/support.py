"""docs/reference/support.md: which pipelines of diffusers ``ttune.diffusers.apply`` serves. Each is built tiny, with random weights.

    python -m benchmarks support                        # all of tests/adapters/tiny_pipelines.py, some minutes
    python -m benchmarks support --only FluxPipeline    # some, into build/
    python -m benchmarks support --page                 # the page anew, from the result that there is

What is compared: a run with ``apply``, on a schedule whose steps are the pipeline's own and whose network times are not, against the
pipeline's own scheduler with a hook of a few lines that replaces the times. Exit status 1 where a row is wrong.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

import ttune
from benchmarks.machine import machine
from benchmarks.result_paths import ROOT, command, parser_of, result_path, write_json
from benchmarks.tables import table
from tests.adapters.tiny_pipelines import FLOW, PIPELINES, Tiny
from ttune.storage.atomic_write import write_atomically

PAGE = ROOT / "docs" / "reference" / "support.md"
STEPS = 4
NETWORKS = ("unet", "transformer", "transformer_2", "controlnet")
TIMES = ("timestep", "timesteps", "t")
AGREES = 1e-4  # of the largest element of the final state, in float32
INTRODUCTION = """# Pipelines of diffusers

What [`ttune.diffusers.apply`](../how-to/diffusers.md) does with {count} pipelines (and variants) of diffusers {diffusers}. Each has
networks of one layer with random weights and runs {steps} steps. Made by `python -m benchmarks support` with PyTorch {torch} at commit
{commit}.

- *Times*: the network was passed the schedule's times at every call, in the pipeline's own convention.
- *Difference*: of the final state. The other run is the pipeline's own scheduler on the same steps, with the same network times put in by a
  hook. It is the largest difference, as a fraction of the largest element.
- *Graphs, breaks*: of a run of the compiled network (`compile()` after `apply`). In brackets: what the pipeline has without ttune, where
  that is another number.

"""


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of("support", __doc__)
    parser.add_argument("--only", nargs="+", choices=list(PIPELINES), metavar="NAME", help="these pipelines; into build/")
    parser.add_argument("--page", action="store_true", help="run nothing: the page anew")
    args = parser.parse_args(argv)
    path = result_path("support.json", args.only is not None)
    if not args.page:
        report = {"command": command("support", argv), "machine": machine(), "rows": []}
        for name in args.only or PIPELINES:
            report["rows"].append({"pipeline": name} | row(PIPELINES[name]))
            print(*report["rows"][-1].values(), sep="  ", flush=True)
        write_json(path, report)
    report = json.loads(path.read_text())
    write_atomically(PAGE if args.only is None else path.with_suffix(".md"), page(report).encode())
    wrong = [one["pipeline"] for one in report["rows"] if not right(one)]
    if wrong:
        sys.exit(f"wrong: {', '.join(wrong)}")


def right(one: dict[str, Any]) -> bool:
    """Whether a row is served as it should be, or refused for the reason that its pipeline has."""
    if reason := PIPELINES[one["pipeline"]].refused:
        return reason in one.get("refused", "")
    return "refused" not in one and one["times"] and one["difference"] <= AGREES and one.get("graphs") == one.get("own_graphs")


def row(tiny: Tiny, *, compiled: bool = True) -> dict[str, Any]:
    """What comes of one pipeline."""
    own = Watched(tiny)
    own.run()
    schedule = own.schedule()
    served = Watched(tiny)
    made: dict[str, Any] = {"scheduler": type(own.pipeline.scheduler).__name__}
    try:
        ttune.diffusers.apply(served.pipeline, schedule, check_guidance=False)
    except ValueError as error:
        return made | {"refused": str(error)}
    expected = Watched(tiny)
    expected.replaced = own.next_steps()
    expected.run()
    served.watch()  # behind the hook that apply put there
    served.run()
    error = (served.state - expected.state).abs().max() / expected.state.abs().max()
    times = len(served.times) == len(expected.times) and torch.allclose(
        torch.tensor(served.times).double(), torch.tensor(expected.times).double(), rtol=1e-5, atol=1e-5 * max(expected.times)
    )
    made |= {"times": bool(times), "difference": float(error)}
    if compiled:
        made["graphs"], made["own_graphs"] = graphs(tiny, schedule), graphs(tiny, None)
    return made


class Watched:
    """A pipeline, what its network is passed at every call, and its state after the last step."""

    def __init__(self, tiny: Tiny) -> None:
        self.pipeline, self.call = tiny.build(), tiny.call()
        self.flow = tiny.scheduler == FLOW
        self.replaced: dict[float, float] = {}
        self.times: list[float] = []
        self.state = torch.empty(0)
        self._handles: list[Any] = []
        self.watch()

    def networks(self) -> list[nn.Module]:
        return [getattr(self.pipeline, name) for name in NETWORKS if getattr(self.pipeline, name, None)]

    def watch(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = [one.register_forward_pre_hook(self._called, with_kwargs=True) for one in self.networks()]

    def _called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = next((name for name in TIMES if name in kwargs), None)
        given = torch.as_tensor(args[1] if name is None else kwargs[name]).double()
        passed = float(given.max()) if given.ndim > 1 else float(given.reshape(-1)[0])
        tau = self.replaced.get(passed, passed)
        self.times.append(tau)
        if not self.replaced:
            return None
        new = torch.where(given == passed, torch.tensor(tau, dtype=torch.float64), given).float()
        return ((args[0], new, *args[2:]), kwargs) if name is None else (args, kwargs | {name: new})

    def run(self) -> None:
        scheduler = self.pipeline.scheduler
        step = scheduler.step

        @functools.wraps(step)
        def stepped(*args: Any, **kwargs: Any) -> Any:
            made = step(*args, **kwargs)
            self.state = (made[0] if isinstance(made, tuple) else made.prev_sample).detach()
            return made

        scheduler.step = stepped
        try:
            self.pipeline(num_inference_steps=STEPS, generator=torch.Generator().manual_seed(3), **self.call)
        finally:
            del scheduler.step

    def next_steps(self) -> dict[float, float]:
        """For what was passed at every step what is passed at the next; the last two are passed what the last but one was."""
        passed = list(dict.fromkeys(self.times))
        return dict(zip(passed, [*passed[1:-1], passed[-2], passed[-2]], strict=True))

    def schedule(self) -> ttune.Schedule:
        """The pipeline's own steps, with the network times of :meth:`next_steps`."""
        scheduler = self.pipeline.scheduler
        sampler = "euler" if self.flow else "ddim"
        listed = scheduler.sigmas.tolist() if self.flow else [*scheduler.timesteps.tolist(), -1.0]
        try:
            noise = ttune.diffusers.noise_of(scheduler)
            schedule = ttune.Schedule.build(noise, sampler, STEPS, listed)
        except (ValueError, AttributeError):  # apply has to refuse it
            return ttune.Schedule.build(ttune.NoiseSchedule.linear(), "ddim", STEPS)
        times = schedule.network_times
        return schedule.replace(network_times=[*times[1:-1], times[-2], times[-2]])


def graphs(tiny: Tiny, schedule: ttune.Schedule | None) -> list[int]:
    """Graphs and graph breaks of a run with compiled networks."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    pipeline = tiny.build()
    if schedule is not None:
        ttune.diffusers.apply(pipeline, schedule, check_guidance=False)
    backend: Callable[[Any, Any], Any] = lambda graph, inputs: graph  # noqa: E731
    for name in NETWORKS:
        if getattr(pipeline, name, None) is not None:
            getattr(pipeline, name).compile(backend=backend)
    pipeline(num_inference_steps=STEPS, generator=torch.Generator().manual_seed(3), **tiny.call())
    counters = torch._dynamo.utils.counters
    return [counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())]


def page(report: dict[str, Any]) -> str:
    """The page of a report."""
    about = report["machine"]
    served = [one for one in report["rows"] if "refused" not in one]
    refused = [one for one in report["rows"] if "refused" in one]
    text = INTRODUCTION.format(
        count=len(report["rows"]), steps=STEPS, commit=about["commit"], diffusers=about["diffusers"], torch=about["torch"]
    )
    made = [
        (one["pipeline"], one["scheduler"], "yes" if one["times"] else "NO", f"{one['difference']:.1e}", _graphs(one)) for one in served
    ]
    text += "\n".join(table(("pipeline", "scheduler", "times", "difference", "graphs, breaks"), made))
    text += "\n\nRefused by `apply`, before a run:\n\n"
    reasons = [(one["pipeline"], one["scheduler"], one["refused"]) for one in refused]
    return text + "\n".join(table(("pipeline", "scheduler", "reason"), reasons)) + "\n"


def _graphs(one: dict[str, Any]) -> str:
    mine, own = one["graphs"], one["own_graphs"]
    return ", ".join(map(str, mine)) + ("" if mine == own else f" ({', '.join(map(str, own))})")
