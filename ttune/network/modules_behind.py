"""The modules that a network is made of, also where it is a function around them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn


def modules_behind(network: Any) -> Iterator[nn.Module]:
    """``network`` itself, those of a wrapper of ttune's, or what a function around modules names."""
    if isinstance(network, nn.Module):
        yield network
    elif isinstance(network, functools.partial):
        yield from modules_behind(network.func)
    elif isinstance(getattr(network, "__self__", None), nn.Module):
        yield network.__self__
    elif inspect.isfunction(network):
        try:
            names = inspect.getclosurevars(network)
        except ValueError:  # of a name that has no value yet
            return
        yield from (value for value in (*names.nonlocals.values(), *names.globals.values()) if isinstance(value, nn.Module))
    elif type(network).__module__.partition(".")[0] == "ttune":
        for inner in (getattr(network, "network", None), *getattr(network, "networks", ())):
            yield from modules_behind(inner)
