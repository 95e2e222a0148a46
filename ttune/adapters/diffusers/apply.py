"""A tuned schedule on an unmodified pipeline, and off it again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, WeakSet, ref

import numpy as np
from torch import nn

from ttune.adapters.diffusers.evaluation_counter import EvaluationCounter
from ttune.adapters.diffusers.guidance import check_pipeline_guides_alike
from ttune.adapters.diffusers.loading import NETWORKS
from ttune.adapters.diffusers.native_scheduler import NativeScheduler
from ttune.adapters.diffusers.network import learns_variance, original
from ttune.adapters.diffusers.pipeline_calls import check_calls, passes_what_is_left
from ttune.adapters.diffusers.run import check_host_can
from ttune.adapters.diffusers.scheduler import TunedScheduler
from ttune.adapters.diffusers.scheduler_config import bounds_of, config_of, noise_of, prediction_type_of
from ttune.adapters.diffusers.timestep_hook import TIME_NAMES, TimestepHook, hooks_of, time_argument
from ttune.network.denoiser import Denoiser
from ttune.noise.continuous import Flow
from ttune.noise.schedules import NoiseSchedule
from ttune.schedule.collection import load_schedules
from ttune.schedule.file import describe
from ttune.schedule.schedule import Schedule

Given = Schedule | str | PathLike[str] | Mapping[int, Schedule] | Iterable[Schedule]

# The pipeline guides and bounds in its own way; a name is whatever a user called the model.
_NOT_THE_NETWORK = (
    "name",
    "guidance",
    "guidance_scale",
    "guidance_interval",
    "guidance_rescale",
    "clip_sample",
    "clip_epsilon",
    "threshold",
)


@dataclass(frozen=True)
class _PipelinePatch:
    """What lies on one pipeline. Nothing here may hold the pipeline, or it is never freed."""

    undo: ExitStack
    scheduler: Any  # that was there before
    hooks: WeakSet[TimestepHook]


_applied: WeakKeyDictionary[Any, _PipelinePatch] = WeakKeyDictionary()


def apply(
    pipeline: Any, schedule: Given | None = None, *, keep_scheduler: bool = False, check_guidance: bool = True, check_model: bool = True
) -> None:
    """Make an unmodified diffusers ``pipeline`` sample with a tuned schedule: ``pipeline(..., num_inference_steps=schedule.steps)``.

    Its scheduler is replaced by a :class:`TunedScheduler`, and its raw networks (unet or transformer, ControlNets) are passed the tuned
    times by forward pre-hooks, by the number of the evaluation. ``schedule``: one, a ttune.json, or several of different numbers of
    steps; without it, those of a TunedScheduler that the pipeline was loaded with. Applying again replaces; :func:`remove` undoes.

    ``keep_scheduler`` leaves the pipeline's own scheduler in place, where it makes the very steps of the (one, deterministic)
    schedule: only the network times change. It is compared with the schedule's sampler first, number by number.

    Guidance is the pipeline's. A schedule tuned at one scale is refused at another where the pipeline's can be seen (it has
    ``do_classifier_free_guidance``), unless ``check_guidance`` is False.

    Raises ValueError for a schedule of another model (unless ``check_model`` is False), noise schedule or prediction type, or with what
    a pipeline cannot do; and, naming the pipeline, for one that samples in a way of its own (consistency models, cascades, …:
    docs/reference/support.md has a list). Warns of other weights than the schedule was tuned for; wrappers, LoRA and other adapters do
    not count.
    """
    schedules = _schedules(pipeline, schedule)
    check_calls(pipeline)
    settings = config_of(pipeline.scheduler)
    for one in schedules:
        check_host_can(one)
    _check_fits(pipeline, schedules, settings, check_guidance, check_model)
    bounds = _bounds(schedules, settings)
    whole = any(_knows_whole_times(module) for module in _timed_modules(pipeline).values())
    if whole and any((np.mod(one.network_times, 1.0) != 0).any() for one in schedules):
        raise ValueError("schedule: the pipeline's network knows whole times only; use schedule.with_integer_times()")
    _check_not_shared(pipeline)
    before = _applied[pipeline].scheduler if pipeline in _applied else pipeline.scheduler
    if keep_scheduler:
        native = _native(before, schedules, bounds, whole)
        scheduler, counter, start_scale = native.scheduler, lambda: native.counter, lambda: 1.0
    else:
        native, scheduler = None, TunedScheduler.of(schedules, settings, bounds, whole=whole)
        counter, start_scale = lambda: scheduler._running().counter, lambda: scheduler._running().start_scale()
    remove(pipeline)  # only now: a schedule that is refused leaves the one before it in place
    weak, hooks = ref(pipeline), WeakSet[TimestepHook]()
    with ExitStack() as stack:
        parts = [weak, *map(ref, _parts(pipeline))]
        for part in parts:
            _put_back(part, scheduler)
            stack.callback(_put_back, part, before)
        if native is not None:
            stack.callback(native.release)
            native.install()
        counter = _watched(weak, scheduler, counter)
        for module in _timed_modules(pipeline).values():
            hook = TimestepHook(
                module, counter, start_scale, _guidance_check(weak, schedules, check_guidance), left=passes_what_is_left(type(pipeline))
            )
            hooks.add(hook)
            stack.callback(hook.handle.remove)
        _applied[pipeline] = _PipelinePatch(stack.pop_all(), before, hooks)


def remove(pipeline: Any) -> bool:
    """Take off again what :func:`apply` put on ``pipeline``: the very scheduler and networks that it had. Whether there was anything.

    A pipeline that was loaded with a TunedScheduler keeps that one; ``pipeline.scheduler.original()`` rebuilds the plain one.
    """
    applied = _applied.pop(pipeline, None)
    if applied is not None:
        applied.undo.close()
    copied = _strip(pipeline)
    if copied and applied is None and isinstance(pipeline.scheduler, TunedScheduler):
        pipeline.scheduler = pipeline.scheduler.original()
    return applied is not None or copied


def _live() -> set[int]:
    """The hooks that :func:`apply` put where they are, by id; others are copies, or belong to a pipeline that is gone."""
    return {id(hook) for applied in _applied.values() for hook in applied.hooks}


def _strip(pipeline: Any) -> bool:
    """Take off the hooks that came with a copy (deepcopy), or from a pipeline that is gone. Whether there were any."""
    live, found = _live(), False
    for module in _timed_modules(pipeline).values():
        for hooked, key, hook in hooks_of(module):
            if id(hook) not in live:
                del hooked._forward_pre_hooks[key]
                hooked._forward_pre_hooks_with_kwargs.pop(key, None)
                found = True
    return found


def _check_not_shared(pipeline: Any) -> None:
    mine = {id(hook) for hook in _applied[pipeline].hooks} if pipeline in _applied else set[int]()
    others = _live() - mine
    for name, module in _timed_modules(pipeline).items():
        if any(id(hook) in others for _, _, hook in hooks_of(module)):
            raise ValueError(
                f"pipeline: its {name} is shared with another pipeline that has a schedule applied, and takes one only; call "
                f"ttune.diffusers.remove on that one first, got {type(pipeline).__name__}"
            )


def _parts(pipeline: Any) -> list[Any]:
    """The pipelines that this one consists of and that have its scheduler (Kandinsky's combined ones)."""
    return [
        part for part in vars(pipeline).values() if hasattr(part, "components") and getattr(part, "scheduler", None) is pipeline.scheduler
    ]


def _put_back(weak: ReferenceType[Any], scheduler: Any) -> None:
    pipeline = weak()
    if pipeline is not None:
        pipeline.scheduler = scheduler


def _watched(weak: ReferenceType[Any], scheduler: Any, counter: Callable[[], EvaluationCounter]) -> Callable[[], EvaluationCounter]:
    """``counter``, as long as the pipeline still has the scheduler that it belongs to."""

    def watched() -> EvaluationCounter:
        pipeline = weak()
        if pipeline is not None and pipeline.scheduler is not scheduler:
            raise ValueError(
                f"scheduler must be the one that ttune.diffusers.apply put there, got {type(pipeline.scheduler).__name__}: call "
                f"ttune.diffusers.remove(pipeline) before setting another"
            )
        return counter()

    return watched


def _native(scheduler: Any, schedules: list[Schedule], bounds: dict[str, Any], whole: bool) -> NativeScheduler:
    if len(schedules) != 1:
        raise ValueError(f"keep_scheduler=True goes with one schedule, got {len(schedules)}")
    return NativeScheduler(scheduler, schedules[0], bounds, whole=whole)


def _schedules(pipeline: Any, given: Given | None) -> list[Schedule]:
    if not hasattr(pipeline, "components") or getattr(pipeline, "scheduler", None) is None:
        raise TypeError(f"pipeline must be a diffusers pipeline with a scheduler, got {type(pipeline).__name__}")
    if given is None:
        if not isinstance(pipeline.scheduler, TunedScheduler):
            raise ValueError(f"schedule must be given: the pipeline's scheduler is a plain {type(pipeline.scheduler).__name__}")
        return list(pipeline.scheduler.schedules.values())
    if isinstance(given, Schedule):
        return [given]
    if isinstance(given, (str, PathLike)):
        return list(load_schedules(given).values())
    found = list(given.values()) if isinstance(given, Mapping) else list(given)
    steps = [one.steps for one in found]
    if not found or len(set(steps)) != len(steps):
        raise ValueError(f"schedule must be one, or several of different numbers of steps, got {steps}")
    return found


def _timed_modules(pipeline: Any) -> dict[str, nn.Module]:
    """The components that are passed a time of the pipeline's scheduler: the network, a second one, what goes beside it (ControlNets).
    Not those of another scheduler: StableUnCLIP's ``prior`` has its ``prior_scheduler``."""
    others = tuple(name.removesuffix("scheduler") for name in pipeline.components if name.endswith("_scheduler"))
    return {
        name: module
        for name, module in pipeline.components.items()
        if time_argument(module) is not None and not (others and f"{name}_".startswith(others))
    }


def _check_fits(pipeline: Any, schedules: list[Schedule], settings: Mapping[str, Any], check_guidance: bool, check_model: bool) -> None:
    try:
        noise = noise_of(pipeline.scheduler)
    except ValueError as error:
        raise ValueError(f"pipeline: {type(pipeline).__name__} cannot take a schedule: {error}") from None
    for schedule in schedules:
        if not _same_noise(noise, schedule.noise):
            raise ValueError(
                f"schedule: it was made for the noise schedule {describe(schedule.noise)}, the pipeline's scheduler says {describe(noise)}"
            )
    network: Any = next((module for name, module in _timed_modules(pipeline).items() if name.startswith(NETWORKS)), None)
    if network is None:
        raise ValueError(
            f"pipeline must have a network named {' or '.join(NETWORKS)} with an argument {' or '.join(TIME_NAMES)}, got "
            f"{type(pipeline).__name__} with {sorted(pipeline.components)}"
        )
    if getattr(network, "config", None) is None:
        raise ValueError(
            f"pipeline: its network is wrapped in {type(network).__name__}, which hides the config that the pipeline itself reads, so "
            f"that it cannot run; give the pipeline the network without the wrapper, apply the schedule, and one pipeline to each device"
        )
    mine = Denoiser(original(network), noise, prediction_type_of(settings), learned_variance=learns_variance(network.config))
    for model in (schedule.model for schedule in schedules):
        if check_model:  # by one denoiser, which reads its weights once
            mine.check_model({k: v for k, v in model.items() if k not in _NOT_THE_NETWORK})
        if check_guidance and (model.get("guidance_interval") or isinstance(model.get("guidance_scale"), (list, str))):
            raise ValueError(
                f"schedule: it was tuned with guidance that changes from step to step ({model.get('guidance_scale')}, interval "
                f"{model.get('guidance_interval')}), which a pipeline does not do; check_guidance=False applies it all the same"
            )


def _same_noise(mine: NoiseSchedule, theirs: NoiseSchedule) -> bool:
    return mine == theirs or (isinstance(mine, Flow) and isinstance(theirs, Flow))  # the shift of a flow only bends grids


def _bounds(schedules: list[Schedule], settings: Mapping[str, Any]) -> dict[str, Any]:
    """How x_0 is bounded: as it was while tuning; for an untuned schedule as the scheduler's configuration says."""
    bounds = bounds_of(settings)
    wanted = {
        (s.model.get("clip_sample"), s.model.get("clip_epsilon", "recompute"), s.model.get("threshold")) for s in schedules if s.model
    }
    if len(wanted) > 1:
        raise ValueError(f"schedule: several must have been tuned with the same clipping, got {sorted(map(str, wanted))}")
    if not wanted:
        return bounds
    clip_sample, clip_epsilon, threshold = next(iter(wanted))
    if threshold is not None and threshold != repr(bounds.get("threshold")):
        raise ValueError(f"schedule: it was tuned with the threshold {threshold}, the pipeline's scheduler has {bounds.get('threshold')}")
    return (
        {"clip_epsilon": clip_epsilon}
        | ({"clip_sample": clip_sample} if clip_sample is not None else {})
        | ({"threshold": bounds["threshold"]} if threshold is not None else {})
    )


def _knows_whole_times(module: nn.Module) -> bool:
    return getattr(original(module), "config", {}).get("time_embedding_type") == "learned"


def _guidance_check(weak: ReferenceType[Any], schedules: list[Schedule], check_guidance: bool) -> Callable[[int], None]:
    """Refuses, at every call, guidance that the schedule was not tuned for, where the pipeline's can be seen."""

    def check(index: int) -> None:
        pipeline = weak()
        if not check_guidance or pipeline is None:
            return
        steps = getattr(pipeline.scheduler, "num_inference_steps", None)
        schedule = next((one for one in schedules if one.steps == steps), schedules[0])
        check_pipeline_guides_alike(pipeline, schedule.model)

    return check
