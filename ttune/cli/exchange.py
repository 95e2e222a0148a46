"""``ttune export`` and ``ttune import``."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ttune.cli.arguments import Sampler, check_paths, options_of

if TYPE_CHECKING:
    from ttune.schedule.schedule import Schedule

CONFIG = "scheduler_config.json"
MAX_CONFIG_BYTES = 2**24  # with trained betas: some 20 bytes a training step

Kind = Literal["timesteps", "sigmas", "t_ratios"]


def export(
    schedule: Path,
    to: Kind = "sigmas",
    steps: int | None = None,
    scheduler: str | None = None,
    model: Path | None = None,
    mu: float | None = None,
    times_only: bool = False,
    out: Path | None = None,
) -> None:
    """Write a schedule as the list of numbers that another tool takes: a JSON list.

    Example: ttune export --schedule ttune.json --to timesteps --model path/to/pipeline --times-only

    A list holds times and no network times: --times-only gives these up; ttune.diffusers.apply and its like keep them.

    Args:
        schedule: A ttune.json.
        to: timesteps (diffusers), sigmas (k-diffusion; of flow models diffusers' too), or TimeTuner's t_ratios (network time / time).
        steps: Of a file of several schedules, which.
        scheduler: With --to timesteps: a scheduler class of diffusers, in its default settings and with the model's betas or shift, which
            is asked whether it steps where the schedule does; one that truncates times, or steps elsewhere, is an error.
        model: A folder of a diffusers pipeline, or of its scheduler: the scheduler as it is configured there is asked.
        mu: The shift of a scheduler with use_dynamic_shifting, as its pipeline computes it.
        times_only: Give up the network times.
        out: The file to write; by default the list is printed.
    """
    import ttune
    from ttune.adapters import exchange
    from ttune.storage.atomic_write import check_writable, write_atomically

    check_paths(schedule=schedule, model=model, out=out)
    if out is not None:
        check_writable(out)
    loaded = ttune.Schedule.load(schedule, steps=steps)
    if scheduler is not None and to != "timesteps":
        raise ValueError(f"scheduler goes with --to timesteps, got --to {to}")
    if model is not None and scheduler is not None:
        raise ValueError(f"scheduler: --model {model} names a scheduler already; give one of the two")
    if model is not None and to == "t_ratios":
        raise ValueError("model goes with --to timesteps or sigmas, got --to t_ratios")
    if mu is not None and model is None and scheduler is None:
        raise ValueError(f"mu is for the scheduler of --model or --scheduler, got {mu:g} without one")
    host = _configured(model) if model is not None else _default(scheduler, loaded) if scheduler is not None else None
    if to == "t_ratios":
        values = ttune.timetuner_ratios(loaded).tolist()
    elif to == "sigmas":
        if host is None:
            values = exchange.sigmas(loaded, times_only=times_only)
        else:
            values = exchange.set_sigmas(host, loaded, times_only=times_only, **({} if mu is None else {"mu": mu}))["sigmas"]
    elif host is None:
        values = exchange.timesteps(loaded, times_only=times_only)
    else:
        made = exchange.set_timesteps(host, loaded, times_only=times_only, mu=mu)
        if "timesteps" not in made:
            raise ValueError(f"scheduler: {type(host).__name__} shifts what it is given, timesteps too; use --to sigmas with --model")
        values = made["timesteps"]
    text = json.dumps(values)
    if out is None:
        print(text)
    else:
        write_atomically(out, text.encode() + b"\n")
        print(f"Wrote {len(values)} {to} to {out}")


def import_(
    values: Path,
    out: Path,
    kind: Kind = "sigmas",
    sampler: Sampler | None = None,
    like: Path | None = None,
    steps: int | None = None,
    noise: Literal["linear", "scaled_linear", "cosine", "sigmoid", "continuous_vp", "edm", "ve", "flow"] | None = None,
    noise_option: dict[str, str] | None = None,
    option: dict[str, str] | None = None,
    final: Literal["zero", "min"] = "zero",
) -> None:
    """Make a ttune.json of another tool's list of numbers.

    Example: ttune import --values sigmas.json --kind sigmas --noise scaled_linear --sampler dpmpp_2m --out ttune.json

    Args:
        values: A JSON list: timesteps or sigmas, noisiest first, or t_ratios.
        out: The ttune.json to write.
        kind: timesteps (diffusers), sigmas (k-diffusion; of flow models diffusers' too), or t_ratios (TimeTuner), which need --like.
        sampler: Whose schedule it is to be; with t_ratios that of --like.
        like: A ttune.json with the noise schedule; for t_ratios also with the times.
        steps: Of a file of several schedules, which one --like means.
        noise: The noise schedule by name, instead of --like.
        noise_option: Its numbers, for example --noise-option beta_start 0.00085 beta_end 0.012.
        option: The sampler's own options.
        final: Whether a clean time is added at the end ("zero") or the last value is the end ("min").
    """
    import ttune
    from ttune.adapters import exchange
    from ttune.storage.atomic_write import check_writable

    check_paths(values=values, out=out, like=like)
    check_writable(out)
    if (like is None) == (noise is None):
        raise ValueError(f"like or noise must be given, one of them, got like={like} and noise={noise}")
    numbers = _list(values)
    model = None if like is None else ttune.Schedule.load(like, steps=steps)
    if kind == "t_ratios":
        if model is None or sampler is not None or option:
            raise ValueError("like must be given for t_ratios, and neither sampler nor option: its times and sampler are taken")
        made = ttune.apply_timetuner_ratios(model, numbers)
    else:
        known = getattr(ttune.NoiseSchedule, str(noise))(**options_of(noise_option)) if model is None else model.noise
        if sampler is None:
            raise ValueError("sampler must be given: a list of times does not say whose they are")
        build = exchange.from_sigmas if kind == "sigmas" else exchange.from_timesteps
        made = build(known, sampler, numbers, final=final, options=options_of(option, sampler))
    made.save(out)
    print(made)
    print(f"Wrote {out}")


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
