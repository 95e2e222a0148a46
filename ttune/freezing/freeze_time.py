"""``freeze_time``: what a network computes from the time and fixed conditions alone, as rows of tables.

The times of a tuned schedule are K fixed numbers. A module whose output depends on them and on conditions that do not change,
but not on the state, has K outputs; here they are computed once and looked up. In a DiT that spares a third of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ttune.freezing.choice import choose
from ttune.freezing.dependence import same_bits
from ttune.freezing.observation import Runs, Target, neighbours, tensors_of
from ttune.freezing.report import FreezeReport, make_report, spared
from ttune.freezing.rows import Rows, StepIndex
from ttune.messages.names import must_be_one_of
from ttune.network.denoiser import Denoiser
from ttune.network.identity import shapes_of
from ttune.schedule.schedule import Schedule

_KEEP = ("memory", "offload", "release")


class FrozenTime(nn.Module):
    """A network that was frozen in place: call it like the network, or go on using the network itself.

    ``report`` says what was frozen; :meth:`undo` puts the modules back.
    """

    def __init__(self, network: Callable[..., Any], module: nn.Module, report: FreezeReport, keep: str) -> None:
        super().__init__()
        self.network = network
        self.report = report
        self.keep = keep
        self._module = (module,)  # in a tuple, so that the module is not registered twice
        self._replaced: list[tuple[nn.Module, str, nn.Module | None]] = []
        self._moved: list[tuple[Tensor, Tensor, torch.device]] = []
        self._forward: Callable[..., Any] | None = None
        self._undone = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network returns."""
        return self.network(*args, **kwargs)

    def undo(self) -> None:
        """Put the modules back, with the weights they had, bit for bit, and on their devices.

        RuntimeError if they were released (``keep="release"``), or are back already.
        """
        if self._undone:
            raise RuntimeError("undo: the modules are back already")
        if any(original is None for _, _, original in self._replaced):
            raise RuntimeError('undo: the weights were released (keep="release"); load the network again')
        for parent, name, original in self._replaced:
            parent._modules[name] = original
        for tensor, shared, device in self._moved:
            tensor.data = shared.to(device)
        (module,) = self._module
        if self._forward is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = self._forward
        for holder in (module, self.network, self):
            if isinstance(holder, nn.Module):
                holder.__dict__.pop("unfrozen_shapes", None)
        self._replaced, self._moved, self._undone = [], [], True

    def _put(self, rows: Mapping[nn.Module, Rows]) -> None:
        (module,) = self._module
        # A schedule knows a network by its shapes (ttune.network.identity).
        for holder in (module, self.network):
            if isinstance(holder, nn.Module):
                holder.__dict__["unfrozen_shapes"] = shapes = shapes_of(holder)
                if holder is self.network:
                    self.__dict__["unfrozen_shapes"] = shapes
        for parent in list(module.modules()):
            for name, child in list(parent._modules.items()):
                if child is not None and child in rows:
                    self._replaced.append((parent, name, child))
                    parent._modules[name] = rows[child]
        self._forward = module.__dict__.get("forward")  # some libraries have set one before
        module.__dict__["forward"] = next(iter(rows.values())).step_index.run

    def _keep_weights(self, spared: Sequence[Tensor]) -> None:
        if self.keep == "release":
            self._replaced = [(parent, name, None) for parent, name, _ in self._replaced]
        elif self.keep == "offload":
            for tensor in spared:
                self._moved.append((tensor, tensor.data.cpu(), tensor.device))
                tensor.data = self._moved[-1][1]


def freeze_time(
    network: Callable[..., Any] | Denoiser,
    schedule: Schedule | Sequence[float],
    conditions: Mapping[str, Any] | None = None,
    *,
    module: nn.Module | None = None,
    sample_shape: Sequence[int] | None = None,
    batch: int = 1,
    varying: Sequence[str] = (),
    keep: str = "memory",
    time_dtype: torch.dtype | None = None,
    max_table_bytes: int | None = None,
    verify: bool = True,
    progress: bool = True,
) -> FrozenTime:
    """Replace, in place, every module that does not depend on the state by a table of what it returns at the steps of ``schedule``.

    The network is run once per step (and twice or three times more), following which of its tensors depend on the state;
    a module qualifies if none of its outputs does and they keep every bit when the state changes. Outputs of the network stay the
    same bit for bit at the same batch layout. The step is recognised from the time in the call, on the device: no
    synchronisation, one graph for all steps under torch.compile (freeze first, then compile). A time or condition that the rows were
    not made for gives NaN; in eager mode on the CPU, a ValueError that names it.

    Args:
        network: an nn.Module called as network(x, t, **conditions), a function around one (then name the ``module``), or a
            :class:`ttune.Denoiser`, whose network is then called as it calls it: with guidance on the doubled batch. For guidance
            of your own, freeze the network with ``batch=2 * B`` and the conditions of both halves.
        schedule: whose ``network_times`` are the K times; or the times themselves.
        conditions: keyword arguments of the network that stay as they are from now on. Rows that depend on them are stored
            per sample, unless the samples' are equal bit for bit.
        module: the nn.Module to look into, where ``network`` is not one. Its own call is where times and conditions are
            recognised, so a function may rescale the time on the way.
        sample_shape: of one state, without the batch; a Denoiser may know it. Later calls have the same shape.
        batch: B of the calls to come. Another one is possible where no row belongs to a sample (equal up to rounding), else a ValueError.
        varying: names of ``conditions`` that will change from call to call: example values, treated like the state.
        keep: "memory" keeps the replaced modules as they are, "offload" moves their weights to the CPU, "release" lets go of them
            (then there is no undo).
        time_dtype: of the times that the network will receive; float32, or float64 for a float64 network, unless given.
        max_table_bytes: a module whose tables need more stays as it is (those within it may still be frozen).
        verify: run the frozen network once, at the last step: the same bits as before, or RuntimeError and all is undone.
        progress: show a bar.

    Frozen weights get no gradients. One frozen network serves one thread at a time. ValueError: modules in training mode,
    a network that is compiled or frozen already, several time arguments, times that coincide in their dtype but have different rows.
    """
    times = _times(schedule)
    target = Target.of(network, schedule if isinstance(schedule, Schedule) else times, module, sample_shape, batch, time_dtype)
    conditions = dict(conditions or {})
    _check(target, times, conditions, varying, keep, batch)
    runs = Runs(target, conditions, tuple(varying), max_table_bytes)
    with torch.no_grad():
        for t in tqdm(times, desc="freezing", disable=not progress, leave=False):
            runs.step(t)
        expected = runs.other_state(times[-1])
        runs.other_batch(times[-1])
        frozen = _frozen(target, runs, keep)
        if verify:
            _verify(target, runs, frozen, times[-1], expected)
    frozen._keep_weights(spared(target.module, [m for _, _, m in frozen._replaced if m is not None]))
    return frozen


