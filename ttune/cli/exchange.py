"""``ttune export`` and ``ttune import``."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ttune.cli.arguments import Sampler, check_paths, options_of

if TYPE_CHECKING:
    from ttune.schedule.schedule import Schedule

CONFIG = "scheduler_config.json"
MAX_CONFIG_BYTES = 2**24  # with trained betas: some 20 bytes a training step

Kind = Literal["timesteps", "sigmas", "t_ratios"]


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a schedule as the list of numbers that another tool takes: a JSON list.

    Example: ttune export --schedule ttune.json --to timesteps --model path/to/pipeline --times-only

    A list holds times and no network times: --times-only gives these up; ttune.diffusers.apply and its like keep them.
    """

    schedule: Path
    """A ttune.json."""
    to: Kind = "sigmas"
    """timesteps (diffusers), sigmas (k-diffusion; of flow models diffusers' too), or TimeTuner's t_ratios (network time / time)."""
    steps: int | None = None
    """Of a file of several schedules, which."""
    scheduler: str | None = None
    """With --to timesteps: a scheduler class of diffusers, in its default settings and with the model's betas or shift, which is asked
    whether it steps where the schedule does; one that truncates times, or steps elsewhere, is an error."""
    model: Path | None = None
    """A folder of a diffusers pipeline, or of its scheduler: the scheduler as it is configured there is asked."""
    mu: float | None = None
    """The shift of a scheduler with use_dynamic_shifting, as its pipeline computes it."""
    times_only: bool = False
    """Give up the network times."""
    out: Path | None = None
    """The file to write; by default the list is printed."""

    def run(self) -> None:
        import ttune
        from ttune.storage.atomic_write import check_writable, write_atomically

        check_paths(schedule=self.schedule, model=self.model, out=self.out)
        if self.out is not None:
            check_writable(self.out)
        values = self._values(ttune.Schedule.load(self.schedule, steps=self.steps))
        if self.out is None:
            print(json.dumps(values))
        else:
            write_atomically(self.out, json.dumps(values).encode() + b"\n")
            print(f"Wrote {len(values)} {self.to} to {self.out}")

    def _values(self, schedule: Schedule) -> list[float]:
        import ttune
        from ttune.adapters import exchange

        host, more = self._host(schedule), {"times_only": self.times_only}
        if self.to == "t_ratios":
            return ttune.timetuner_ratios(schedule).tolist()
        if host is None:
            return (exchange.sigmas if self.to == "sigmas" else exchange.timesteps)(schedule, **more)
        if self.to == "sigmas":
            return exchange.set_sigmas(host, schedule, times_only=self.times_only, **({} if self.mu is None else {"mu": self.mu}))["sigmas"]
        made = exchange.set_timesteps(host, schedule, **more, mu=self.mu)
        if "timesteps" not in made:
            raise ValueError(f"scheduler: {type(host).__name__} shifts what it is given, timesteps too; use --to sigmas with --model")
        return made["timesteps"]

    def _host(self, schedule: Schedule) -> Any:
        """The scheduler of diffusers that is asked, if one is named."""
        if self.scheduler is not None and self.to != "timesteps":
            raise ValueError(f"scheduler goes with --to timesteps, got --to {self.to}")
        if self.model is not None and self.scheduler is not None:
            raise ValueError(f"scheduler: --model {self.model} names a scheduler already; give one of the two")
        if self.model is not None and self.to == "t_ratios":
            raise ValueError("model goes with --to timesteps or sigmas, got --to t_ratios")
        if self.mu is not None and self.model is None and self.scheduler is None:
            raise ValueError(f"mu is for the scheduler of --model or --scheduler, got {self.mu:g} without one")
        if self.model is not None:
            return _configured(self.model)
        return None if self.scheduler is None else _default(self.scheduler, schedule)


