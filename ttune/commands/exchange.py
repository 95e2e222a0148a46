"""``ttune export`` and ``ttune import``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from ttune.commands.arguments import Sampler, check_paths, options_of

Kind = Literal["timesteps", "sigmas", "t_ratios"]


def export(
    schedule: Path,
    to: Kind = "sigmas",
    steps: int | None = None,
    scheduler: str | None = None,
    drop_told: bool = False,
    out: Path | None = None,
) -> None:
    """Write a schedule as the list of numbers that another tool takes: a JSON list.

    Example: ttune export --schedule ttune.json --to timesteps --scheduler EulerDiscreteScheduler --drop-told

    A list of positions cannot say what the network is told; --drop-told gives that up, ttune.diffusers.apply and its like keep it.

    Args:
        schedule: A ttune.json.
        to: timesteps (diffusers), sigmas (k-diffusion; of flow models diffusers' too), or TimeTuner's t_ratios (told time / position).
        steps: Of a file of several schedules, which.
        scheduler: With --to timesteps: a scheduler class of diffusers, which is asked whether it keeps these times; one that truncates
            them is an error.
        drop_told: Give up what the network is told.
        out: The file to write; by default the list is printed.
    """
    import ttune
    from ttune.adapters import exchange
    from ttune.atomic import check_writable, write_atomically

    check_paths(schedule=schedule, out=out)
    if out is not None:
        check_writable(out)
    loaded = ttune.Schedule.load(schedule, steps=steps)
    if scheduler is not None and to != "timesteps":
        raise ValueError(f"scheduler goes with --to timesteps, got --to {to}")
    if to == "t_ratios":
        values = ttune.timetuner_ratios(loaded).tolist()
    elif to == "sigmas":
        values = exchange.sigmas(loaded, drop_told=drop_told)
    elif scheduler is None:
        values = exchange.timesteps(loaded, drop_told=drop_told)
    else:
        values = exchange.set_timesteps(_scheduler(scheduler), loaded, drop_told=drop_told)["timesteps"]
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
        like: A ttune.json with the noise schedule; for t_ratios also with the positions.
        steps: Of a file of several schedules, which one --like means.
        noise: The noise schedule by name, instead of --like.
        noise_option: Its numbers, for example --noise-option beta_start 0.00085 beta_end 0.012.
        option: The sampler's own options.
        final: Whether a clean position is added at the end ("zero") or the last value is the end ("min").
    """
    import ttune
    from ttune.adapters import exchange
    from ttune.atomic import check_writable

    check_paths(values=values, out=out, like=like)
    check_writable(out)
    if (like is None) == (noise is None):
        raise ValueError(f"like or noise must be given, one of them, got like={like} and noise={noise}")
    numbers = _list(values)
    model = None if like is None else ttune.Schedule.load(like, steps=steps)
    if kind == "t_ratios":
        if model is None or sampler is not None or option:
            raise ValueError("like must be given for t_ratios, and neither sampler nor option: its positions and sampler are taken")
        made = ttune.apply_timetuner_ratios(model, numbers)
    else:
        known = getattr(ttune.NoiseSchedule, str(noise))(**options_of(noise_option)) if model is None else model.noise
        if sampler is None:
            raise ValueError("sampler must be given: a list of positions does not say whose they are")
        build = exchange.from_sigmas if kind == "sigmas" else exchange.from_timesteps
        made = build(known, sampler, numbers, final=final, options=options_of(option, sampler))
    made.save(out)
    print(made)
    print(f"Wrote {out}")


def _list(path: Path) -> list[float]:
    from ttune.reading import read_bytes
    from ttune.schedule_file import MAX_BYTES

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


def _scheduler(name: str) -> Any:
    import diffusers

    kind = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if kind is None:
        raise ValueError(f"scheduler must be a scheduler class of diffusers, e.g. EulerDiscreteScheduler, got {name!r}")
    return kind()