def _times(schedule: Schedule | Sequence[float]) -> list[float]:
    if isinstance(schedule, Schedule) and schedule.shift is not None:
        raise ValueError(f"schedule must have K fixed network times, it has {schedule.shift}, whose times depend on the state")
    times = schedule.network_times.tolist() if isinstance(schedule, Schedule) else [float(t) for t in schedule]
    if not times or not np.isfinite(times).all():
        raise ValueError(f"schedule must have at least one time, all finite, got {times}")
    return times


def _check(target: Target, times: Sequence[float], conditions: Mapping[str, Any], varying: Sequence[str], keep: str, batch: int) -> None:
    must_be_one_of("keep", keep, _KEEP)
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    unknown = [name for name in varying if name not in conditions]
    if unknown:
        raise ValueError(f"varying must name conditions, of {sorted(conditions)}, got {unknown}")
    if not target.time_dtype.is_floating_point and any(t != int(t) for t in times):
        raise ValueError(f"schedule must have whole times for time_dtype {target.time_dtype}, got {list(times)}")
    if hasattr(target.module, "_orig_mod"):
        raise ValueError("network must be frozen before it is compiled: freeze_time(network), then torch.compile(network)")
    if "unfrozen_shapes" in target.module.__dict__:
        raise ValueError("network is frozen already: undo() that first")
    training = [name or "the network" for name, m in target.module.named_modules() if m.training]
    if training:
        raise ValueError(f"network must be in eval mode, got {len(training)} modules in training mode, the first: {training[0]}")


def _frozen(target: Target, runs: Runs, keep: str) -> FrozenTime:
    """Put rows in the places of the modules that are chosen."""
    tables = choose(target.module, runs)
    belongs = next((runs.seen[m].name for m, ts in tables.items() for t in ts if t.read and t.batched and t.rows.shape[1] > 1), None)
    one_batch = f"rows of {belongs} belong to samples" if belongs else runs.one_batch
    depends = 0
    for m in tables:
        depends |= runs.seen[m].depends
    step_index = StepIndex(
        target.module.forward,
        runs.parameters,
        torch.stack(runs.keys),
        runs.time,
        runs.state,
        runs.state_shape,
        {path: value for path, (bit, value) in runs.fixed.items() if bit & depends},
        {path: value for path, value in runs.arguments.items() if not isinstance(value, Tensor)},
        frozenset(runs.arguments),
        one_batch,
    )
    report = make_report(target.module, {m: runs.seen[m].name for m in tables}, tables, len(runs.keys))
    frozen = FrozenTime(target.network, target.module, report, keep).eval()
    frozen._put({m: Rows(step_index, runs.seen[m].template, ts).eval() for m, ts in tables.items()})
    return frozen


def _verify(target: Target, runs: Runs, frozen: FrozenTime, t: float, expected: Any) -> None:
    conditions = {k: neighbours(v) if k in runs.varying else v for k, v in runs.conditions.items()}
    try:
        output = target.run(target.state(seed=1), target.time(t), conditions)
    except Exception as error:
        frozen.undo()
        raise RuntimeError(f"the network does not run without the modules that were frozen, all is undone: {error}") from error
    if not all(map(same_bits, tensors_of(output), tensors_of(expected))):
        difference = max(float((a - b).abs().max()) for a, b in zip(tensors_of(output), tensors_of(expected), strict=True))
        frozen.undo()
        raise RuntimeError(
            f"the frozen network must return the same bits as before, its output differs by up to {difference:.3g} (is the network random, "
            "or does it keep a state from call to call?); all is undone. verify=False accepts it"
        )
