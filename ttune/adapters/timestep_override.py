"""Which time somebody else's network is passed, evaluation by evaluation, while somebody else's sampler runs.

The sampler of a host (diffusers, k-diffusion, EDM, …) calls the network with the solver's time; the schedule has another
time for that call. The key is the *number of the evaluation*: not the time, which Heun and PNDM repeat, and not the number of
the call, since guidance may call the network twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ttune.noise.schedules import Float64
from ttune.schedule.schedule import Schedule

Unit = Callable[[Float64], ArrayLike]

# Relative. Hosts come to their times by interpolation and powers in float32: k-diffusion's sigma -> t -> sigma and EDM's rho = 7 grid lose
# up to 8 units in the last place (1e-6). That tables were float32 cannot be seen from a time in float64. Half types are rounded once.
_TOLERANCE = 1e-5
_HALF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


class TimestepOverride:
    """The host's time at each evaluation, and the time that the network is passed there. ``told(time)`` is one call of the network.

    ``stands``, the host's, and ``told``, the network's, (n_evaluations,) are in the host's unit (sigma, index, …). It calls the network
    ``calls_per_evaluation`` times at each (2 where classifier-free guidance is two calls; None: as often as it likes, where no two
    neighbouring evaluations are at the same time). A run that begins again, with the first time, starts anew. ``unmatched``: what
    happens where the host is elsewhere: "raise", or "pass" the time through untouched. ``unit`` names what the host says, ``slack``
    is what it may round by, in that unit, beyond its dtype. ``hint`` ends the error: what to do in this host.

    A call reads the time from its device: one synchronisation. Not for several threads at once.
    """

    def __init__(
        self,
        stands: ArrayLike,
        told: ArrayLike,
        *,
        calls_per_evaluation: int | None = 1,
        unmatched: str = "raise",
        unit: str = "time",
        slack: float = 0.0,
        hint: str = "",
    ) -> None:
        self.stands, self.told = _times("stands", stands), _times("told", told)
        if len(self.stands) != len(self.told) or len(self.stands) == 0:
            raise ValueError(f"stands and told must be of one length, at least 1, got {len(self.stands)} and {len(self.told)}")
        if calls_per_evaluation is not None and (not isinstance(calls_per_evaluation, int) or calls_per_evaluation < 1):
            raise ValueError(f"calls_per_evaluation must be a whole number >= 1, or None, got {calls_per_evaluation!r}")
        if unmatched not in ("raise", "pass"):
            raise ValueError(f"unmatched must be 'raise' or 'pass', got {unmatched!r}")
        self.calls_per_evaluation, self.unmatched, self.unit = calls_per_evaluation, unmatched, unit
        self._slack, self._hint = slack, hint
        gaps = np.abs(np.diff(self.stands))
        # Near zero a relative tolerance is none; nothing smaller than the steps themselves has to be told apart.
        self._floor = float(gaps[gaps > 0].min()) if (gaps > 0).any() else 0.0
        self.reset()

    @staticmethod
    def of(
        schedule: Schedule,
        stands: Unit | None = None,
        told: Unit | None = None,
        *,
        unit: str = "time",
        slack: float = 0.0,
        calls_per_evaluation: int | None = 1,
        unmatched: str = "raise",
        hint: str = "",
    ) -> TimestepOverride:
        """For a host whose own sampler runs on the times of ``schedule``. ``stands`` turns its times into what the host says,
        ``told`` into what the network hears; both are the schedule's own unless given.

        ValueError for what the host's sampler cannot know: tuned coefficients, times per sample, variants of the network.
        """
        for what, is_there in {
            "tuned coefficients, which a sampler that is not ttune's does not have": schedule.coefficients is not None,
            f"{schedule.shift}, which needs the state": schedule.shift is not None,
            "variants of the network": bool(schedule.variants),
        }.items():
            if is_there:
                raise ValueError(f"schedule must do without {what}; use ttune.sample for this one")
        times, heard = schedule.tableau().times, schedule.network_times
        return TimestepOverride(
            times if stands is None else stands(times),
            heard if told is None else told(heard),
            calls_per_evaluation=calls_per_evaluation,
            unmatched=unmatched,
            unit=unit,
            slack=slack,
            hint=hint,
        )

    def reset(self) -> None:
        """Begin before the first evaluation again: after a run that was broken off."""
        self.index = -1  # of the evaluation that the host is at
        self._calls = 0  # that it has made there

    def __call__(self, time: Tensor | float | int) -> Tensor:
        """What the network is passed where the host says ``time``: a tensor of its shape and device, float64 for float64, else float32
        (bfloat16 has 128 values in (500, 1000], whole numbers have no fractions). With unmatched="pass" perhaps ``time`` as it is.

        ValueError naming the evaluation and both times where the host is elsewhere.
        """
        given = torch.as_tensor(time)
        if given.is_complex() or given.dtype == torch.bool or given.numel() == 0:
            raise TypeError(f"time must be a number or a tensor of numbers, got {given.dtype} of shape {tuple(given.shape)}")
        values = given.detach().reshape(-1).double().cpu().numpy()
        found = self._follow(values, _HALF.get(given.dtype, _TOLERANCE))
        if found is None:
            if self.unmatched == "pass":
                return given
            raise ValueError(self._complaint(values, given))
        self.index, self._calls = found
        dtype = torch.float64 if given.dtype == torch.float64 else torch.float32
        return torch.full(given.shape, float(self.told[self.index]), dtype=dtype, device=given.device)

    def _follow(self, values: Float64, tolerance: float) -> tuple[int, int] | None:
        """The evaluation that a call at ``values`` belongs to and the number of calls there with it; None if to none."""

        def at(i: int) -> bool:
            slack = max(tolerance * max(abs(self.stands[i]), self._floor), self._slack)
            return bool((np.abs(values - self.stands[i]) <= slack).all())

        i, last = self.index, len(self.stands) - 1
        begun, following = i >= 0, i + 1 <= last
        if self.calls_per_evaluation is None:
            here, there = begun and at(i), following and at(i + 1)
            if here and there:
                raise ValueError(
                    f"calls_per_evaluation must be a number here: evaluations {i} and {i + 1} stand at {self.unit} "
                    f"{self.stands[i]:.9g} and {self.stands[i + 1]:.9g}, which the host's times do not tell apart"
                )
            found = (i, self._calls + 1) if here else (i + 1, 1) if there else None
        elif begun and self._calls < self.calls_per_evaluation:
            found = (i, self._calls + 1) if at(i) else None
        else:
            found = (i + 1, 1) if following and at(i + 1) else None
        return found or ((0, 1) if begun and at(0) else None)

    def _complaint(self, values: Float64, given: Tensor) -> str:
        same = len(np.unique(values)) == 1
        got = f"{values[0]:.9g}" if same else f"from {values.min():.9g} to {values.max():.9g} in one batch"
        i, calls = self.index, self.calls_per_evaluation
        if calls is not None and i >= 0 and self._calls < calls:
            expected = (
                f"{self.unit} must be {self.stands[i]:.9g} at evaluation {i}, of whose {calls} calls this is number {self._calls + 1}"
            )
        elif i + 1 < len(self.stands):
            expected = f"{self.unit} must be {self.stands[i + 1]:.9g} at evaluation {i + 1} of {len(self.stands)}"
        else:
            expected = f"{self.unit} must be {self.stands[0]:.9g}, the first, after all {len(self.stands)} evaluations"
        whole = not given.is_floating_point() and (self.stands % 1 != 0).any()
        hint = "; this host keeps whole times only: use schedule.with_integer_times()" if whole else ""
        host = f"; {self._hint}" if self._hint else ""
        return f"{expected}, got {got}{hint}; the sampler must run on the schedule's own times ({_listed(self.stands)}){host}"


def _times(name: str, values: ArrayLike) -> Float64:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a list of finite numbers, got {array.tolist()}")
    return array


def _listed(values: Sequence[float] | Float64) -> str:
    shown = [f"{v:.6g}" for v in values[:8]]
    return ", ".join(shown) + (", …" if len(values) > 8 else "")
