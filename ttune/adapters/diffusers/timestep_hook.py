"""The hook at a pipeline's raw network that passes it the tuned time."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._dynamo.eval_frame import skip_code
from torch.utils.hooks import RemovableHandle

from ttune.adapters.diffusers.evaluation_counter import Convention, EvaluationCounter
from ttune.adapters.diffusers.network import asked_by_ttune, original

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
TIME_NAMES = ("timestep", "timesteps", "t")


def time_argument(module: Any) -> tuple[str, int] | None:
    """Name and place of the time among the arguments of ``module``; None if it has none."""
    if not isinstance(module, nn.Module):
        return None
    names = list(inspect.signature(original(module).forward).parameters)
    return next(((name, i) for i, name in enumerate(names) if name in TIME_NAMES), None)


class TimestepHook:
    """Passes a network the tuned time instead of its pipeline's.

    ``counter`` and ``start_scale`` are asked at every call; ``check(index)`` is called with the number of the evaluation and may raise;
    ``left`` as of :meth:`EvaluationCounter.passed`. A call by a denoiser of :func:`ttune.diffusers.load` has the right time, and is left
    alone.

    It counts on the host, so torch.compile must not trace it. Of a compiled module PyTorch calls the hooks outside of the graph.
    """

    def __init__(
        self,
        module: nn.Module,
        counter: Callable[[], EvaluationCounter],
        start_scale: Callable[[], float],
        check: Callable[[int], None],
        *,
        left: bool = False,
    ) -> None:
        found = time_argument(module)
        assert found is not None
        self.name, self.place = found
        self.first = next(iter(inspect.signature(original(module).forward).parameters))
        self.counter, self.start_scale, self.check = counter, start_scale, check
        self.convention: Convention | None = None
        self.left = left
        # Before all other hooks: what moves inputs to a device, or keeps them, must see the right ones.
        self.handle: RemovableHandle = module.register_forward_pre_hook(self, with_kwargs=True, prepend=True)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        return None if asked_by_ttune() else self._called(module, args, kwargs)

    @torch.compiler.disable(reason="ttune.diffusers.apply counts evaluations on the host")
    def _called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        given = _argument(args, kwargs, self.name, self.place)
        x = _argument(args, kwargs, self.first, 0)
        parts = x if isinstance(x, list) else [x]  # Z-Image has one tensor per sample
        if given is None or not parts or not all(isinstance(part, torch.Tensor) for part in parts):
            raise ValueError(f"{self.name} must be given to {type(module).__name__}, got {given!r}")
        counter = self.counter()
        passed, self.convention = counter.passed(given, parts[0].device, self.convention, left=self.left)
        assert counter.index is not None
        self.check(counter.index)
        changed: dict[tuple[str, int], Any] = {(self.name, self.place): passed}
        scale = self.start_scale()
        if scale != 1:
            changed[self.first, 0] = [part * scale for part in parts] if isinstance(x, list) else x * scale
        return _replaced(args, kwargs, changed)


# A denoiser of the same pipeline may be compiled whole, hooks and all; a hook that is called by itself is none of torch.compile's.
skip_code(TimestepHook.__call__.__code__)


def hooks_of(module: nn.Module) -> list[tuple[nn.Module, int, TimestepHook]]:
    """(module, key, hook): those of :class:`TimestepHook` among the forward pre-hooks of ``module``, and of what torch.compile wrapped."""
    return [
        (hooked, key, hook)
        for hooked in dict.fromkeys((module, original(module)))
        for key, hook in hooked._forward_pre_hooks.items()
        if isinstance(hook, TimestepHook)
    ]


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], name: str, place: int) -> Any:
    return kwargs[name] if name in kwargs else args[place] if place < len(args) else None


def _replaced(args: tuple[Any, ...], kwargs: dict[str, Any], changed: dict[tuple[str, int], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    places, named = list(args), dict(kwargs)
    for (name, place), value in changed.items():
        if name in named:
            named[name] = value
        else:
            places[place] = value
    return tuple(places), named
