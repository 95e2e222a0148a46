"""Which time somebody else's network is passed, evaluation by evaluation, while somebody else's sampler runs.

The sampler of a host (diffusers, k-diffusion, EDM, …) calls the network with the solver's time; the schedule has another
time for that call. The key is the *number of the evaluation*: not the time, which Heun and PNDM repeat, and not the number of
the call, since guidance may call the network twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ttune.noise.schedules import Float64
from ttune.schedule.fields import frozen
from ttune.schedule.schedule import Schedule

Unit = Callable[[Float64], ArrayLike]

# Relative. Hosts come to their times by interpolation and powers in float32: k-diffusion's sigma -> t -> sigma and EDM's rho = 7 grid lose
# up to 8 units in the last place (1e-6). That tables were float32 cannot be seen from a time in float64. Half types are rounded once.
_TOLERANCE = 1e-5
_HALF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


class HostTimes:
    """``times``, the host's, and ``network_times`` (n_evaluations,), both in the host's unit, which messages call ``unit``. They end with
    ``rule``, and the times."""

    def __init__(self, times: ArrayLike, network_times: ArrayLike, unit: str, rule: str) -> None:
        self.times, self.network_times = frozen("times", times), frozen("network_times", network_times)
        if len(self.times) != len(self.network_times) or len(self.times) == 0:
            raise ValueError(
                f"times and network_times must be of one length, at least 1, got {len(self.times)} and {len(self.network_times)}"
            )
        self.unit, self._rule = unit, rule

    def rule(self) -> str:
        listed = ", ".join(f"{t:.6g}" for t in self.times[:8])
        return f"{self._rule} ({listed}{', …' if len(self.times) > 8 else ''})"

    def another(self, values: Float64, wanted: str, hint: str = "") -> ValueError:
        """The host is at ``values`` and must be at ``wanted``."""
        same = len(np.unique(values)) == 1
        got = f"{values.flat[0]:.9g}" if same else f"from {values.min():.9g} to {values.max():.9g} in one batch"
        return ValueError(f"{self.unit} must be {wanted}, got {got}{hint}; {self.rule()}")


class TimestepOverride(HostTimes):
    """``override(time)`` is one call of the network by a host whose sampler says nothing but the time: it returns the time to pass.

    The host calls the network ``calls_per_evaluation`` times at each evaluation (2 where classifier-free guidance is two calls; None: as
    often as it likes, where no two neighbouring evaluations are at the same time). A run that begins again, with the first time,
    starts anew. ``unmatched``: what happens where the host is elsewhere: "raise", or "pass" the time through untouched. ``slack`` is
    what the host may round by, in its unit, beyond its dtype. ``hint`` ends the error: what to do in this host.

    A call reads the time from its device: one synchronisation. Not for several threads at once.
    """

    def __init__(
        self,
        times: ArrayLike,
        network_times: ArrayLike,
        *,
        calls_per_evaluation: int | None = 1,
        unmatched: str = "raise",
        unit: str = "time",
        slack: float = 0.0,
        hint: str = "",
    ) -> None:
        super().__init__(times, network_times, unit, "the sampler must run on the schedule's own times")
        if calls_per_evaluation is not None and (not isinstance(calls_per_evaluation, int) or calls_per_evaluation < 1):
            raise ValueError(f"calls_per_evaluation must be a whole number >= 1, or None, got {calls_per_evaluation!r}")
        if unmatched not in ("raise", "pass"):
            raise ValueError(f"unmatched must be 'raise' or 'pass', got {unmatched!r}")
        self.calls_per_evaluation, self.unmatched = calls_per_evaluation, unmatched
        self._slack, self._hint = slack, f"; {hint}" if hint else ""
        gaps = np.abs(np.diff(self.times))
        # Near zero a relative tolerance is none; nothing smaller than the steps themselves has to be distinguished.
        self._floor = float(gaps[gaps > 0].min()) if (gaps > 0).any() else 0.0
        self.reset()

    @staticmethod
    def of(schedule: Schedule, times: Unit | None = None, network_times: Unit | None = None, **options: Any) -> TimestepOverride:
        """For a host whose own sampler runs on the times of ``schedule``. ``times`` turns its solver times into what the host says,
        ``network_times`` its network times into what the network is passed; both stay as they are unless given. ``options``: as of
        the class.

        ValueError for what the host's sampler cannot know: tuned coefficients, times per sample, variants of the network.
        """
        for what, is_there in {
            "tuned coefficients, which only ttune's samplers have (leave them out with tune='portable')": schedule.coefficients is not None,
            f"{schedule.shift}, which needs the state": schedule.shift is not None,
            "variants of the network": bool(schedule.variants),
        }.items():
            if is_there:
                raise ValueError(f"schedule must do without {what}; use ttune.sample for this one")
        host, network = schedule.tableau().times, schedule.network_times
        return TimestepOverride(
            host if times is None else times(host), network if network_times is None else network_times(network), **options
        )

    def reset(self) -> None:
        """Begin before the first evaluation again: after a run that was broken off."""
        self.index = -1  # of the evaluation that the host is at
        self._calls = 0  # that it has made there

    def rule(self) -> str:
        return super().rule() + self._hint

    def __call__(self, time: Tensor | float | int) -> Tensor:
        """What the network is passed where the host says ``time``: a tensor of its shape and device, float64 for float64, else float32
        (bfloat16 has 128 values in (500, 1000], whole numbers have no fractions). With unmatched="pass" perhaps ``time`` as it is.

        ValueError naming the evaluation and both times where the host is elsewhere.
        """
        given = torch.as_tensor(time)
        if given.is_complex() or given.dtype == torch.bool or given.numel() == 0:
            raise TypeError(f"time must be a number or a tensor of numbers, got {given.dtype} of shape {tuple(given.shape)}")
        values = given.detach().reshape(-1).double().cpu().numpy()
        found = self._evaluation(values, _HALF.get(given.dtype, _TOLERANCE))
        if found is None:
            if self.unmatched == "pass":
                return given
            whole = not given.is_floating_point() and (self.times % 1 != 0).any()
            hint = "; this host has whole times only: use schedule.with_integer_times()" if whole else ""
            raise self.another(values, self._expected(), hint)
        self.index, self._calls = found
        dtype = torch.float64 if given.dtype == torch.float64 else torch.float32
        return torch.full(given.shape, float(self.network_times[self.index]), dtype=dtype, device=given.device)

    def _evaluation(self, values: Float64, tolerance: float) -> tuple[int, int] | None:
        """The evaluation that a call at ``values`` belongs to and the number of calls there with it; None if to none."""

        def at(i: int) -> bool:
            slack = max(tolerance * max(abs(self.times[i]), self._floor), self._slack)
            return bool((np.abs(values - self.times[i]) <= slack).all())

        i, calls, wanted = self.index, self._calls, self.calls_per_evaluation
        here = i >= 0 and (wanted is None or calls < wanted) and at(i)
        following = i + 1 < len(self.times) and (i < 0 or wanted is None or calls >= wanted) and at(i + 1)
        if here and following:
            raise ValueError(
                f"calls_per_evaluation must be a number here: evaluations {i} and {i + 1} are at {self.unit} {self.times[i]:.9g} and "
                f"{self.times[i + 1]:.9g}, which the host's times do not distinguish"
            )
        if here:
            return i, calls + 1
        if following:
            return i + 1, 1
        return (0, 1) if i >= 0 and at(0) else None

    def _expected(self) -> str:
        """Where the host must be at its next call."""
        i, wanted, count = self.index, self.calls_per_evaluation, len(self.times)
        if wanted is not None and i >= 0 and self._calls < wanted:
            return f"{self.times[i]:.9g} at evaluation {i}, in call {self._calls + 1} of {wanted}"
        if i + 1 < count:
            return f"{self.times[i + 1]:.9g} at evaluation {i + 1} of {count}"
        return f"{self.times[0]:.9g}, the first, after all {count} evaluations"
