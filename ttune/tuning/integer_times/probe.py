"""Whether a network can be given times between the whole ones: a probe of its time table.

A network trained at N discrete times may embed any number (a sinusoid: smooth), look a row up and interpolate (rows may lie off
the curve through their neighbours: then every whole time is a local minimum of the loss, and in between it is worse), or cut the number
to a whole one without a word. The probe distinguishes them by the loss of the x_0 prediction at forward-noised samples.

With e(h) = |(L(t - h) + L(t + h)) / 2 - L(t)| / L(t), averaged over times, a smooth loss has e(h) growing as h^2: e(1) = e(4) / 16 and
e(1/2) = e(4) / 64. Rounding noise in the network is the same at every h and cancels but for its fluctuation. Measured in per cent, half a
row away, a row away, and a row away as expected from e(4): the bundled model .01, .04, .02; with guidance .02, .06, .03; in bfloat16 .14,
.07, .03. With its time embedding as a table whose odd rows have noise of 3 % of the table's spread: .27, .85, .06; of
10 %: 2.8, 9.0, .3; of 30 %: 23, 89, 1.2. Times that are cut or rounded, or pass through bfloat16, are recognised by outputs that
do not change between two times.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttune.network.denoiser import Conditions, Denoiser, Evaluation, select
from ttune.noise.schedules import DiscreteVP
from ttune.samplers.points import Point
from ttune.sampling.sample import sample
from ttune.schedule.schedule import Schedule

SAMPLES = 8
STEPS = 20  # of the cheap samples that are noised again
SHARES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)  # of the largest time: where the table is probed
FEWEST = 32  # trained times: a table of fewer is not probed
WIDE = 4  # rows: the span that says how much a smooth loss may bend
# Relative changes of the loss below this are of no consequence whichever way the rows lie.
FLOOR = 0.01
BENT = 4.0  # times what the span of WIDE rows lets expect from a parabola
SAME = 1e-3  # of the change from row to row: less is no change at all


@dataclass(frozen=True)
class TimeTable:
    """``kind``: "smooth", "rough" (rows off the curve) or "whole" (the network only knows whole times).

    ``half``, ``row``: relative excess of the loss half a row and a row away, as found; ``expected_row``: what a smooth loss would have.
    """

    kind: str
    half: float = 0.0
    row: float = 0.0
    expected_row: float = 0.0

    @property
    def smooth(self) -> bool:
        return self.kind == "smooth"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if self.kind == "whole":
            return "time table: the network knows whole times only"
        figures = f"loss +{self.half:.2%} half a row away, +{self.row:.2%} a row away, {self.expected_row:.2%} expected"
        return f"time table: {'smooth' if self.smooth else 'not smooth, searched in whole numbers'} ({figures})"


@torch.no_grad()
def probe_time_table(denoiser: Denoiser, x_T: Tensor, conditions: Conditions) -> TimeTable | None:
    """The table of a network with discrete times, from the first few x_T; None for a continuous noise schedule or too few times.

    Costs ``SAMPLES`` x (``STEPS`` + 7 x ``len(SHARES)``) evaluations, twice the steps with guidance. A denoiser that says
    ``integer_time`` is taken at its word, at no cost.
    """
    noise = denoiser.noise
    if not isinstance(noise, DiscreteVP):
        return None
    if denoiser.integer_time:
        return TimeTable("whole")
    if noise.t_max < FEWEST:
        return None
    few = x_T[:SAMPLES]
    own = select(conditions, slice(0, SAMPLES), len(x_T), denoiser.shared)
    x_0 = _cheap_samples(denoiser, few, own)
    excess: list[tuple[float, float, float]] = []
    whole: list[bool] = []
    for k, t in enumerate(_times(int(noise.t_max))):
        at_t = TimesPassed(denoiser, float(t), x_0, own, seed=k)
        before, half, after = at_t.output(0.0), at_t.output(0.5), at_t.output(1.0)
        change = float((after - before).square().mean())
        if change > 0:
            cut = min(float((half - end).square().mean()) for end in (before, after))
            whole.append(cut <= SAME**2 * change)
        excess.append((at_t.excess(0.5), at_t.excess(1.0), at_t.excess(WIDE)))
    half, row, wide = np.mean(excess, 0).tolist()
    expected = wide / WIDE**2
    if whole and np.mean(whole) > 0.5:
        return TimeTable("whole", half, row, expected)
    rough = (row > max(FLOOR, BENT * expected)) or (half > max(FLOOR, BENT * expected / 4))
    return TimeTable("rough" if rough else "smooth", half, row, expected)


def _times(t_max: int) -> list[int]:
    """Even and odd in turn, with room for ``WIDE`` rows on both sides."""
    nearest = [round(share * t_max) for share in SHARES]
    return [min(max(t + (t + k) % 2, WIDE), t_max - WIDE) for k, t in enumerate(nearest)]


class TimesPassed:
    """The network on samples noised to time ``t``, passed another time."""

    def __init__(self, denoiser: Denoiser, t: float, x_0: Tensor, conditions: Conditions, seed: int) -> None:
        alpha, sigma = float(denoiser.noise.alpha(t)), float(denoiser.noise.sigma(t))
        unit = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(x_0.device)
        self.denoiser, self.t, self.conditions = denoiser, t, conditions
        self.x_0, self.x = x_0.double(), (alpha * x_0.double() + sigma * unit).to(x_0.dtype)
        network = denoiser.network_at(t)
        plain = Denoiser(lambda x, tau: x, denoiser.noise, denoiser.prediction_type)  # only for the row of its prediction
        self.evaluation = Evaluation(network, None, plain.evaluation(0, Point(t, alpha, sigma)).row)
        self._known: dict[float, Tensor] = {}

    def output(self, h: float) -> Tensor:
        """The x_0 prediction (B, ...), unclipped, float64, when the network is passed t + h."""
        if h not in self._known:
            only = getattr(self.denoiser.guidance, "only", ())  # a classifier's own conditions
            own = {k: v for k, v in self.conditions.items() if k not in only}
            p, q = self.evaluation.row
            output = self.denoiser.outputs(self.x, self.t + h, own, self.evaluation)[0]
            if not torch.isfinite(output).all():
                raise FloatingPointError(f"the network returned NaN or infinity when passed the time {self.t + h:g}")
            self._known[h] = p * self.x.double() + q * output.double()
        return self._known[h]

    def excess(self, h: float) -> float:
        """e(h): how much the loss bends over +-h, relative to the loss itself."""
        below, here, above = (float((self.output(k * h) - self.x_0).square().mean()) for k in (-1, 0, 1))
        return abs((below + above) / 2 - here) / here if here > 0 else 0.0


def _cheap_samples(denoiser: Denoiser, x_T: Tensor, conditions: Conditions) -> Tensor:
    """x_0 (B, ...) in a few steps at whole times."""
    steps = min(STEPS, int(denoiser.noise.t_max) // 2)
    return sample(denoiser, Schedule.build(denoiser.noise, "dpmpp_2m", steps, "leading"), x_T, conditions=conditions)
