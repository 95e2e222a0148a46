"""The two correctness gates of the samplings: around a network that shows what is not passed on, and around the one to be timed."""

from __future__ import annotations

from pathlib import Path

import torch

import ttune
from benchmarks.correctness_gate import RedGate, as_good_as_eager, same_work
from benchmarks.samplings.contestants import contestants
from benchmarks.samplings.setting import Sampling, Setting
from ttune import ops


def said(error: Exception, name: str) -> str:
    """What a gate said, or that it could not be asked."""
    return str(error) if isinstance(error, RedGate) else f"{name}: {type(error).__name__}: {error}".splitlines()[0]


def sampled(sampling: Sampling, x_T: torch.Tensor) -> torch.Tensor:
    with sampling.context():
        return sampling.call(x_T)


class Gates:
    """The gate on the probing network, once for all cells whose contestants are the same code."""

    def __init__(self, peer: Path | None) -> None:
        self.peer = peer
        self._passed: dict[tuple[object, ...], dict[str, Exception]] = {}

    def probed(self, setting: Setting, *, compile: bool) -> dict[str, Exception]:
        """What is wrong, by contestant."""
        key = (setting.sampler, setting.guided, setting.dtype, compile)
        if key not in self._passed:
            probe = setting.probe()
            x_T = probe.start(seed=4)
            wrong = self._passed[key] = {}
            found = contestants(probe, compile=compile, peer=self.peer)[0]
            right = sampled(found["eager"], x_T)
            for name, sampling in found.items():
                try:
                    check(name, sampling, probe, x_T, right)
                except Exception as error:
                    wrong[name] = error
        return self._passed[key]


def check(name: str, sampling: Sampling, setting: Setting, x_T: torch.Tensor, eager: torch.Tensor) -> None:
    """ttune's own to float64, no worse than plain PyTorch code in the dtype; others to a rounding. So are all around a timed
    network, which has no float64 and makes more of a rounding: by then the same code has passed around the probing one. ``eager``: what
    eager code makes of ``x_T``, which is what ttune's reference is held against; ttune's faster ones are held against the reference."""
    denoiser, conditions = setting.denoiser(), setting.conditions
    got = sampled(sampling, x_T)
    with ops.use_backend("reference"):
        same = eager if name == "ttune, reference" else ttune.sample(denoiser, sampling.schedule, x_T, conditions=conditions)
        if setting.workload.parameters:
            return same_work(name, [got], [same])
        exact = ttune.sample(denoiser, sampling.schedule, x_T.double(), conditions=conditions)
    if sampling.ours:
        as_good_as_eager(name, [got], [same], [exact])
    else:
        same_work(name, [got], [exact])
