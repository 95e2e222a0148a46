"""ONNX Runtime: a session as a network, for :class:`ttune.Denoiser` and, without torch, for :class:`ttune.numpy.Plan`.

denoiser = ttune.onnx.denoiser("unet.onnx", noise)                          # tune this: no gradient is needed
network = ttune.onnx.network("unet.onnx")
registers = step(registers, [network(registers["x"], step.network_times)])   # in the loop of ttune.numpy
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ttune.messages.names import meant
from ttune.noise.schedules import NoiseSchedule

if TYPE_CHECKING:
    from ttune.network.denoiser import Denoiser

_DTYPES = {
    "tensor(double)": np.float64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
_NAMES = ("timestep", "timesteps", "time", "tau", "t")  # what exporters call the time, where it is not the second input
_SAMPLES = ("sample", "x", "x_t", "latent", "latents", "latent_model_input", "hidden_states")  # and the sample, where it is not the first


def network(
    session: Any, *, sample: str | None = None, time: str | None = None, output: str | None = None, providers: Sequence[str] | None = None
) -> Callable[..., NDArray[Any]]:
    """``network(x, tau, **conditions) -> array`` from an ``onnxruntime.InferenceSession``, or the path of a model (ImportError without it).

    ``sample``, ``time`` and ``output`` name the model's inputs and output; by default the input that is called a sample (else the first),
    the one that is called a time (else the second) and the first output. Conditions are the other inputs, by their names. Arrays come in
    any floating dtype and are given in the model's; tau is a number or (B,). A model whose time has no batch gets one time for all
    samples. A time input in float16 gets the nearest of its numbers: halves from 512 on (785.5 for 785.4621). What comes back is an
    array of its own, in the dtype of x, also from a session that keeps its output in one place (IO binding).

    ValueError for names that the model does not have, a time input of more than one dimension, values that do not fit the model's input,
    and for a time or a condition that has a fraction where that is whole: never truncated.
    """
    if isinstance(session, (str, PathLike)):
        import onnxruntime

        session = onnxruntime.InferenceSession(str(session), providers=list(providers or onnxruntime.get_available_providers()))
    elif providers is not None:
        raise ValueError(f"providers go with the path of a model, a session has its own, got {list(providers)}")
    return _Session(session, sample, time, output)


def denoiser(
    session: Any,
    noise: NoiseSchedule,
    prediction_type: str = "epsilon",
    *,
    sample: str | None = None,
    time: str | None = None,
    output: str | None = None,
    providers: Sequence[str] | None = None,
    **settings: Any,
) -> Denoiser:
    """A :class:`ttune.Denoiser` of a model in ONNX; as :func:`network`, ``settings`` go to the denoiser.

    A model whose time input is a whole number becomes one with ``integer_time=True``.
    """
    from ttune.network.denoiser import Denoiser
    from ttune.network.numpy_network import from_numpy

    made = network(session, sample=sample, time=time, output=output, providers=providers)
    assert isinstance(made, _Session)
    return Denoiser(from_numpy(made), noise, prediction_type, **{"integer_time": made.whole, **settings})


class _Session:
    """See :func:`network`."""

    def __init__(self, session: Any, sample: str | None, time: str | None, output: str | None) -> None:
        self.session = session
        self.inputs = {node.name: node for node in session.get_inputs()}
        outputs = [node.name for node in session.get_outputs()]
        names = list(self.inputs)
        if len(names) < 2:
            raise ValueError(f"session must have at least two inputs, the sample and the time, got {names}")
        called = [name for name in names if name in _NAMES]
        self.time = time or (called[0] if called else names[1])
        others = [name for name in names if name != self.time]
        self.sample = sample or next((name for name in others if name in _SAMPLES), others[0])
        self.output = output or outputs[0]
        for what, name, known in (("sample", self.sample, names), ("time", self.time, names), ("output", self.output, outputs)):
            if name not in known:
                raise ValueError(f"{what} must be one of {known}, got {name!r}{meant(name, known)}")
        shape = self.inputs[self.time].shape
        if len(shape) > 1:
            raise ValueError(f"time must be an input of at most one dimension, got {self.time!r} of {shape}; name it with time=")
        if self.sample == self.time:
            raise ValueError(f"sample and time must be two inputs, got {self.time!r} for both")
        self.whole = "int" in self.inputs[self.time].type

    def __call__(self, x: NDArray[Any], tau: Any, **conditions: Any) -> NDArray[Any]:
        feed = {self.sample: self._cast(self.sample, x), self.time: self._times(tau, x.shape[0])}
        for name, value in conditions.items():
            if name not in self.inputs:
                raise ValueError(f"conditions must be inputs of the model, {self._conditions()}, got {name!r}")
            feed[name] = self._cast(name, value)
        missing = [name for name in self.inputs if name not in feed]
        if missing:
            raise ValueError(f"conditions must give {missing}, inputs of the model, got {sorted(conditions)}")
        (result,) = self.session.run([self.output], feed)
        return np.array(result, x.dtype)  # a copy: a session with IO binding writes its next output there

    def _times(self, tau: Any, batch: int) -> NDArray[Any]:
        times = np.asarray(tau, np.float64)
        if self.whole and (times % 1 != 0).any():
            raise ValueError(
                f"{self.time} must be whole, as this model's input is ({self.inputs[self.time].type}), got "
                f"{times.reshape(-1)[0]:g}; use schedule.with_integer_times()"
            )
        shape = self.inputs[self.time].shape
        if len(shape) == 0 or shape[0] == 1:
            if (times != times.reshape(-1)[0]).any():
                raise ValueError(f"{self.time} must be the same for all samples, this model has one for the batch, got {times.tolist()}")
            times = times.reshape(-1)[0].reshape(shape)
        elif times.ndim == 0:
            times = np.broadcast_to(times, (batch,))
        return self._cast(self.time, times)

    def _cast(self, name: str, value: Any) -> NDArray[Any]:
        dtype = _DTYPES.get(self.inputs[name].type)
        if dtype is None:
            raise TypeError(f"{name}: inputs of the kind {self.inputs[name].type} are not known here, only {sorted(_DTYPES)}")
        given = np.asarray(value)
        with np.errstate(invalid="ignore", over="ignore"):  # no number of that kind: found below
            made = np.ascontiguousarray(given, dtype).reshape(given.shape)
        if issubclass(dtype, np.floating) and np.isfinite(given).all() and not np.isfinite(made).all():
            raise ValueError(f"{name} must fit this model's input, {self.inputs[name].type}, got {np.abs(given).max():g}")
        if not issubclass(dtype, np.floating) and (made != given).any():
            lost = given[made != given].reshape(-1)[0]
            raise ValueError(f"{name} must fit this model's input, {self.inputs[name].type}, without being rounded, got {lost:g}")
        return made

    def _conditions(self) -> list[str]:
        return [name for name in self.inputs if name not in (self.sample, self.time)]


__all__ = ["denoiser", "network"]
