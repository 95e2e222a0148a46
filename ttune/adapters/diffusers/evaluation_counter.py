"""Which evaluation a diffusers scheduler is at, and which time the network is passed there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttune.adapters.timestep_override import HostTimes
from ttune.noise.schedules import Float64

# Relative: a time is rounded once to the dtype that the pipeline passes it in, and once more where it is divided by 1000.
_SLACK = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
_FINE = 1e-6


@dataclass(frozen=True)
class Convention:
    """How a pipeline passes the scheduler's time t on to its network: ``offset + factor * t``."""

    offset: float
    factor: float

    def __call__(self, time: float) -> float:
        return self.offset + self.factor * time


AS_IT_IS = Convention(0.0, 1.0)


class EvaluationCounter(HostTimes):
    """The evaluations of a scheduler that counts them itself (:meth:`advance`). ``times`` and ``network_times`` are in its unit of time.

    Guidance may call the network as often as it likes at one evaluation. ``divisor``: what some pipelines divide the time by before the
    network sees it (the number of training steps). ``whole``: for a network that knows whole times only.

    Times on the CPU are compared with the evaluation's at every call. Times on another device are read at a run's first call; later
    ones are compared there, and whether all agreed is read once, after the last evaluation.
    """

    def __init__(self, times: Float64, network_times: Float64, divisor: float, *, whole: bool = False) -> None:
        super().__init__(
            times, network_times, "timestep", "the pipeline must pass on its scheduler's timesteps as they are, fractions included"
        )
        self.whole = whole
        # As most do; divided (Flux); what is left of it (Lumina 2, Z-Image).
        self.conventions = (AS_IT_IS, Convention(0.0, 1.0 / divisor), Convention(1.0, -1.0 / divisor))
        self.begin(None)

    def begin(self, index: int | None) -> None:
        """A run starts, at evaluation ``index``; None: at the one whose time the pipeline passes first."""
        self.index = index
        self.last_passed: int | None = None  # the last evaluation at which a network was passed its time
        self._unread: Tensor | None = None  # whether a time on another device was another

    def advance(self) -> None:
        """The scheduler made the step of the evaluation that it is at; ValueError after the last, if a time was another's."""
        self.index = 1 + (0 if self.index is None else self.index)
        if self.index == len(self.times) and self._unread is not None and bool(self._unread):
            raise ValueError(f"timestep was not the schedule's at some evaluation of this run; {self.rule()}")

    def settle(self, time: Tensor | float) -> int:
        """The evaluation that the scheduler is at; ValueError if it is not at ``time``."""
        return self._evaluation(torch.as_tensor(time), AS_IT_IS)[0]

    def check_passed(self, index: int) -> None:
        """RuntimeError where the step of evaluation ``index`` is made and no network was passed its time."""
        t, tau = self.times[index], self.network_times[index]
        if self.last_passed != index and tau != t:
            raise RuntimeError(
                f"at evaluation {index} no network was passed {tau:.6g} instead of {t:.6g}: call ttune.diffusers.apply(pipeline) on the "
                f"pipeline that samples"
            )

    def passed(
        self, given: Tensor | float | int, device: torch.device, known: Convention | None, *, left: bool = False
    ) -> tuple[Tensor, Convention | None]:
        """What the network is passed where the pipeline says ``given``, of its shape, float32 (float64 for float64) on ``device``; and
        the pipeline's convention, ``known`` from an earlier call or seen at this one (None where more than one agrees: ``left`` says
        whether it is then the last of them).

        Times per token that say "clean" (of the image that a video begins with) stay as they are.
        """
        time = torch.as_tensor(given)
        index, agreeing = self._evaluation(time, known)
        self.last_passed, convention = index, agreeing[-1 if left else 0]
        dtype = torch.int64 if self.whole else torch.float64 if time.dtype == torch.float64 else torch.float32
        passed = torch.full(time.shape, convention(float(self.network_times[index])), dtype=dtype, device=device)
        if self._per_token(time, index):
            clean = convention(0.0)
            passed = torch.where(time.to(device) == clean, clean, passed)
        return passed, convention if len(agreeing) == 1 else None

    def _evaluation(self, given: Tensor, known: Convention | None) -> tuple[int, tuple[Convention, ...]]:
        """The evaluation, and the conventions by which ``given`` is its time, at least one."""
        conventions, slack = self.conventions if known is None else (known,), _SLACK.get(given.dtype, _FINE)
        if self.index is not None and self.index >= len(self.times):
            raise ValueError(f"the schedule's {len(self.times)} evaluations have all been made; call set_timesteps for another run")
        if self.index is not None and known is not None and given.device.type != "cpu":
            off = self._off(given.detach().float(), self.index, known, slack).any()
            self._unread = off if self._unread is None else self._unread | off
            return self.index, conventions
        values = given.detach().cpu().double().numpy()
        agreeing = {
            i: tuple(c for c in conventions if not self._off(values, i, c, slack).any())
            for i in (range(len(self.times)) if self.index is None else (self.index,))
        }
        at = [i for i in agreeing if agreeing[i]]
        if self.index is None:
            if not at or (len(at) > 1 and at[0] != 0):  # of a repeated time, only the first one's number is known
                raise self.another(values, "one of the schedule's times")
            self.index = at[0]
        elif not at:
            raise self.another(values, f"{self.times[self.index]:.9g} at evaluation {self.index} of {len(self.times)}")
        return self.index, agreeing[self.index]

    def _off(self, values: Any, index: int, convention: Convention, slack: float) -> Any:
        """Which of ``values``, an array or a tensor, are not the time of evaluation ``index``."""
        wanted = convention(float(self.times[index]))
        # Near zero a relative tolerance is none.
        largest = max(abs(convention.offset), abs(convention.factor) * float(np.abs(self.times).max()))
        size = max(abs(wanted), abs(convention.offset), 1e-3 * largest)
        off = ~(abs(values - wanted) <= slack * size)
        return off & (values != convention(0.0)) if self._per_token(values, index) else off

    def _per_token(self, values: Any, index: int) -> bool:
        return values.ndim > 1 and bool(self.times[index] != 0)