@dataclass(frozen=True, kw_only=True)
class Import:
    """Make a ttune.json of another tool's list of numbers.

    Example: ttune import --values sigmas.json --kind sigmas --noise scaled_linear --sampler dpmpp_2m --out ttune.json
    """

    values: Path
    """A JSON list: timesteps or sigmas, noisiest first, or t_ratios."""
    out: Path
    """The ttune.json to write."""
    kind: Kind = "sigmas"
    """timesteps (diffusers), sigmas (k-diffusion; of flow models diffusers' too), or t_ratios (TimeTuner), which need --like."""
    sampler: Sampler | None = None
    """Whose schedule it is to be; with t_ratios that of --like."""
    like: Path | None = None
    """A ttune.json with the noise schedule; for t_ratios also with the times."""
    steps: int | None = None
    """Of a file of several schedules, which one --like means."""
    noise: Literal["linear", "scaled_linear", "cosine", "sigmoid", "continuous_vp", "edm", "ve", "flow"] | None = None
    """The noise schedule by name, instead of --like."""
    noise_option: dict[str, str] | None = None
    """Its numbers, for example --noise-option beta_start 0.00085 beta_end 0.012."""
    option: dict[str, str] | None = None
    """The sampler's own options."""
    final: Literal["zero", "min"] = "zero"
    """Whether a clean time is added at the end (zero) or the last value is the end (min)."""

    def run(self) -> None:
        import ttune
        from ttune.storage.atomic_write import check_writable

        check_paths(values=self.values, out=self.out, like=self.like)
        check_writable(self.out)
        if (self.like is None) == (self.noise is None):
            raise ValueError(f"like or noise must be given, one of them, got like={self.like} and noise={self.noise}")
        numbers = _list(self.values)
        made = self._made(numbers, None if self.like is None else ttune.Schedule.load(self.like, steps=self.steps))
        made.save(self.out)
        print(made)
        print(f"Wrote {self.out}")

    def _made(self, numbers: list[float], like: Schedule | None) -> Schedule:
        import ttune
        from ttune.adapters import exchange

        if self.kind == "t_ratios":
            if like is None or self.sampler is not None or self.option:
                raise ValueError("like must be given for t_ratios, and neither sampler nor option: its times and sampler are taken")
            return ttune.apply_timetuner_ratios(like, numbers)
        noise = getattr(ttune.NoiseSchedule, str(self.noise))(**options_of(self.noise_option)) if like is None else like.noise
        if self.sampler is None:
            raise ValueError("sampler must be given: a list of times does not say whose they are")
        build = exchange.from_sigmas if self.kind == "sigmas" else exchange.from_timesteps
        return build(noise, self.sampler, numbers, final=self.final, options=options_of(self.option, self.sampler))


def _list(path: Path) -> list[float]:
    from ttune.schedule.file import MAX_BYTES
    from ttune.storage.bounded_read import read_bytes

    data = read_bytes(path, MAX_BYTES, "a list of numbers")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: this is no JSON ({error})") from None
    if not isinstance(values, list) or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        raise ValueError(f"{path}: this must be a list of numbers")
    try:
        return [float(v) for v in values]
    except OverflowError as error:  # a whole number of more than 308 digits
        raise ValueError(f"{path}: this must be a list of numbers within the range of float64 ({error})") from None


def _class(name: Any) -> Any:
    import diffusers

    kind = getattr(diffusers, name, None) if isinstance(name, str) and name.endswith("Scheduler") else None
    if kind is None:
        raise ValueError(f"scheduler must be a scheduler class of diffusers, e.g. EulerDiscreteScheduler, got {name!r}")
    return kind


def _default(name: str, schedule: Schedule) -> Any:
    """In its default settings, with the betas, or the shift, of the schedule's model."""
    kind = _class(name)
    known, alphas = inspect.signature(kind).parameters, getattr(schedule.noise, "alphas_cumprod", None)
    if alphas is None or "trained_betas" not in known:
        shift = getattr(schedule.noise, "shift", 1.0)
        return kind(shift=shift) if "shift" in known else kind()
    return kind(trained_betas=(1 - alphas / np.append(1.0, alphas[:-1])).tolist(), num_train_timesteps=len(alphas))


def _configured(folder: Path) -> Any:
    """The scheduler of a pipeline's folder, or of one of its own, as it is configured there."""
    from ttune.storage.bounded_read import read_bytes

    path = next((p for p in (folder / "scheduler" / CONFIG, folder / CONFIG) if p.exists()), None)
    if path is None:
        raise ValueError(f"model must be a folder with a {CONFIG}, or with a scheduler that has one, got {folder}")
    try:
        config = json.loads(read_bytes(path, MAX_CONFIG_BYTES, "a scheduler's configuration"))
        return _class(config["_class_name"]).from_config(config)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path}: this is no configuration of a scheduler of diffusers ({error})") from None
