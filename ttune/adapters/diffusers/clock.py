"""Which evaluation a diffusers scheduler is at, and what the network is told there instead of the time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ttune.noise import Float64

# Relative: a time is rounded once to the dtype that the pipeline passes it in, and once more where it is divided by 1000. The number
# of the evaluation is what counts; the time only has to agree with it.
_SLACK = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
_FINE = 1e-6


class Clock:
    """``stands`` and ``told`` (n_evaluations,), in the scheduler's unit of time. ``divisor``: what some pipelines divide it by before
    the network sees it (the number of training steps). ``whole``: for a network that knows whole times only.

    The key is the number of the evaluation, which the scheduler counts. Guidance may call the network as often as it likes at one.
    """

    def __init__(self, stands: Float64, told: Float64, divisor: float, *, whole: bool = False) -> None:
        self.stands, self.told, self.divisor, self.whole = stands, told, divisor, whole
        self.begin(None)

    def begin(self, index: int | None) -> None:
        """A run starts, at evaluation ``index``; None: at the one whose time the pipeline passes first."""
        self.index = index
        self.heard: int | None = None  # the last evaluation at which a network was told its time
        self._unit = 1.0

    def advance(self) -> None:
        """The scheduler made the step of evaluation ``index``."""
        self.index = 1 + (0 if self.index is None else self.index)

    def settle(self, time: Tensor | float) -> int:
        """The evaluation that the scheduler is at; ValueError if it is not at ``time``, in its own unit or divided."""
        given = torch.as_tensor(time)
        values = given.detach().reshape(-1).double().cpu().numpy()
        slack = _SLACK.get(given.dtype, _FINE)
        if self.index is None:
            at = [i for i in range(len(self.stands)) if self._unit_at(i, values, slack) is not None]
            if not at or (len(at) > 1 and at[0] != 0):  # of a repeated time, only the first one's number can be told
                raise ValueError(self._complaint(values, "one of the schedule's times"))
            self.index = at[0]
        if self.index >= len(self.stands):
            raise ValueError(f"the schedule's {len(self.stands)} evaluations have all been made; call set_timesteps for another run")
        unit = self._unit_at(self.index, values, slack)
        if unit is None:
            raise ValueError(self._complaint(values, f"{self.stands[self.index]:.9g} at evaluation {self.index} of {len(self.stands)}"))
        self._unit = unit
        return self.index

    def tell(self, given: Tensor | float | int, device: torch.device) -> Tensor:
        """What the network is told where the pipeline says ``given``: of its shape, float32 (float64 for float64) on ``device``.

        Reads the time: one synchronisation if it is on a GPU.
        """
        index = self.heard = self.settle(given)
        time = torch.as_tensor(given)
        dtype = torch.int64 if self.whole else torch.float64 if time.dtype == torch.float64 else torch.float32
        return torch.full(time.shape, float(self.told[index]) / self._unit, dtype=dtype, device=device)

    def _unit_at(self, index: int, values: np.ndarray, slack: float) -> float | None:
        """By what the pipeline divides its times, if ``values`` are that of evaluation ``index``; None if they are not."""
        stands = float(self.stands[index])
        # Zero says nothing of the unit, which is the same all through a run.
        for unit in (self._unit,) if stands == 0 else (1.0, self.divisor):
            # Near zero a relative tolerance is none.
            size = max(abs(stands), 1e-3 * float(np.abs(self.stands).max())) / unit
            if (np.abs(values - stands / unit) <= slack * size).all():
                return unit
        return None

    def _complaint(self, values: np.ndarray, wanted: str) -> str:
        times = ", ".join(f"{t:.6g}" for t in self.stands[:8]) + (", …" if len(self.stands) > 8 else "")
        got = f"{values[0]:.9g}" if (values == values[0]).all() else f"{values.min():.9g} to {values.max():.9g} in one batch"
        return (
            f"timestep must be {wanted}, got {got}; the pipeline must pass on its scheduler's timesteps as they are, "
            f"fractions included ({times})"
        )
