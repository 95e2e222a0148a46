"""The stage that the arguments of a tuning ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ttune.messages.names import must_be_one_of
from ttune.network.denoiser import Denoiser
from ttune.tuning.detail import as_detail
from ttune.tuning.distribution.feature_maps import parts_to_judge, parts_to_tune
from ttune.tuning.distribution.reference import as_reference
from ttune.tuning.distribution.stage import Distribution
from ttune.tuning.methods.method import Method
from ttune.tuning.solvers.parameters import TUNABLE

if TYPE_CHECKING:
    from ttune.tuning.options import TuneArguments

OBJECTIVES = ("endpoint", "distribution")


def stage_of(denoiser: Denoiser, method: Method, arguments: TuneArguments) -> Distribution | None:
    """The search for a distribution that follows ``method``, or None; ValueError or TypeError for what does not go together."""
    objective, searched = arguments.objective, as_detail(arguments.detail) == "auto"
    if not isinstance(objective, Distribution):
        must_be_one_of("objective", objective, OBJECTIVES, " or a ttune.tuning.Distribution")
    if objective == "endpoint" and not searched:
        if arguments.reference is not None or arguments.fidelity:
            raise ValueError("reference and fidelity are for objective='distribution' or detail='auto', got objective='endpoint'")
        return None
    shape = arguments.sample_shape if arguments.sample_shape is not None else denoiser.sample_shape
    if arguments.x_T is not None or shape is None:
        raise ValueError("x_T: a distribution is tuned on new x_T in every iteration; give sample_shape and samples instead")
    if not set(method.changes) & set(TUNABLE):
        raise ValueError(f"method {method.name!r} changes {list(method.changes)}; a distribution is tuned over some of {list(TUNABLE)}")
    given = objective if isinstance(objective, Distribution) else Distribution(optimizer="detail" if objective == "endpoint" else "auto")
    own = {"reference": given.reference is not None, "features": bool(given.parts), "fidelity": bool(given.fidelity)}
    for name in (name for name, there in own.items() if there and getattr(arguments, name) not in (None, 0)):
        raise ValueError(f"{name} must be given once: to tune() or to its Distribution, got both")
    pictures = tuple(shape) if denoiser.decode is None else ()  # of decoded pictures the shape is not known yet
    names = list(denoiser.draw_conditions(torch.zeros(1, dtype=torch.int64))) if denoiser.draw_conditions else []
    reference = given.reference if arguments.reference is None else as_reference(arguments.reference, pictures, names)
    parts = given.parts or parts_to_tune(arguments.features, pictures)
    # Statistics are of one kind of features: what they do not know is left out, unless nothing remains.
    parts = given.parts or tuple(part for part in parts if reference is None or reference.knows(part)) or parts
    judges = given.judges if given.parts else parts_to_judge(parts, pictures)
    fidelity, detail = arguments.fidelity or given.fidelity, searched or given.detail
    return replace(given, parts=parts, judges=judges, reference=reference, fidelity=fidelity, detail=detail)
