"""What a network's output says about x_0: one line of algebra per prediction type."""

from __future__ import annotations

from collections.abc import Callable

from ttune.messages.names import must_be_one_of


def _epsilon(alpha: float, sigma: float) -> tuple[float, float]:
    return 1 / alpha, -sigma / alpha


def _sample(alpha: float, sigma: float) -> tuple[float, float]:
    return 0.0, 1.0


def _v_prediction(alpha: float, sigma: float) -> tuple[float, float]:
    return alpha / (alpha**2 + sigma**2), -sigma / (alpha**2 + sigma**2)


def _score(alpha: float, sigma: float) -> tuple[float, float]:
    return 1 / alpha, sigma**2 / alpha


def _flow_prediction(alpha: float, sigma: float) -> tuple[float, float]:
    return 1 / (alpha + sigma), -sigma / (alpha + sigma)


# What a network predicts -> (p, q) of x_0 = p x + q output, given x = alpha x_0 + sigma epsilon.
# v = alpha epsilon - sigma x_0 (Salimans and Ho 2022); score = -epsilon / sigma; flow = epsilon - x_0.
PREDICTION_TYPES: dict[str, Callable[[float, float], tuple[float, float]]] = {
    "epsilon": _epsilon,
    "sample": _sample,
    "v_prediction": _v_prediction,
    "score": _score,
    "flow_prediction": _flow_prediction,
}


# What other programs call them.
_ALIASES = {"eps": "epsilon", "v": "v_prediction", "x0": "sample", "x_0": "sample", "flow": "flow_prediction"}


def prediction_type_named(name: str) -> str:
    """One of :data:`PREDICTION_TYPES`, by its name or a common one (eps, v, x0, flow). ValueError for any other."""
    name = _ALIASES.get(name, name) if isinstance(name, str) else name
    return must_be_one_of("prediction_type", name, sorted(PREDICTION_TYPES))


def data_row(prediction_type: str, alpha: float, sigma: float, guidance_scale: float | None = None) -> tuple[float, ...]:
    """Coefficients of the x_0 prediction over (x, output), or with classifier-free guidance over (x, output, null output)."""
    if alpha == 0 and prediction_type in ("epsilon", "score"):
        raise ValueError(
            f"prediction_type {prediction_type!r} says nothing about x_0 where alpha = 0: "
            f"start below the largest time (t_start), or use a network that predicts v, x_0 or the flow"
        )
    p, q = PREDICTION_TYPES[prediction_type](alpha, sigma)
    if guidance_scale is None or guidance_scale == 1.0:
        return p, q
    return p, q * guidance_scale, q * (1 - guidance_scale)
