"""Any network, seen as one prediction of x_0: the one place where a network is passed its time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ttune.messages.warn import warn
from ttune.network.call_note import add_note, picking
from ttune.network.conditions import check_rows, of_rows, taken
from ttune.network.guidance import Classifier, ClassifierFree, Guidance, Halves
from ttune.network.identity import advice_for, architecture, differences, digest_of_weights, other_weights, signature
from ttune.network.in_place import Hands, copies
from ttune.network.oom_batching import Batches
from ttune.network.stitched import Stitched
from ttune.network.variants import Variants
from ttune.noise.schedules import NoiseSchedule
from ttune.samplers.points import Point
from ttune.samplers.prediction import PREDICTION_TYPES, data_row, prediction_type_named

Network = Callable[..., Tensor]
Conditions = Mapping[str, Any]

__all__ = ["PREDICTION_TYPES", "Classifier", "ClassifierFree", "Conditions", "Denoiser", "Evaluation", "Network", "select"]


@dataclass(frozen=True)
class Evaluation:
    """One call of a denoiser in a loop: which network it is, and the scale of guidance (None: no guidance is needed there).

    ``row``: coefficients of the unclipped x_0 prediction over (x, *outputs). ``share``: what a call of this network costs, where
    that of the whole one costs 1. ``index`` and ``time``: which one it is, for messages.
    """

    network: Network
    scale: float | None
    row: tuple[float, ...]
    share: float = 1.0
    index: int | None = field(default=None, compare=False)
    time: float | None = field(default=None, compare=False)

    def same_call(self, other: Evaluation) -> bool:
        """Whether both return the same outputs for the same state and time."""
        return (self.network is other.network or self.network == other.network) and self.scale == other.scale


@dataclass
class Denoiser:
    """A frozen network together with all that is needed to read an x_0 prediction from it.

    ``network(x, tau, **conditions)``: x (B, ...), tau (B,) in the dtype of x (float32 for the half types), returns
    the shape of x. ``clip_sample`` clamps the x_0 prediction to [-clip_sample, clip_sample]; solvers in epsilon then recompute it
    from the clamped prediction (``clip_epsilon="recompute"``, guided-diffusion's way) or keep the network's
    ("keep", diffusers' default). ``integer_time`` says that the network only knows whole times.
    ``name``, ``sample_shape`` (without batch) and ``draw_conditions`` (seeds (B,) -> conditions) are optional
    knowledge that saves the caller from repeating it. ``guidance`` is a :class:`ClassifierFree` or a :class:`Classifier`;
    ``network`` may be :class:`ttune.Stitched` from several, or :class:`ttune.Variants` of one. ``threshold``
    (:class:`ttune.DynamicThreshold`, or any function of D) replaces clipping by something that is not linear, in passes of its own.
    ``learned_variance`` says that the network returns twice the channels, the second half being the variance of ``ddpm`` with
    ``variance="learned_range"``.
    ``decode`` makes pictures in [-1, 1] of the samples of a latent model.
    ``shared`` names conditions that all samples share as they are, whatever their shape ("img_ids", "added_cond_kwargs.table"). All
    others, tensors in dicts, lists and tuples too, have one row per sample, or one row for all of them (:mod:`ttune.network.conditions`).
    The network may write into its arguments, return the same memory at every call, and in another floating dtype.
    Where the memory does not hold a batch, the network is called with half of it, twice (:mod:`ttune.network.oom_batching`).
    ``evaluations`` counts the samples that the network saw, whichever variant it was; ``spent`` counts each at the cost of its variant.
    """

    network: Network | Stitched | Variants
    noise: NoiseSchedule
    prediction_type: str = "epsilon"
    guidance: Guidance | None = None
    clip_sample: float | None = None
    clip_epsilon: str = "recompute"
    integer_time: bool = False
    name: str = ""
    sample_shape: tuple[int, ...] | None = None
    draw_conditions: Callable[[Tensor], Conditions] | None = None
    threshold: Callable[[Tensor], Tensor] | None = None
    learned_variance: bool = False
    decode: Callable[[Tensor], Tensor] | None = None
    shared: tuple[str, ...] = ()
    evaluations: int = field(default=0, init=False)
    spent: float = field(default=0.0, init=False)
    call_batches: Batches = field(default_factory=lambda: Batches("one call of the network"), init=False, repr=False, compare=False)
    chunk_batches: Batches = field(default_factory=lambda: Batches("one chunk"), init=False, repr=False, compare=False)
    hands: Hands = field(default_factory=Hands, init=False, repr=False, compare=False)
    programs: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)  # by ttune.sampling.sample

    def __post_init__(self) -> None:
        if not callable(self.network) and not isinstance(self.network, (Stitched, Variants)):
            raise TypeError(f"network must be callable as network(x, tau, **conditions), got {type(self.network).__name__}")
        if not isinstance(self.noise, NoiseSchedule):
            raise TypeError(f"noise must be a ttune.NoiseSchedule, got {type(self.noise).__name__}")
        self.prediction_type = prediction_type_named(self.prediction_type)
        if self.guidance is not None and not all(hasattr(self.guidance, name) for name in ("scale_at", "weights", "outputs", "settings")):
            scale = f"{self.guidance:g}" if isinstance(self.guidance, (int, float)) else "7.5"
            raise TypeError(
                f"guidance must be ttune.ClassifierFree(scale, null), ttune.Classifier(log_prob, scale) or None, got {self.guidance!r}: "
                f"write guidance=ttune.ClassifierFree({scale}, null={{...}}), where null gives, for each condition, the value for none"
            )
        if self.clip_sample is not None and not 0 < self.clip_sample < float("inf"):
            raise ValueError(f"clip_sample must be a positive number or None, got {self.clip_sample}")
        if self.clip_sample is not None and self.threshold is not None:
            raise ValueError(
                f"threshold takes the place of clip_sample: give one of them, got clip_sample={self.clip_sample} and a threshold"
            )
        if self.clip_epsilon not in ("recompute", "keep"):
            raise ValueError(f"clip_epsilon must be 'recompute' or 'keep', got {self.clip_epsilon!r}")
        self.shared = (self.shared,) if isinstance(self.shared, str) else tuple(self.shared)
        if not all(isinstance(name, str) and name for name in self.shared):
            raise TypeError(f"shared must hold names of conditions, such as 'img_ids' or 'added_cond_kwargs.table', got {self.shared!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if name not in ("evaluations", "spent"):
            self.__dict__["programs"] = {}  # they were made of the settings as they were

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"programs": {}}  # copies and pickles make their own

    def __call__(self, x: Tensor, t: float, tau: float | Tensor | None = None, **conditions: Any) -> Tensor:
        """The x_0 prediction (B, ...) for a state x (B, ...) at solver time ``t``; the network is passed ``tau``, by default ``t``."""
        if isinstance(getattr(self.guidance, "scale", None), tuple):
            raise ValueError("guidance: with a scale per evaluation a single prediction has no scale; use a number or a function")
        evaluation = self.evaluation(0, Point(float(t), float(self.noise.alpha(t)), float(self.noise.sigma(t))))
        D = self.unclipped(x, t if tau is None else tau, conditions, evaluation)
        return self.bounded(D)

    def bounded(self, D: Tensor) -> Tensor:
        """``D`` clamped or thresholded, as the denoiser says."""
        if self.threshold is not None:
            return self.threshold(D)
        return D if self.clip_sample is None else D.clamp(-self.clip_sample, self.clip_sample)

    def network_at(self, t: float, variant: int = 0) -> Network:
        """The network that serves an evaluation at time ``t`` for which the schedule chose ``variant``."""
        if isinstance(self.network, Variants):
            return self.network.at(variant)
        if variant:
            raise ValueError(f"schedule: it chooses variant {variant} of the network, and this denoiser's network is no ttune.Variants")
        return self.network.at(t) if isinstance(self.network, Stitched) else self.network

    def evaluation(self, index: int, point: Point, variant: int = 0) -> Evaluation:
        """Evaluation number ``index`` of a loop, which is at ``point`` and uses ``variant`` of the network."""
        network = self.network_at(point.t, variant)
        share = self.network.costs[variant] if isinstance(self.network, Variants) else 1.0
        p, q = data_row(self.prediction_type, point.alpha, point.sigma)
        scale = None if self.guidance is None else self.guidance.scale_at(index, point)
        if self.guidance is None or scale is None or self.guidance.idle(scale):
            return Evaluation(network, None, (p, q), share, index, point.t)
        return Evaluation(network, scale, (p, *self.guidance.weights(q, scale, point)), share, index, point.t)

    def unclipped(self, x: Tensor, tau: float | Tensor, conditions: Conditions, evaluation: Evaluation) -> Tensor:
        """The x_0 prediction before clipping, when the network is passed ``tau`` at ``evaluation``."""
        x_weight, *weights = evaluation.row
        outputs = self.outputs(x, tau, conditions, evaluation)
        return x_weight * x + sum(weight * output for weight, output in zip(weights, outputs, strict=False))

    def outputs(
        self, x: Tensor, tau: float | Tensor, conditions: Conditions | None = None, evaluation: Evaluation | None = None
    ) -> list[Tensor]:
        """The network's own outputs: one, or with guidance two (:mod:`ttune.network.guidance`); no arithmetic on them. With a learned
        variance, its channels are one more. Without ``evaluation`` the guidance must be the same everywhere."""
        evaluation = evaluation or self._anywhere()
        self.count(x.shape[0], evaluation)
        return self.evaluate(x, tau, conditions, evaluation)

    def count(self, samples: int, evaluation: Evaluation) -> None:
        """So many samples went through ``evaluation``."""
        calls = samples * self.cost(evaluation)
        self.evaluations += calls
        self.spent += calls * evaluation.share

    def cost(self, evaluation: Evaluation) -> int:
        """How many evaluations of the network one sample costs: with classifier-free guidance two."""
        return 1 if self.guidance is None or evaluation.scale is None else self.guidance.cost(evaluation.scale)

    def evaluate(self, x: Tensor, tau: float | Tensor, conditions: Conditions | None, evaluation: Evaluation) -> list[Tensor]:
        """:meth:`outputs` without counting: a counter would be a new graph per call under torch.compile."""
        conditions = {} if conditions is None else conditions
        tau = self.times(tau, x)
        variances: list[Tensor] = []

        def network(x: Tensor, tau: Tensor, conditions: Conditions) -> Tensor:
            if torch.compiler.is_compiling():
                return self.checked(self._called(evaluation.network, x, tau, conditions), x, variances)
            try:
                output = self._called(evaluation.network, x, tau, conditions)
            except Exception as error:
                add_note(error, evaluation.network, x, tau, conditions, evaluation.index, evaluation.time)
                raise
            return self.checked(output, x, variances)

        if self.guidance is None or evaluation.scale is None:
            outputs = [network(x, tau, conditions)]
        else:
            conditions = conditions if isinstance(conditions, Halves) else self.prepared(conditions, x)
            outputs = self.guidance.outputs(network, x, tau, conditions, evaluation.scale)
        # The first call's first half is the conditional one.
        return [*outputs, variances[0][: x.shape[0]]] if self.learned_variance else outputs

    def prepared(self, conditions: Conditions | None, x: Tensor) -> Conditions:
        """``conditions`` for many evaluations of states like ``x``: what guidance makes of them is made once."""
        conditions = {} if conditions is None else conditions
        return self.guidance.prepared(conditions, x, self.shared) if isinstance(self.guidance, ClassifierFree) else conditions

    def check_conditions(self, conditions: Conditions | None, samples: int) -> None:
        """TypeError or ValueError for conditions that do not go with so many samples (:func:`ttune.network.conditions.check_rows`)."""
        if conditions:
            check_rows(conditions, samples, self.shared)

    def times(self, tau: float | Tensor, x: Tensor) -> Tensor:
        """(B,) or (B, frames): what the network is passed with ``x`` (B, ...), in its dtype; bfloat16 has 126 values in (500, 1000]."""
        dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
        if isinstance(tau, (float, int)):
            # Made where it is wanted: a number that is copied to a GPU has the host wait, at every step.
            return torch.full(x.shape[:1], tau, dtype=dtype, device=x.device)
        tau = torch.as_tensor(tau, dtype=dtype, device=x.device)
        # In memory of its own, which a network may write to.
        return (tau.expand(x.shape[0]) if tau.ndim == 0 else tau).clone()

    def _called(self, network: Network, x: Tensor, tau: Tensor, conditions: Conditions) -> Tensor:
        """``network``'s output for all samples, in parts where the memory asks for it. Not where a derivative is to be taken, which keeps
        the activations of all parts: there whole chunks are halved (:meth:`ttune.tuning.problem.Problem.total`)."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            # For a network that writes into what it is given; of what none writes to, a compiler makes no copy.
            return network(x.clone(), tau, **copies(conditions))
        n = x.shape[0]

        def call(rows: slice | None) -> Tensor:
            if rows is None:
                return self.hands.call(network, x, tau, conditions)
            # A copy, for the next part may be written into the same memory.
            return self.hands.call(network, x[rows], tau[rows], select(conditions, rows, n, self.shared)).clone()

        return self.call_batches.through(call, n, lambda parts: torch.cat(list(parts)))

    def identity(self) -> dict[str, Any]:
        """What a tuned schedule remembers of the denoiser it belongs to (see :meth:`differences`)."""
        modules = self.modules()
        network = {"parameter_shapes": architecture(modules)} if modules else {}
        weights = signature(modules) if modules else None
        return self._settings() | network | ({} if weights is None else {"weights": weights})

    def _settings(self) -> dict[str, Any]:
        """The part of :meth:`identity` that is not the network's weights."""
        identity: dict[str, Any] = {
            "prediction_type": self.prediction_type,
            "guidance_scale": None,
            "clip_sample": self.clip_sample,
            "clip_epsilon": self.clip_epsilon,
        }
        if self.guidance is not None:
            identity |= self.guidance.settings()
        if self.threshold is not None:
            named = getattr(self.threshold, "__qualname__", type(self.threshold).__name__)
            identity["threshold"] = repr(self.threshold) if dataclasses.is_dataclass(self.threshold) else f"a function: {named}"
        if self.learned_variance:
            identity["learned_variance"] = True
        if isinstance(self.network, Stitched) and self.network.switch_at:
            identity["switch_at"] = list(self.network.switch_at)
        if isinstance(self.network, Variants):
            identity["variants"] = len(self.network.networks)
        if self.name:
            identity["name"] = self.name
        return identity

    def modules(self) -> list[torch.nn.Module]:
        """The networks that are modules: one, or of a stitched denoiser or of variants several."""
        networks = self.network.networks if isinstance(self.network, (Stitched, Variants)) else (self.network,)
        # torch.compile wraps; the parameters are the same
        return [getattr(n, "_orig_mod", n) for n in networks if isinstance(n, torch.nn.Module)]

    def weights_digest(self) -> str | None:
        """A digest of the weights themselves, adapters included, cheap even for large networks; None for a plain function."""
        return digest_of_weights(self.modules())

    def differences(self, remembered: Mapping[str, Any]) -> list[str]:
        """What this denoiser and a remembered :meth:`identity` both state, and state differently; but for the weights, which may be
        others (:meth:`check_model`)."""
        return differences(self._settings(), self.modules(), remembered)

    def check_model(self, remembered: Mapping[str, Any], subject: str = "schedule: it") -> None:
        """ValueError if a remembered :meth:`identity` is that of another denoiser. A UserWarning, once for each, if the network is the
        same and its weights are others, beyond what rounding to another dtype changes."""
        found = self.differences(remembered)
        if found:
            advice = advice_for(self._settings().get("guidance_scale"), remembered.get("guidance_scale"))
            raise ValueError(f"{subject} was tuned for another denoiser: {'; '.join(found)}. {advice}")
        theirs = remembered.get("weights")
        seen = self.__dict__.setdefault("_weights_compared", [])
        if theirs is None or theirs in seen:
            return
        seen.append(theirs)
        if other_weights(signature(self.modules()), theirs):
            warn(
                f"{subject} was tuned for a network of the same architecture with other weights: tuned for another checkpoint? Tune a "
                f"schedule for this one, or silence this with check_model=False (--no-check-model)"
            )

    def _anywhere(self) -> Evaluation:
        """An evaluation whose time was not given."""
        guidance = self.guidance
        depends = isinstance(self.network, (Stitched, Variants)) or (
            guidance is not None and (not isinstance(guidance.scale, (int, float)) or getattr(guidance, "interval", None) is not None)
        )
        if depends:
            raise ValueError("evaluation must be given: this denoiser's network or guidance depends on the time of the evaluation")
        assert not isinstance(self.network, (Stitched, Variants))
        scale = None if guidance is None or guidance.idle(guidance.scale) else float(guidance.scale)
        return Evaluation(self.network, scale, ())

    def checked(self, output: Tensor, x: Tensor, variances: list[Tensor]) -> Tensor:
        """A network's ``output`` for ``x``, in its dtype and without a learned variance; TypeError or ValueError where it does not fit."""
        if not isinstance(output, Tensor):
            raise TypeError(
                f"network must return a tensor, got {type(output).__name__}; "
                f"wrap it in a function that picks the prediction{picking(output)}"
            )
        if self.learned_variance:
            twice = (x.shape[0], 2 * x.shape[1], *x.shape[2:])
            if tuple(output.shape) != twice:
                raise ValueError(f"network with learned_variance=True must return {twice}, got {tuple(output.shape)}")
            output, variance = output.chunk(2, dim=1)
            variances.append(variance.to(x.dtype))
        if output.shape != x.shape:
            twice = x.ndim > 1 and output.shape == (x.shape[0], 2 * x.shape[1], *x.shape[2:])
            learned = "; twice the channels are a learned variance: Denoiser(..., learned_variance=True)" if twice else ""
            raise ValueError(f"network must return the shape of x, {tuple(x.shape)}, got {tuple(output.shape)}{learned}")
        if output.device != x.device:
            raise ValueError(f"network must return a tensor on the device of x, {x.device}, got {output.device}")
        # Autocast, or a time in float32 beside a state in bfloat16, changes the dtype on the way; the state keeps its own.
        return output if output.dtype == x.dtype else output.to(x.dtype)


def select(conditions: Conditions, rows: slice | Tensor, n: int, shared: Sequence[str] = ()) -> Conditions:
    """The ``rows`` of per-sample conditions of ``n`` samples, in dicts, lists and tuples too; what has another number of rows, or is
    named in ``shared``, stays as it is."""
    return {k: of_rows(lambda value: taken(value, rows), v, n, shared, k) for k, v in conditions.items()}
