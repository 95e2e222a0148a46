"""A schedule as a vector that an optimiser may move freely.

Times and network_times are written in a coordinate y(t) that is finite at the largest time and grows towards
clean images: the half log-SNR, or -log sigma where the log-SNR is infinite (flow matching at t = 1).

- t_0: its distance y(t_0) - y(T) >= 0, projected back to 0 when a step would leave the trained range;
- t_1 … t_{K-1}: the logarithm of the gap y(t_i) - y(t_{i-1}), so that any vector gives decreasing times;
- tau_i: its offset y(tau_i) - y(the solver time of evaluation i), so that it follows the step; the time itself stays in
  the trained range;
- the corrections of the solver's coefficients, as shares of the state that they make.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ttune.messages.names import meant
from ttune.noise.schedules import Float64, NoiseSchedule
from ttune.samplers import Stage
from ttune.samplers.correction import STATE_AND_NEWEST
from ttune.schedule.schedule import Schedule
from ttune.tuning.solvers.vector import Vector

TUNABLE = ("network_times", "times", "coefficients")
TOGETHER = {"all": TUNABLE, "portable": TUNABLE[:2]}  # other programs' samplers have coefficients of their own
PAST = 2  # past predictions that free coefficients use; in a prototype two were nearly as good as all
# Added to the mean squared error per squared coefficient: the prototype's, which overfitted 128 samples at ten steps all the same.
COEFFICIENT_RIDGE = 1e-5
MAX_TIME_STEP = 1.0  # of a time or a network time in one iteration, in units of half log-SNR: the model is not linear beyond
MAX_COEFFICIENT_STEP = 0.3


def tuned_names(tune: str | Sequence[str]) -> tuple[str, ...]:
    """Which of :data:`TUNABLE` a word, or several, mean: "all", "portable" (without coefficients), or their names."""
    words = (tune,) if isinstance(tune, str) else tuple(tune)
    return tuple(dict.fromkeys(name for word in words for name in TOGETHER.get(word, (word,))))


class Parameters(Vector):
    """The free parameters of schedules that share ``start``'s sampler and last time.

    ``start_vector`` decodes to ``start`` itself, bit for bit (with free coefficients: to ``start`` with zeros added).
    ``tune`` names what is free; with ``fix_start`` the first time is not.
    """

    def __init__(self, start: Schedule, tune: Sequence[str], *, fix_start: bool = False) -> None:
        unknown = [name for name in tune if name not in TUNABLE]
        if unknown or not tune:
            near = meant(unknown[0], (*TUNABLE, *TOGETHER)) if unknown else ""
            raise ValueError(f"tune must be one of {list(TOGETHER)} or name one or more of {list(TUNABLE)}, got {list(tune)}{near}")
        self.tunes_times = "times" in tune
        self.tunes_network_times = "network_times" in tune
        self.tunes_coefficients = "coefficients" in tune
        evaluations = len(start.network_times)
        if self.tunes_coefficients and start.coefficients is None:
            zeros = np.zeros((evaluations, STATE_AND_NEWEST + min(PAST, evaluations - 1)))
            start = start.replace(coefficients=zeros, tuned=start.tuned, model=start.model)
        self.start = start
        self.fix_start = fix_start
        self._y_max = coordinate(start.noise, np.array(start.noise.t_max))
        y = coordinate(start.noise, start.times[:-1])
        self._offsets = coordinate(start.noise, start.network_times) - coordinate(start.noise, start.tableau().times)
        times = np.concatenate([[y[0] - self._y_max], np.log(np.diff(y))]) if self.tunes_times else np.zeros(0)
        network_times = self._offsets if self.tunes_network_times else np.zeros(0)
        coefficients = np.zeros(0)
        if self.tunes_coefficients:
            assert start.coefficients is not None
            self._units = _units(start)
            self._used = np.tril(np.ones_like(self._units), STATE_AND_NEWEST - 1) == 1  # no predictions before the first
            coefficients = (start.coefficients / self._units)[self._used]
        self.start_vector = np.concatenate([times, network_times, coefficients])
        self._n_times, self._n_before_coefficients = len(times), len(times) + len(network_times)
        if not len(self.free):
            raise ValueError(f"tune={list(tune)} with fix_start={fix_start} leaves nothing to tune in a schedule of {start.steps} step")

    @property
    def free(self) -> np.ndarray:
        """Indices of the components that may move."""
        held = {0} if self.tunes_times and self.fix_start else set()
        return np.array([j for j in range(len(self.start_vector)) if j not in held])

    @property
    def ridge(self) -> Float64:
        """What the square of each component costs, in units of the mean squared error."""
        ridge = np.zeros(len(self.start_vector))
        ridge[self._n_before_coefficients :] = COEFFICIENT_RIDGE
        return ridge

    @property
    def max_step(self) -> Float64:
        """How far each component may move in one iteration."""
        limit = np.full(len(self.start_vector), MAX_TIME_STEP)
        limit[self._n_before_coefficients :] = MAX_COEFFICIENT_STEP
        return limit

    def project(self, theta: Float64) -> Float64:
        """The nearest vector that keeps t_0 in the trained range."""
        theta = theta.copy()
        if self.tunes_times:
            theta[0] = max(theta[0], 0.0)
        return theta

    def schedule(self, theta: Float64) -> Schedule:
        """The schedule of a projected vector; ValueError where the last gap leaves no room for the last time."""
        if np.array_equal(theta, self.start_vector):
            return self.start
        moved = self._moved(theta)
        times = moved.tableau().times
        return moved.replace(network_times=self._network_times(theta, times), coefficients=self._coefficients(theta))

    def _moved(self, theta: Float64) -> Schedule:
        start = self.start
        if not self.tunes_times:
            return start
        own = theta[: self._n_times]
        y = self._y_max + own[0] + np.concatenate([[0.0], np.cumsum(np.exp(np.minimum(own[1:], 50.0)))])
        times = np.append(time(start.noise, y), start.times[-1])
        # Free of rounding as far as nothing moved: a run that shares these steps need not repeat them.
        unmoved = np.cumprod(own == self.start_vector[: self._n_times]) == 1
        times[:-1] = np.where(unmoved, start.times[:-1], times[:-1])
        return start.replace(times=times)

    def _network_times(self, theta: Float64, times: Float64) -> Float64:
        noise, start = self.start.noise, self.start
        offsets = theta[self._n_times : self._n_before_coefficients] if self.tunes_network_times else self._offsets
        tau = time(noise, coordinate(noise, times) + offsets)
        # A zero offset is exactly the solver time; what did not move stays exactly what it was.
        tau = np.where(offsets == 0, times, tau)
        tau = np.where((times == start.tableau().times) & (offsets == self._offsets), start.network_times, tau)
        return np.clip(tau, noise.t_min, noise.t_max)

    def _coefficients(self, theta: Float64) -> Float64 | None:
        if not self.tunes_coefficients:
            return self.start.coefficients
        table = np.zeros_like(self._units)
        table[self._used] = theta[self._n_before_coefficients :]
        return table * self._units


def _units(start: Schedule) -> Float64:
    """(n_evaluations, 2 + depth): what a coefficient changed by one unit changes, as a share of the state that the update makes.

    A state has the size sqrt(alpha^2 + sigma^2), a prediction of x_0 the size 1; for sigma up to 80 (EDM) these differ widely.
    """
    assert start.coefficients is not None
    stages = start.tableau().stages
    sizes = np.array([np.hypot(stage.alpha, stage.sigma) for stage in stages] + [np.hypot(start.alphas[-1], start.sigmas[-1])])
    units = np.repeat(sizes[1:, None], start.coefficients.shape[1], axis=1)
    units[:, 0] /= sizes[:-1]
    return units


def coordinate(noise: NoiseSchedule, t: Float64) -> Float64:
    """y(t), increasing towards clean images; +inf at a clean time."""
    if np.isfinite(noise.half_log_snr(noise.t_max)):
        return noise.half_log_snr(t)
    with np.errstate(divide="ignore"):
        return -np.log(noise.sigma(t))


def time(noise: NoiseSchedule, y: Float64) -> Float64:
    """The inverse of :func:`coordinate`."""
    if np.isfinite(noise.half_log_snr(noise.t_max)):
        return noise.time(y)
    sigma = np.exp(-np.maximum(y, 0.0))
    with np.errstate(divide="ignore"):
        return noise.time(np.log(noise.alpha_beside(sigma)) - np.log(sigma))


def first_difference(a: Schedule, b: Schedule) -> tuple[int, bool]:
    """Where a run of ``b`` may start if ``a`` has been run: (stage, whether the network's output there is still right).

    A parameter first touches the update that leads to its step, or the network call at it; everything before is
    shared: states, retained tensors, and for an update the output too.
    """
    if a.noise.start_scale(a.times[0]) != b.noise.start_scale(b.times[0]):
        return 0, False
    stages = zip(a.tableau().stages, b.tableau().stages, a.network_times, b.network_times, strict=True)
    for i, (stage_a, stage_b, tau_a, tau_b) in enumerate(stages):
        if tau_a != tau_b:
            return i, False
        if not _same(stage_a, stage_b):
            return i, True
    return len(a.network_times) - 1, True


def _same(a: Stage, b: Stage) -> bool:
    return (a.alpha, a.sigma, a.update, a.retain) == (b.alpha, b.sigma, b.update, b.retain)
