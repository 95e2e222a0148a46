"""What an exception of the user's network carries: how ttune called it, and what the commonest mistakes look like."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ttune.network.modules_behind import modules_behind

_START = "ttune called network("


def add_note(
    error: BaseException,
    network: Any,
    x: Tensor,
    tau: Tensor | None,
    conditions: Mapping[str, Any],
    index: int | None = None,
    time: float | None = None,
) -> None:
    """Add to ``error``, which ``network`` raised, how it was called and a hint, once."""
    if any(note.startswith(_START) for note in getattr(error, "__notes__", ())):
        return
    given = ", ".join(f"{name}: {described(value)}" for name, value in conditions.items()) or "none"
    where = "" if index is None else f" at evaluation {index}"
    where += "" if time is None else f" (t = {time:g})"
    note = f"{_START}x {described(x)}, tau {'of each step' if tau is None else described(tau)}; conditions: {given}){where}."
    hint = next(iter(_hints(error, network, x, conditions)), None)
    note += f" Hint: {hint}" if hint else ""
    if sys.version_info >= (3, 11):
        error.add_note(note)
    elif len(error.args) == 1 and isinstance(error.args[0], str):  # Python 3.10
        error.args = (f"{error.args[0]}\n{note}",)


def notes_of(error: BaseException) -> str:
    """The notes of ``error``, each on a line of its own after its message."""
    return "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))


def described(value: Any) -> str:
    """A tensor's shape, dtype and device; of other values their type, or what they hold."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')} {value.device}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {described(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(described, value[:4]))}{', …' if len(value) > 4 else ''}]"
    return repr(value) if isinstance(value, (int, float, bool, type(None))) else type(value).__name__


def picking(output: object) -> str:
    """How the prediction is picked from what a network returned."""
    pick = ".sample" if hasattr(output, "sample") else "[0]" if isinstance(output, (tuple, list)) else ""
    return f", as lambda x, tau, **conditions: network(x, tau, **conditions){pick}" if pick else ""


def _hints(error: BaseException, network: Any, x: Tensor, conditions: Mapping[str, Any]) -> Iterator[str]:
    """The most particular first."""
    text = str(error)
    if isinstance(error, TypeError):
        yield from _of_arguments(text, network, conditions)
    weights = next((p for m in modules_behind(network) for p in m.parameters() if p.is_floating_point()), None)
    if weights is not None and weights.device != x.device:
        yield f"the network is on {weights.device} and x on {x.device}: network.to({str(x.device)!r}), or x_T.to({str(weights.device)!r})"
    if re.search("(?i)same device|expected device|cuda.FloatTensor", text):
        yield f"x is on {x.device}; the network and all conditions must be there too (.to({str(x.device)!r}))"
    if re.search(r"scalar types?:? (Long|Int)|type Long|torch\.LongTensor|must be long|indices. to have", text):
        yield (
            "the network wants whole numbers (times or labels): for times wrap it as Denoiser(lambda x, tau, **conditions: "
            "network(x, tau.long(), **conditions), ..., integer_time=True); labels are given as int64"
        )
    if re.search("same dtype|should be the same|scalar type|expected m1 and m2|c10::", text):
        own = "" if weights is None else f", the network's weights are {str(weights.dtype).removeprefix('torch.')}"
        yield (
            f"x is {str(x.dtype).removeprefix('torch.')}, tau float32 or float64{own}: give x_T in the network's dtype (x_T.to(...)), "
            f"convert inside the network (x.to(dtype), tau.to(dtype)), or use network.float()"
        )
    if (short := [name for name, value in conditions.items() if _other_rows(value, len(x))]) and re.search("size|shape|dimension", text):
        yield f"conditions {short} have another number of rows than the {len(x)} samples of this call"
    if channels := re.search(r"to have (\d+) channels, but got (\d+) channels", text):
        wanted, got = channels.groups()
        yield (
            f"the network takes {wanted} channels and was given {got}: x_T is (batch, {wanted}, ...), sample_shape is without the batch, "
            f"({wanted}, ...); other inputs (a mask, an image) are conditions that a wrapper appends"
        )
    if re.search(r"Expected \dD|expected \dD|dimensions? of|must have \d dim|too many indices|not enough values to unpack", text):
        yield (
            f"x has {x.ndim} dimensions, {tuple(x.shape)}, with the batch first: sample_shape is without the batch, x_T with it; "
            "the network is called as network(x, tau, **conditions), in this order"
        )
    if re.search(r"Sizes of tensors must match|size of tensor a|Given groups|Calculated padded input", text):
        yield (
            f"a U-Net that halves its input needs sides that are divisible by 2 as often as it halves them, got {tuple(x.shape[1:])}; "
            "or a condition does not go with x"
        )
    if "cannot be multiplied" in text:
        yield "a layer was given another width than it has: check the order (x, tau), the conditions' last dimensions and sample_shape"
    if isinstance(error, IndexError) or "out of range" in text:
        yield "a label or time is beyond the network's table: labels start at 0; a table of N times ends at N - 1"
    if isinstance(error, AttributeError):
        yield "the network is called with tensors as network(x, tau, **conditions); wrap it in a function where it wants something else"


def _of_arguments(text: str, network: Any, conditions: Mapping[str, Any]) -> Iterator[str]:
    if missing := re.search(r"missing \d+ required (?:positional|keyword-only) arguments?: (.*)", text):
        names = re.findall(r"'(\w+)'", missing.group(1))
        yield f"the network needs {' and '.join(names)}: give conditions={{{', '.join(f'{name!r}: ...' for name in names)}}}"
    if unknown := re.search(r"unexpected keyword argument '(\w+)'", text):
        name, known = unknown.group(1), list(_arguments(network))
        near = difflib.get_close_matches(name, known, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        yield f"the network has no argument {name!r}{f', it has {known}' if known else ''}: conditions are named as its arguments{meant}"
    if "multiple values for argument" in text or re.search(r"takes .* positional arguments? but \d+ (was|were) given", text):
        yield "the network is called as network(x, tau, **conditions): no condition may be called x or tau; wrap it in a function"
    if conditions and re.search("NoneType|not 'NoneType'", text):
        yield "a condition is None"


def _arguments(network: Any) -> Iterable[str]:
    try:
        function = network.forward if isinstance(network, nn.Module) else network
        parameters = list(inspect.signature(function).parameters.values())[2:]
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]


def _other_rows(value: Any, samples: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] not in (1, samples)
