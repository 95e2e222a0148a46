"""The times of a sampler's steps, and the times that the network is passed there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np

from ttune.messages.names import must_be_one_of
from ttune.noise.grids import GRIDS, grid
from ttune.noise.numbers import Float64
from ttune.noise.schedules import NoiseSchedule
from ttune.samplers import SAMPLERS, Tableau, build_tableau
from ttune.samplers.correction import corrected
from ttune.schedule import file
from ttune.schedule.fields import Option, checked_coefficients, checked_options, checked_times, checked_variants, frozen, plain_number
from ttune.schedule.time_shift import Shift

_DRAWS = 2**63  # an evaluation's number, which numbers its draw of noise, is an int64 in the kernels

# What a tuning can return, and what such a schedule is called wherever it is shown.
OUTCOMES = {"tuned": "tuned", "untuned": "best untuned schedule", "start": "untuned start"}
# What the figures of validation in a record call it ("chosen"); older files say nothing else.
CHOSEN = {"tuned": "tuned", "untuned": "best untuned grid", "start": "start"}


@dataclass(frozen=True, eq=False)
class Schedule:
    """A sampler's steps: frozen, validated, float64. Build one with :meth:`build`, or load one with :meth:`load`.

    ``times`` (n_times,) are solver times, strictly decreasing, in the network's own unit; ``network_times``
    (n_evaluations,) is the time that the network is passed at each evaluation. ``model`` and ``tuned`` record which
    denoiser a tuned schedule belongs to and how it was tuned; both are empty for an untuned one. ``options`` are the
    sampler's own (its builder's keyword-only parameters, see :data:`ttune.SAMPLERS`): numbers, words or truth values.
    ``coefficients`` (n_evaluations, 2 + depth) are added to the solver's own of x, of D and of the ``depth`` predictions before
    (:mod:`ttune.samplers.correction`); None for the solver as it is.
    ``shift``: the network is passed, for every sample, the time that its variance belongs to (:class:`ttune.schedule.time_shift.Shift`).
    ``variants`` (n_evaluations,): which network of a :class:`ttune.Variants` serves each evaluation; () where all use network 0.
    ``first``: of a :meth:`part`, the number of its first evaluation in the whole; noise and scales per evaluation count from there.
    """

    noise: NoiseSchedule
    sampler: str
    times: Float64
    network_times: Float64 = None  # type: ignore[assignment]  # None: the solver time of each evaluation
    eta: float = 0.0
    lower_order_final: bool = False
    model: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Option] = field(default_factory=dict)
    first: int = 0
    coefficients: Float64 | None = None
    shift: Shift | None = None
    variants: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        must_be_one_of("sampler", self.sampler, sorted(SAMPLERS))
        eta = plain_number(self.eta)
        if not isinstance(eta, (int, float)) or not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta!r}")
        if eta and self.sampler != "ddim":
            raise ValueError(f"eta is an option of the sampler 'ddim', got eta={self.eta} with {self.sampler!r}")
        object.__setattr__(self, "eta", float(eta))
        object.__setattr__(self, "times", checked_times(self.noise, self.times))
        object.__setattr__(self, "options", checked_options(self.options))
        if isinstance(self.first, bool) or not isinstance(self.first, int) or self.first < 0:
            raise ValueError(f"first must be a whole number >= 0, got {self.first!r}")
        tableau = build_tableau(self)
        if self.first + len(tableau.stages) >= _DRAWS:
            raise ValueError(
                f"first must be below 2^63 - {len(tableau.stages)}, for the draws of noise of {len(tableau.stages)} evaluations to have "
                f"64-bit numbers, got {self.first}"
            )
        if self.coefficients is not None:
            object.__setattr__(self, "coefficients", checked_coefficients(self.coefficients, len(tableau.stages)))
            tableau = corrected(tableau, self.coefficients)
        object.__setattr__(self, "variants", checked_variants(self.variants, len(tableau.stages)))
        object.__setattr__(self, "_tableau", tableau)
        # A solver time may lie below the smallest trained time; the network is never passed such a time.
        untuned = np.clip(tableau.times, self.noise.t_min, self.noise.t_max)
        network_times = frozen("network_times", untuned if self.network_times is None else self.network_times)
        if len(network_times) != len(tableau.stages):
            raise ValueError(
                f"network_times must hold one time per network evaluation, {len(tableau.stages)} for {self.sampler!r} "
                f"on {len(self.times)} times, got {len(network_times)}"
            )
        if (network_times < self.noise.t_min).any() or (network_times > self.noise.t_max).any():
            raise ValueError(
                f"network_times must lie in the trained range [{self.noise.t_min:g}, {self.noise.t_max:g}], got {network_times.tolist()}"
            )
        object.__setattr__(self, "network_times", network_times)
        if self.shift is not None:
            if not isinstance(self.shift, Shift):
                raise TypeError(f"shift must be a ttune.Shift or None, got {type(self.shift).__name__}")
            self.shift.tables(self.noise, tableau.times.tolist(), self.first)  # says where it has no meaning

    @staticmethod
    def build(
        noise: NoiseSchedule,
        sampler: str = "ddim",
        steps: int | None = 10,
        spacing: str | Sequence[float] | np.ndarray = "leading",
        eta: float = 0.0,
        t_start: float | None = None,
        final: str = "zero",
        lower_order_final: bool = False,
        offset: int = 0,
        options: Mapping[str, Option] | None = None,
    ) -> Schedule:
        """An untuned schedule: ``steps`` steps on a grid; the network is passed the solver times.

        ``spacing`` is the name of a grid (:data:`ttune.noise.grids.GRIDS`) or the steps + 1 times themselves.
        ``final`` is "zero" (the last time is clean) or "min" (it is the smallest trained time).
        ``t_start`` replaces the largest trained time as the first one; ``offset`` shifts the leading grid.
        ``options`` are the sampler's own, e.g. ``{"order": 3}``; "eta" of DDIM may be among them.
        Always exactly ``steps`` steps, whether or not that divides the number of training steps.
        """
        if isinstance(spacing, str):
            if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
                raise ValueError(f"steps must be a whole number >= 1, got {steps!r}")
            times = grid(noise, spacing, int(steps), t_start=t_start, final=final, offset=offset)
        else:
            times = frozen("spacing", spacing)
            if t_start is not None:
                raise ValueError(f"t_start cannot go with explicit times, whose first is the start; got {t_start}")
            if steps is not None and len(times) != steps + 1:
                raise ValueError(f"spacing: explicit times must be steps + 1 = {steps + 1} times, got {len(times)}")
        own = dict(options or {})
        if sampler == "ddim" and "eta" in own:
            eta = own.pop("eta")  # pyright: ignore[reportAssignmentType]
        return Schedule(noise, sampler, times, eta=eta, lower_order_final=lower_order_final, options=own)

    def plain(self) -> dict[str, Any]:
        """All of it in plain values, as ``ttune.json`` holds them."""
        return {
            "sampler": self.sampler,
            "times": self.times.tolist(),
            "network_times": self.network_times.tolist(),
            "noise": self.noise.to_dict(),
            "eta": self.eta,
            "lower_order_final": self.lower_order_final,
            "coefficients": None if self.coefficients is None else self.coefficients.tolist(),
            "model": dict(self.model),
            "tuned": dict(self.tuned),
            "options": {name: list(value) if isinstance(value, tuple) else value for name, value in self.options.items()},
            "first": self.first,
            "shift": None if self.shift is None else self.shift.to_dict(),
            "variants": list(self.variants),
        }

    @staticmethod
    def from_plain(values: Mapping[str, Any], path: str | PathLike[str]) -> Schedule:
        """What :meth:`plain` was of; ValueError says what does not fit, and that ``path`` says so."""
        try:
            shift, noise = values["shift"], NoiseSchedule.from_dict(values["noise"])
            made = {"noise": noise, "shift": None if shift is None else Shift(**shift), "variants": tuple(values["variants"])}
            return Schedule(**{**values, **made})
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{path}: {error}") from None

    def settings(self) -> dict[str, Any]:
        """All that the tableau is made of, in plain values: for fingerprints."""
        values = self.plain()
        left_out = {"noise", "model", "tuned"} | {name for name in ("coefficients", "shift", "variants") if not values[name]}
        return {name: value for name, value in values.items() if name not in left_out}

    @property
    def outcome(self) -> str | None:
        """What the tuning in the record (``tuned``) returned: "tuned", "untuned" (the best untuned schedule) or "start" (its start).

        The last two are returned where tuning did not help. None: there is no record of a tuning. A file from before outcomes were
        recorded is read by the figures of its decision; without these its schedule counts as tuned.
        """
        said, validation = self.tuned.get("outcome"), self.tuned.get("validation")
        if isinstance(said, str) and said in OUTCOMES:
            return said
        if not self.tuned.keys() - {"choice"}:  # of a sampler: no tuning changed its schedule
            return "start" if self.tuned else None
        chosen = validation.get("chosen") if isinstance(validation, Mapping) else None
        return next((outcome for outcome, name in CHOSEN.items() if name == chosen), "tuned")

    @property
    def steps(self) -> int:
        """How many steps there are: one fewer than times, and for some samplers fewer than evaluations."""
        return len(self.times) - 1

    @property
    def alphas(self) -> Float64:
        """(n_times,) alpha at the times."""
        return self.noise.alpha(self.times)

    @property
    def sigmas(self) -> Float64:
        """(n_times,) sigma at the times."""
        return self.noise.sigma(self.times)

    def tableau(self) -> Tableau:
        """The sampler's coefficients on these times; ``print`` it to see them."""
        return self._tableau  # pyright: ignore[reportAttributeAccessIssue]

    def drifted(self) -> list[int]:
        """The evaluations whose network time lies beyond the neighbouring solver times: worth a look."""
        times = self.tableau().times
        above = np.concatenate([[self.noise.t_max], times[:-1]])
        below = np.append(times[1:], max(self.times[-1], self.noise.t_min))
        return np.flatnonzero((self.network_times > above) | (self.network_times < below)).tolist()

    def replace(self, **changes: Any) -> Schedule:
        """A copy with some fields changed.

        New steps drop the record of how the old ones were tuned, the corrections of the coefficients and the shift; the network times are
        the new solver times, unless ``network_times`` are given too. Variants stay where only times move, as many as before.
        """
        if "sampler" in changes and changes["sampler"] != self.sampler:
            changes = {"options": {}} | changes
        if {"times", "sampler", "noise", "options"} & changes.keys():
            moved = changes.keys().isdisjoint(("sampler", "noise", "options")) and len(changes["times"]) == len(self.times)
            variants = self.variants if moved else ()
            changes = {"network_times": None, "coefficients": None, "shift": None, "variants": variants} | changes
        if {"times", "network_times", "coefficients", "shift", "variants", "sampler", "noise", "options"} & changes.keys():
            changes = {"tuned": {}, "model": {}} | changes
        return dataclasses.replace(self, **changes)

    def part(self, first: int = 0, last: int | None = None) -> Schedule:
        """Steps ``first`` to ``last`` (exclusive) alone, with their network times: to start from an intermediate state, to
        stop early, or to hand over to another sampler. Its noise, and guidance scales per evaluation, are those that these
        steps have in the whole; a multistep sampler begins anew at first order. Only for samplers with one evaluation a step.
        ValueError: an empty range, several evaluations a step, or an early stop with ``lower_order_final``."""
        last = self.steps if last is None else last
        if not 0 <= first < last <= self.steps:
            raise ValueError(f"first and last must satisfy 0 <= first < last <= {self.steps}, got {first} and {last}")
        if len(self.network_times) != self.steps:
            raise ValueError(f"part is defined for samplers with one evaluation a step, {self.sampler!r} has more; build a schedule there")
        if self.coefficients is not None and (first, last) != (0, self.steps):
            raise ValueError("part is not defined for a schedule with tuned coefficients: they combine predictions of all its steps")
        if self.lower_order_final and last < self.steps:
            raise ValueError("part that stops early is not defined with lower_order_final=True: its own last step would be another")
        options = {name: value[first:last] if isinstance(value, tuple) else value for name, value in self.options.items()}
        return self.replace(
            times=self.times[first : last + 1],
            network_times=self.network_times[first:last],
            options=options,
            first=self.first + first,
            coefficients=self.coefficients,
            shift=self.shift,
            variants=self.variants[first:last],
            model=self.model,
        )

    def with_integer_times(self) -> Schedule:
        """Times and network_times rounded to whole times, for networks that only know those."""
        return self.replace(
            times=np.round(self.times),
            network_times=np.round(self.network_times),
            coefficients=self.coefficients,
            shift=self.shift,
            variants=self.variants,
        )

    def with_detail(self, level: float, slope: float = 0.0) -> Schedule:
        """The network is passed lower times: evaluation i of m by the share ``level`` + ``slope`` (i / (m - 1) - 1/2) of its time.

        Then less noise is taken out, and fine detail stays: .02 to .04 adds some, negative levels smooth. ``slope`` = 2 ``level`` begins
        with nothing and ends with twice the level. Only network times change, within the trained range, so every program that takes a
        schedule takes this one. ``tuned["detail"]`` says both numbers where there is a record of a tuning.

        Raises ValueError for shares that do not lie between -1 and 1.
        """
        shares = level + slope * (np.linspace(0, 1, len(self.network_times)) - 0.5) if len(self.network_times) > 1 else np.array([level])
        if not np.isfinite(shares).all() or (np.abs(shares) >= 1).any():
            raise ValueError(f"level and slope must give shares between -1 and 1 of every time, got {level!r} and {slope!r}")
        lower = np.clip(self.network_times * (1 - shares), self.noise.t_min, self.noise.t_max)
        tuned = {**self.tuned, "detail": [float(level), float(slope)]} if self.tuned else {}
        return self.replace(network_times=lower, coefficients=self.coefficients, shift=self.shift, tuned=tuned, model=self.model)

    def save(self, path: str | PathLike[str]) -> None:
        """Write ``ttune.json`` atomically."""
        file.write(path, [self.plain()])

    @staticmethod
    def load(
        path: str | PathLike[str], *, noise: NoiseSchedule | None = None, sampler: str | None = None, steps: int | None = None
    ) -> Schedule:
        """Read and validate ``ttune.json``; refuse it if ``noise``, ``sampler`` or ``steps`` is given and is another one.

        Of a file of several schedules (:func:`ttune.load_schedules`), ``steps`` picks one.
        """
        return Schedule.from_plain(file.read_one(path, noise=noise, sampler=sampler, steps=steps), path)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule):
            return NotImplemented
        return (
            (self.noise, self.sampler, self.eta, self.lower_order_final, self.options, self.first, self.shift, self.variants)
            == (other.noise, other.sampler, other.eta, other.lower_order_final, other.options, other.first, other.shift, other.variants)
            and np.array_equal(self.times, other.times)
            and np.array_equal(self.network_times, other.network_times)
            and (self.coefficients is None) == (other.coefficients is None)
            and (self.coefficients is None or np.array_equal(self.coefficients, other.coefficients))  # pyright: ignore[reportArgumentType]
        )

    def __hash__(self) -> int:
        return hash((self.sampler, self.times.tobytes(), self.network_times.tobytes(), self.variants))

    def __str__(self) -> str:
        words = [f"{self.sampler}, {self.steps} steps"]
        if "unfinished" in self.tuned:
            words.append("best so far of an unfinished tuning")
        elif self.outcome is not None:
            words.append(f"{OUTCOMES[self.outcome]}{'' if self.outcome == 'tuned' else ' (tuning did not help)'}")
        head = ", ".join([*words, *([str(self.shift)] if self.shift else [])])
        chosen = [f"   variant {v}" for v in self.variants] or [""] * len(self.network_times)
        rows = [
            f"  {i:2d}  t = {t:10.4f}   network {c:10.4f}  ({c - t:+.4f}){chosen[i]}"
            for i, (t, c) in enumerate(zip(self.tableau().times, self.network_times, strict=True))
        ]
        return "\n".join([head, *rows, f"      t = {self.times[-1]:10.4f}"])


__all__ = ["GRIDS", "Schedule"]
