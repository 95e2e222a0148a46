"""The settings of a tuning, each with its default and its description in one place.

:class:`TuneOptions` are those that the command line takes too, :class:`TuneArguments` all of :func:`ttune.tune`'s keywords.
To add a setting: a field and a line of the docstring of one of the two.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from os import PathLike
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from torch import Tensor

from ttune.distributed import ALONE, Ranks
from ttune.evaluation.score import Features
from ttune.messages.names import meant
from ttune.network.denoiser import Conditions
from ttune.schedule.schedule import Schedule
from ttune.tuning.best import Accepted
from ttune.tuning.distribution.stage import Distribution
from ttune.tuning.methods.method import Method
from ttune.tuning.methods.registry import method_named
from ttune.tuning.starting_points import Data
from ttune.tuning.teacher import Teacher

First = TypeVar("First")
Second = TypeVar("Second")
Arguments = TypeVar("Arguments")
Result = TypeVar("Result")
Keywords = ParamSpec("Keywords")


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """What ``ttune.tune`` and ``ttune tune`` both take.

    Args:
        method: endpoint (least squares on the distance to the teacher's samples), trajectory or local (1-D searches, cheap),
            optimal_steps (dynamic programming), ays (published tables), shifted (TS-DPM), timetuner (the published objective),
            evolution (populations, AutoDiffusion), or gs, dyweight and ld3 (learned by Adam, need gradients). With settings as in
            evolution:operators=cma,rounds=5 (see ttune info).
        tune: What endpoint and evolution may change: all, portable (what other programs' samplers can take: no coefficients), or some of
            network_times, times and coefficients.
        samples: Starting noises to tune on; by default 128, with coefficients 256.
        validation_samples: Starting noises for validation: the tuned schedule is returned only if it is better on these.
        batch_size: Samples in one network call.
        iterations: At most so many: Levenberg-Marquardt's of endpoint (30), Adam's per step of timetuner (500).
        seed: Random seed of the starting noise.
        fallback: Return an untuned schedule, the best one or the start, if the tuned one does not validate.
        residual: What is compared with the teacher's: samples, own (and the network's own activations) or lenet64 (and the bundled
            classifier's features).
        fix_start: Keep the first time.
        search_starts: Begin from several grids and keep the best; needs free times.
        optimizer: Of endpoint: auto, backpropagation (needs gradients), differences (needs nothing but calls of the network) or broyden.
        resume: Go on from the checkpoint, and end where an uninterrupted run would have ended.
        check_model: Refuse a start that was tuned for another model, and a checkpoint of other weights.
        objective: endpoint (nearest to the teacher's samples) or distribution (samples distributed as the reference's are).
        reference: Of the distribution: a folder, .npz or .npy of real images, their feature statistics, or fashion (the bundled images);
            by default the teacher's samples.
        fidelity: Of the distribution: adds so many times the mean squared distance to the teacher, in units of the endpoint's result.
        detail: auto (search two numbers for passing the network lower times), or these numbers: LEVEL,SLOPE.
    """

    method: str | Method = "endpoint"
    tune: str | Sequence[str] = ("network_times", "times")
    samples: int | None = None
    validation_samples: int = 256
    batch_size: int = 64
    iterations: int | None = None
    seed: int = 0
    fallback: bool = True
    residual: str | Callable[..., Tensor] | None = "samples"
    fix_start: bool = False
    search_starts: bool = True
    optimizer: str = "auto"
    resume: bool = False
    check_model: bool = True
    objective: str | Distribution = "endpoint"
    reference: Any = None
    fidelity: float = 0.0
    detail: str | tuple[float, float] | None = None

    def chosen_method(self) -> Method:
        """The method with those of these settings that are its own too; ValueError for one that it does not know."""
        if not isinstance(self.method, str):
            return self.method
        own = ("tune", "fix_start", "iterations", "search_starts", "optimizer")
        return method_named(self.method, {name: getattr(self, name) for name in own if getattr(self, name) != getattr(TuneOptions, name)})


@dataclass(frozen=True, kw_only=True)
class TuneArguments(TuneOptions):
    """All keywords of ``ttune.tune``: those of :class:`TuneOptions`, and what only Python can give.

    Args:
        x_T: (n, ...) starting noises of your own, the last quarter for validation; by default they are drawn from the seed.
        sample_shape: Shape of a drawn sample, without the batch; by default the denoiser's.
        conditions: Per-sample values that go with x_T, or a function of the seeds (n,) int64; by default the model's own draw.
        data: Clean images (n, ...), or (images, conditions), for methods that need them.
        teacher: Another schedule, a function x_T -> x_0, or a ttune.tuning.Teacher; by default DPM-Solver++(2M) with 128 steps.
        features: Images (n, ...) -> (n, f) for Fréchet distances; by default pooled pixels.
        progress: Show bars.
        checkpoint: A file that remembers every accepted iteration, for resume.
        ranks: ttune.distributed.joined()'s, where several processes make this call together with the same arguments. They share the
            starting noises, all return the result that one process would, and the first writes the checkpoint.
        accepted: Called after every accepted iteration, once it is in the checkpoint, with ttune.tuning.Accepted.
    """

    x_T: Tensor | None = None
    sample_shape: Sequence[int] | None = None
    conditions: Conditions | Callable[[Tensor], Conditions] | None = None
    data: Data | None = None
    teacher: Teacher | Schedule | Callable[..., Tensor] | None = None
    features: Features | None = None
    progress: bool = True
    checkpoint: str | PathLike[str] | None = None
    ranks: Ranks = ALONE
    accepted: Callable[[Accepted], None] | None = None


def with_keywords_of(
    arguments: Callable[Keywords, Arguments],
) -> Callable[[Callable[[First, Second, Arguments], Result]], Callable[Concatenate[First, Second, Keywords], Result]]:
    """``function(first, second, arguments)`` as one that takes the fields of the dataclass ``arguments`` for keywords of its own.

    Type checkers, editors and ``help`` show the keywords with their types and defaults; ``help`` adds their descriptions.
    """

    def decorate(function: Callable[[First, Second, Arguments], Result]) -> Callable[Concatenate[First, Second, Keywords], Result]:
        positional = list(inspect.signature(function).parameters.values())[:2]
        signature = inspect.Signature([*positional, *inspect.signature(arguments).parameters.values()])

        @wraps(function)
        def called(*args: Any, **given: Any) -> Result:
            for name in given.keys() - signature.parameters.keys():
                raise TypeError(f"{called.__name__}() got an unexpected keyword argument {name!r}{meant(name, signature.parameters)}")
            values = signature.bind(*args, **given).arguments
            first, second = (values.pop(parameter.name) for parameter in positional)
            return function(first, second, cast(Any, arguments)(**values))

        called.__dict__["__signature__"] = signature
        described = [inspect.cleandoc(kind.__doc__ or "") for kind in cast(Any, arguments).__mro__[-2::-1]]
        listed = "\n".join(text.partition("\nArgs:\n")[2] for text in described)
        called.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nArgs:\n{listed}\n"
        return cast(Any, called)

    return decorate
