"""The calls of the network in one run of a program."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ttune.kernels import direct
from ttune.network.call_note import add_note
from ttune.network.denoiser import Conditions, Denoiser, Evaluation, Network
from ttune.network.guidance import ClassifierFree, Halves
from ttune.network.in_place import changed_in_place, writes
from ttune.network.oom_batching import is_out_of_memory
from ttune.sampling.plan import Plan


class Call(NamedTuple):
    """What an evaluation of the network is in every run."""

    number: int
    evaluation: Evaluation
    network: Network
    tau: Tensor | None  # (B,), or (2B,) for both halves; None: a time per sample, from the schedule's shift
    halves: bool  # both halves of guidance in one call
    plain: bool  # the evaluation is one call of the network, and its output as it is
    outputs: int  # how many there are, a learned variance included

    @staticmethod
    def make(plan: Plan, denoiser: Denoiser, i: int, x: Tensor) -> Call:
        """Evaluation ``i`` of states like ``x`` (B, ...)."""
        evaluation, guidance = plan.evaluations[i], denoiser.guidance
        guided = guidance is not None and evaluation.scale is not None
        halves = guided and type(guidance) is ClassifierFree and guidance.batched and not guidance.rescale
        tau = None if plan.shifting is not None else denoiser.times(plan.network_times[i], x)
        tau = torch.cat((tau, tau)) if halves and tau is not None else tau
        plain = (halves or not guided) and not denoiser.learned_variance
        return Call(i, evaluation, evaluation.network, tau, halves, plain, len(evaluation.row) - 1 + denoiser.learned_variance)


class NetworkCalls:
    """The network's outputs in one run, for states like ``x`` (B, ...).

    A network that is known not to write into what it is given (:mod:`ttune.network.in_place`) is called without detours: its times are
    made once, and what errors and want of memory ask for is in the ``except`` branch. All other evaluations are left to the denoiser.
    """

    def __init__(self, plan: Plan, denoiser: Denoiser, conditions: Conditions, x: Tensor, network_times: Tensor | None) -> None:
        self.plan, self.denoiser, self.conditions, self.network_times = plan, denoiser, conditions, network_times
        self.shape = self.doubled = x.shape
        self.batch, self.dtype, self.hands = x.shape[0], x.dtype, denoiser.hands
        self.both: Conditions = {}
        if isinstance(conditions, Halves):
            self.both, self.doubled = conditions.both, torch.Size((2 * self.batch, *x.shape[1:]))
        self.writes = None if torch.compiler.is_compiling() or x.is_inference() else self._writes()
        # Not where what is written is not counted, nor where the memory does not hold the whole batch.
        self.direct = self.writes is not None and denoiser.call_batches.most is None
        self.plain = True  # all outputs so far are (ttune.kernels.direct.plain)

    def __call__(self, call: Call, r: list[Any]) -> None:
        """Put the outputs for the state r[0] into r[1] and, where there are more, the next places."""
        _, _, network, tau, halves, plain, count = call
        if self.network_times is not None or tau is None:
            tau = self._per_sample(call, r[0])
        if plain and self.direct and network is self.hands.trusted:
            if halves:
                output = self._directly(call, torch.cat((r[0], r[0])), tau, self.both, self.doubled)
                if output is not None:
                    r[1], r[2] = output.chunk(2)
                    return
            else:
                r[1] = self._directly(call, r[0], tau, self.conditions, self.shape)
                if r[1] is not None:
                    return
        found = self.denoiser.evaluate(r[0], tau[: self.batch], self.conditions, call.evaluation)
        r[1 : 1 + count] = found[:count]
        self.plain = False
        self.direct = self.direct and self.denoiser.call_batches.most is None

    def check(self) -> None:
        """RuntimeError where a network that was called without detours wrote into the conditions."""
        if self.direct and self._writes() != self.writes:
            raise changed_in_place()

    def _directly(self, call: Call, x: Tensor, tau: Tensor, conditions: Conditions, shape: torch.Size) -> Tensor | None:
        """The network's output for ``x`` of ``shape``; None where the memory does not hold it."""
        network, before = call.network, x._version
        try:
            output = network(x, tau, **conditions)
        except Exception as error:
            if x.shape[0] < 2 or not is_out_of_memory(error):
                add_note(error, network, x, tau, conditions, call.evaluation.index, call.evaluation.time)
                raise
        else:
            if x._version != before:
                raise changed_in_place()
            if tau._version:
                self._restore(call, tau)
            if type(output) is Tensor and output.dtype is self.dtype and output.shape == shape:
                self.plain = self.plain and direct.plain(output)
                return output  # the operator looks at the device
            self.plain = False
            return self.denoiser.checked(output, x, [])
        # Out here the error is gone, and with its traceback the tensors of the attempt.
        if x._version != before:
            raise changed_in_place()
        self.direct = False
        self.denoiser.call_batches.halve(x.shape[0])
        return None

    def _restore(self, call: Call, tau: Tensor) -> None:
        """The time as it was before ``call``, whose network is given copies from now on."""
        self.hands.distrust(call.network)
        if tau is call.tau:
            tau.fill_(self.plan.network_times[call.number])

    def _per_sample(self, call: Call, x: Tensor) -> Tensor:
        """(B,) or (B, frames), or as much for both halves."""
        if self.network_times is not None:
            tau = self.network_times[call.number]
        elif self.plan.shifting is not None:
            tau = self.plan.shifting(call.number, x)
        else:
            tau = self.plan.network_times[call.number]
        tau = self.denoiser.times(tau, x)
        return torch.cat((tau, tau)) if call.halves else tau

    def _writes(self) -> int | None:
        """How often anything was written into the conditions; None where that is not counted."""
        try:
            return writes(self.conditions) + writes(self.both)
        except RuntimeError:  # tensors of inference mode
            return None
