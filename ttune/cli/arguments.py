"""Words that several commands take: the registries are the list of choices."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ttune.noise.grids import GRIDS
from ttune.samplers import SAMPLERS, sampler_options

if TYPE_CHECKING:
    from ttune.distributed import Ranks
    from ttune.network.denoiser import Denoiser
    from ttune.noise.schedules import NoiseSchedule
    from ttune.schedule.schedule import Schedule

    Sampler = SamplerOrAuto = Spacing = str
else:
    Sampler = Literal[tuple(SAMPLERS)]
    SamplerOrAuto = Literal[(*SAMPLERS, "auto")]
    Spacing = Literal[tuple(GRIDS)]

T = TypeVar("T")


def as_words(options: type[T], **kinds: Any) -> type[T]:
    """The dataclass ``options`` with fields of those types that the command line reads; their defaults and descriptions stay."""
    narrowed = [(name, kind, field(default=getattr(options, name))) for name, kind in kinds.items()]
    return make_dataclass(options.__name__, narrowed, bases=(options,), frozen=True, kw_only=True)


@dataclass(frozen=True)
class UntunedFlags:
    """The steps of an untuned schedule."""

    spacing: Spacing = "leading"
    """How the steps are laid out."""
    offset: int = 0
    """Offset of the leading spacing's timesteps (diffusers' steps_offset)."""
    t_start: float | None = None
    """First time, instead of the largest trained time."""
    final: Literal["zero", "min"] = "zero"
    """Last time: clean (zero) or the smallest trained time (min)."""
    option: dict[str, str] | None = None
    """The sampler's own options, for example --option order 3 variant bh1 (see ttune info)."""

    def build(self, noise: NoiseSchedule, sampler: str, steps: int) -> Schedule:
        from ttune.schedule.schedule import Schedule

        given: dict[str, Any] = asdict(self) | {"options": options_of(self.option, sampler)}
        del given["option"]
        return Schedule.build(noise, sampler, steps, **given)

    def changed(self, but: str = "") -> list[str]:
        """The names of those that were given, without ``but``."""
        default = asdict(UntunedFlags())
        return [name for name, value in asdict(self).items() if value != default[name] and name != but]


@dataclass(frozen=True)
class ModelFlags:
    """How the model is loaded."""

    guidance_scale: float | None = None
    """Guidance, as the model's pipeline means it: classifier-free above 1, none at 1 and below; of Flux and LCM the input."""
    prompts: Path | None = None
    """A file with one prompt a line, for a text-conditional diffusers model; the sample of seed i has line i modulo their number."""
    negative_prompt: str | None = None
    """What the unguided half is prompted with; by default what the pipeline takes for none."""
    class_labels: tuple[int, ...] | None = None
    """Classes: the sample of seed i has entry i modulo their number; by default all of the model's, in turn."""
    height: int | None = None
    """Of an image in pixels, with --width; by default the size that a diffusers model was made for."""
    width: int | None = None
    """Of an image in pixels, with --height."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of a diffusers model's weights; by default as they were saved."""
    device: str | None = None
    """Where the network runs, for example cpu or cuda:1; by default a GPU where a diffusers model finds one."""
    variant: str | None = None
    """Of a diffusers model's weight files, for example fp16; by default the one that is there, where there are none without."""

    def load(self, model: str, ranks: Ranks | None = None) -> Denoiser:
        """The denoiser; where several ``ranks`` share the work, on its own device."""
        import torch

        from ttune.cli.models import load_model

        check_paths(prompts=self.prompts)
        denoiser = load_model(model, **vars(self))
        if ranks is not None and ranks.world > 1 and self.device is None and torch.cuda.is_available():
            for module in denoiser.modules():  # networks that are no modules must see to it
                module.to("cuda")
        return denoiser


def model_of(model: str | None, schedules: Iterable[Path]) -> str:
    """The ``model`` that was named, or else the bundled one; ValueError, before it is loaded, if files are of a model that is not."""
    if model is not None:
        return model
    from ttune import zoo
    from ttune.schedule.collection import load_schedules

    for path in schedules:
        names = [schedule.model["name"] for schedule in load_schedules(path).values() if "name" in schedule.model]
        if others := [name for name in names if name not in zoo.MODELS]:
            raise ValueError(f"{path} was tuned for {others[0]!r}: pass --model with its folder, hub id, or package.module:factory")
    return zoo.MODELS[0]


def usable(schedule: Schedule, denoiser: Denoiser, *, check_model: bool) -> Schedule:
    """``schedule``, once it is known to fit, before anything is sampled; without ``check_model`` it forgets what it was tuned for."""
    from ttune.sampling.sample import check_fits

    schedule = schedule if check_model else replace(schedule, model={})
    check_fits(denoiser, schedule)
    return schedule


def options_of(given: dict[str, str] | None, sampler: str | None = None) -> dict[str, float | str | bool]:
    """Words of the command line as the numbers and truth values that they spell; what ``sampler`` takes as a word stays one."""
    defaults = {} if sampler is None else sampler_options(sampler)
    options: dict[str, float | str | bool] = {}
    for name, word in (given or {}).items():
        if isinstance(defaults.get(name), str):  # "2" of dpm_solver_fast's tail, say
            options[name] = word
            continue
        try:
            options[name] = int(word) if word.lstrip("+-").isdigit() else float(word)
        except ValueError:
            options[name] = {"true": True, "false": False}.get(word.lower(), word)
    return options


def check_counts(**counts: int) -> None:
    """ValueError for a count that is not at least 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be a whole number >= 1, got {count}")


def check_seed(seed: int, **counts: int) -> None:
    """ValueError if the seeds SEED ... SEED + n - 1 of samples, n being one of ``counts``, are no 64-bit integers."""
    for name, n in counts.items():
        if not -(2**63) <= seed <= 2**63 - n:
            raise ValueError(
                f"seed and {name} must satisfy -2^63 <= seed <= 2^63 - {name}, so that the samples' seeds are 64-bit integers, "
                f"got seed={seed} and {name}={n}"
            )


def check_paths(**paths: Path | Iterable[Path] | None) -> None:
    """ValueError for a path that no file can have, in whatever word of the command line it came; None is none."""
    for name, given in paths.items():
        for path in () if given is None else (given,) if isinstance(given, Path) else given:
            try:
                possible = b"\0" not in os.fsencode(path)
            except UnicodeEncodeError:
                possible = False
            if not possible:
                raise ValueError(f"{name} must be a path without a zero byte or half a surrogate pair, got {str(path)!r}")
