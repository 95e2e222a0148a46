"""A run of ComfyUI whose network gets other times than those of its sigmas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class TimedGuider:
    """``guider`` for a sampler: during each of its evaluations ``model_sampling.timestep`` answers ``time(sigma)`` (B,).

    One call is one evaluation, however many conditionings and batches it has and whatever another node does inside it. Between
    evaluations, for masks and previews, the model answers as ever.
    """

    def __init__(self, guider: Any, time: Callable[[Tensor], Tensor]) -> None:
        self.guider, self.time = guider, time
        self.now: Tensor | None = None
        self.model_timestep = guider.inner_model.model_sampling.timestep

    def __call__(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        self.now = self.time(sigma)
        try:
            return self.guider(x, sigma, **kwargs)
        finally:
            self.now = None

    def timestep(self, sigma: Tensor) -> Tensor:
        if self.now is None:
            return self.model_timestep(sigma)
        # Several conditionings in one call are the batch several times over.
        now, count = self.now.to(sigma.device, torch.float32), sigma.numel()
        if count % len(now):
            now = now[:1].expand(count)
        return now.repeat(count // len(now)).view(sigma.shape)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["guider"], name)


@contextmanager
def overriding(host: Any, **methods: Callable[..., Any]) -> Iterator[None]:
    """``methods`` in the place of the host's own, for this one object and as long as the block lasts, however it ends."""
    before = {name: host.__dict__[name] for name in methods if name in host.__dict__}
    host.__dict__.update(methods)
    try:
        yield
    finally:
        for name in methods:
            del host.__dict__[name]
        host.__dict__.update(before)
