"""One run of a pipeline on a tuned schedule: its evaluation and what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttune.adapters.diffusers.evaluation_counter import EvaluationCounter
from ttune.adapters.exchange import unshifted
from ttune.network.denoiser import Denoiser
from ttune.noise.schedules import Float64
from ttune.sampling.plan import Plan
from ttune.schedule.schedule import Schedule

Generators = torch.Generator | Sequence[torch.Generator] | None


class PipelineRun:
    """From ``set_timesteps`` on. ``bounds``: prediction_type, clip_sample, clip_epsilon, threshold of a denoiser; ``unit``: what the
    scheduler's time is at ttune's time 1; ``divisor`` and ``whole`` as of :class:`EvaluationCounter`; ``shift``: of the noise levels
    of a flow model that is passed its times without it (CogView4), 1 for all others."""

    def __init__(
        self,
        schedule: Schedule,
        bounds: dict[str, Any],
        unit: float,
        divisor: float,
        whole: bool,
        shift: float = 1.0,
    ) -> None:
        self.schedule, self.bounds, self.shift = schedule, bounds, shift
        times, trained = schedule.tableau().times, (schedule.noise.t_min, schedule.noise.t_max)
        # Untuned times are kept within the trained range, which is one of what the network is passed.
        untuned = schedule.network_times == np.clip(times, *trained)
        passed = np.where(untuned, np.clip(self.unshifted(times), *trained), self.unshifted(schedule.network_times))
        self.counter = EvaluationCounter(self.unshifted(times) * unit, passed * unit, divisor, whole=whole)
        self.from_image = False  # the run begins from a noised image, not from pure noise
        self.first: int | None = None  # the evaluation that it begins at, once that is known
        self._registers: dict[str, Tensor] = {}
        self._seeds: Tensor | None = None
        self._plan: Plan | None = None
        self._began = False

    def unshifted(self, times: Float64) -> Float64:
        """What the pipeline passes for ``times``, in ttune's unit."""
        return unshifted(times, self.shift)

    def shifted(self, passed: Float64) -> Float64:
        """The times for which the pipeline passes these."""
        return self.shift * passed / (1 + (self.shift - 1) * passed)

    def begin(self, index: int) -> None:
        """At evaluation ``index``: image to image. ValueError for samplers with several evaluations a step."""
        if index:
            self.schedule.part(index)  # says where that is not defined
        self.first = index
        self.counter.begin(index)

    def start_scale(self) -> float:
        """What the pure noise that a run begins with has to be multiplied by: below T a flow model's state is smaller.

        Flow pipelines ask no scheduler about it: the hooks do it to what the network sees at the first evaluation, :meth:`step` to
        what it gets.
        """
        if self.from_image or self.schedule.first or self.counter.index not in (None, 0):
            return 1.0
        return self.schedule.noise.start_scale(float(self.schedule.times[0]))

    def step(self, model_output: Tensor, time: float | Tensor, sample: Tensor, generator: Generators) -> Tensor:
        """The next state, from what the network said of ``sample`` at ``time``.

        RuntimeError where no network was passed its time.
        """
        index = self.counter.settle(time)
        self.counter.check_passed(index)
        x = sample * self.start_scale()
        if not self._began:
            self._start(index, sample, generator)
        assert self.first is not None
        assert self._plan is not None
        outputs = _outputs(model_output, sample)
        with torch.no_grad():
            registers = self._plan.advance(index - self.first, {**self._registers, "x": x}, outputs, self._seeds)
        self._registers = {name: tensor for name, tensor in registers.items() if name != "x"}
        self.counter.advance()
        return registers["x"]

    def _start(self, index: int, sample: Tensor, generator: Generators) -> None:
        self._began, self.first = True, index
        schedule = self.schedule.part(index) if index else self.schedule
        tableau = schedule.tableau()
        learned = any(stage.log_variance is not None for stage in tableau.stages)
        # All of a denoiser but the network, which the pipeline calls, and guidance, which it does.
        shell = Denoiser(_absent, schedule.noise, learned_variance=learned, **self.bounds)
        self._plan = Plan.make(shell, schedule, sample.device)
        self._seeds = _seeds(generator, sample) if tableau.stochastic else None


def check_host_can(schedule: Schedule) -> None:
    """ValueError for what only ttune's own loop can do."""
    for what, is_there in {
        "times per sample (a shift)": schedule.shift is not None,
        "variants of the network": bool(schedule.variants),
        f"noise before the first evaluation ({schedule.sampler} with churn)": schedule.tableau().start is not None,
    }.items():
        if is_there:
            raise ValueError(f"schedule must do without {what}, which a pipeline cannot do; sample with ttune.sample")


def _outputs(model_output: Tensor, sample: Tensor) -> list[Tensor]:
    """The prediction, and the learned variance where there is one, in the state's dtype."""
    output, shape = model_output.to(sample.dtype), tuple(sample.shape)
    if output.shape == sample.shape:
        return [output]
    if sample.ndim > 1 and tuple(output.shape) == (shape[0], 2 * shape[1], *shape[2:]):
        return list(output.chunk(2, 1))
    raise ValueError(f"model_output must have the shape of sample, {shape}, or twice its channels, got {tuple(output.shape)}")


def _absent(*_: Any, **__: Any) -> Tensor:
    raise RuntimeError("a scheduler has no network")


def _seeds(generator: Generators, sample: Tensor) -> Tensor:
    """One seed per sample, from one generator or one for each."""
    if isinstance(generator, Sequence):
        if len(generator) != len(sample):
            raise ValueError(f"generator must be one, or one per sample, {len(sample)}, got {len(generator)}")
        return torch.cat([_drawn(1, g) for g in generator]).to(sample.device)
    return _drawn(len(sample), generator).to(sample.device)


def _drawn(count: int, generator: torch.Generator | None) -> Tensor:
    device = None if generator is None else generator.device
    return torch.randint(2**62, (count,), dtype=torch.int64, generator=generator, device=device).cpu()
