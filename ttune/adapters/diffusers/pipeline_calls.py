"""What a pipeline asks of its scheduler beyond what every scheduler has, read from the source of its ``__call__``."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

# What TunedScheduler.set_timesteps has, and what diffusers' retrieve_timesteps takes for itself.
_KNOWN = ("scheduler", "num_inference_steps", "device", "timesteps", "sigmas", "mu")
# Where a pipeline writes these, the steps are its own.
_STEPS = ("timesteps", "sigmas", "_step_index", "step_index")


def check_calls(pipeline: Any) -> None:
    """ValueError, naming the pipeline, where it steers its scheduler in a way of its own, or steps without it."""
    kind = type(pipeline)
    reason = _reason(kind)
    if reason is not None:
        raise ValueError(f"pipeline: {kind.__name__} {reason}; a schedule cannot be applied to it, use ttune.sample with its network")


@cache
def passes_what_is_left(kind: type) -> bool:
    """Whether a pipeline passes its network 1 - t: at t = 1/2 that cannot be seen from the time (Lumina 2, Z-Image)."""
    tree = _tree(kind.__call__)
    if tree is None:
        return False
    differences = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)]
    return any(
        isinstance(one.left, ast.Constant)
        and one.left.value in (1, 1000)
        and any(isinstance(name, ast.Name) and (name.id == "t" or "timestep" in name.id) for name in ast.walk(one.right))
        for one in differences
    )


@cache
def _reason(kind: type) -> str | None:
    tree = _tree(kind.__call__)
    if tree is None:
        return None
    if _copies(tree):
        return "steps copies of its scheduler (for sound beside the picture, or one for each frame)"
    asked = [name for name in _settings(tree) if name not in _KNOWN]
    if asked:
        return f"gives its scheduler {', '.join(dict.fromkeys(asked))}, of another way of sampling"
    written = [name for name in _written(tree) if name in _STEPS]
    if written:
        return f"writes its scheduler's {', '.join(dict.fromkeys(written))}, so that it steps elsewhere than the scheduler says"
    return None


def _tree(code: Any) -> ast.AST | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(code))))
    except (OSError, TypeError, SyntaxError):  # defined where there is no source
        return None


def _settings(tree: ast.AST) -> Iterator[str]:
    """The named arguments that reach ``set_timesteps`` of the pipeline's scheduler."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) and _is_scheduler(node.func.value) else getattr(node.func, "id", "")
        of_another = name == "retrieve_timesteps" and node.args and not _is_scheduler(node.args[0])
        if name in ("set_timesteps", "retrieve_timesteps") and not of_another:
            yield from (keyword.arg for keyword in node.keywords if keyword.arg is not None)


def _written(tree: ast.AST) -> Iterator[str]:
    """The attributes of the pipeline's scheduler that are assigned to, elements of them too."""
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        for target in targets:
            place = target.value if isinstance(target, ast.Subscript) else target
            if isinstance(place, ast.Attribute) and _is_scheduler(place.value):
                yield place.attr


def _copies(tree: ast.AST) -> bool:
    """Whether the pipeline's scheduler is copied, whatever the run (``x = deepcopy(self.scheduler)``)."""
    calls = [node.value for node in ast.walk(tree) if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)]
    return any(
        (call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")) == "deepcopy"
        and any(map(_is_scheduler, call.args))
        for call in calls
    )


def _is_scheduler(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "scheduler" and isinstance(node.value, ast.Name) and node.value.id == "self"
