"""Conditions that hold others: which tensors have rows, what is refused, and what tells two conditions apart."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import ttune
from ttune import ClassifierFree, CompiledSampler, Denoiser, NoiseSchedule, Schedule
from ttune.network.conditions import digest, layout, of_rows, repeated, taken
from ttune.tuning import Teacher

NOISE = NoiseSchedule.linear()
SCHEDULE = Schedule.build(NOISE, "dpmpp_2m", 3, "log_snr")
TEACHER = Schedule.build(NOISE, "dpmpp_2m", 6, "log_snr")
X_T = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
Pair = namedtuple("Pair", "scale table")


def network(x: Tensor, tau: Tensor, gain: Any = None, table: Any = None) -> Tensor:
    """``gain`` a tree with one tensor (B,) or (1,), ``table`` one that all samples share, whatever its shape."""
    w = 1.0 if gain is None else torch.as_tensor(pytree.tree_leaves(gain)[-1]).to(x.dtype)[:, None]
    shift = 0.0 if table is None else pytree.tree_leaves(table)[-1].to(x.dtype).mean()
    return 0.1 * x * w * torch.sin(tau.to(x.dtype) / 300)[:, None] + 0.01 * shift


CONTAINERS = {
    "dict": lambda v: {"extra": {"w": v}},
    "list": lambda v: [0.5, v],
    "tuple": lambda v: (v,),
    "named tuple": lambda v: Pair(2.0, v),
    "OrderedDict": lambda v: OrderedDict(a="word", b=v),
    "deep": lambda v: {"a": [{"b": (None, Pair(1, v))}]},
}


@pytest.mark.parametrize("held", CONTAINERS.values(), ids=CONTAINERS)
def test_a_container_changes_nothing(held: Any) -> None:
    gain = torch.tensor([1.0, 0.9, 1.1, 1.2])
    plain, given = {"gain": gain}, {"gain": held(gain)}
    guided = Denoiser(network, NOISE, guidance=ClassifierFree(2.0, {"gain": 0.0}))
    for denoiser in (Denoiser(network, NOISE), guided):
        expected = ttune.sample(denoiser, SCHEDULE, X_T, conditions=plain)
        assert torch.equal(ttune.sample(denoiser, SCHEDULE, X_T, conditions=given), expected)
        assert torch.equal(CompiledSampler(denoiser, SCHEDULE, compile=False)(X_T, conditions=given), expected)
    parts = of_rows(lambda v: taken(v, slice(1, 3)), held(gain), 4)
    assert type(parts) is type(held(gain))
    assert torch.equal(pytree.tree_leaves(parts)[-1], gain[1:3])


def test_nulls_within_a_condition() -> None:
    gain, other = torch.tensor([1.0, 0.9, 1.1, 1.2]), torch.tensor([2.0])
    seen: list[Any] = []

    def spy(x: Tensor, tau: Tensor, added: dict[str, Tensor]) -> Tensor:
        seen.append(added)
        return 0.1 * x

    for null in ({"w": 7.0}, {"w": torch.tensor(7.0)}):
        denoiser = Denoiser(spy, NOISE, guidance=ClassifierFree(2.0, {"added": null}))
        ttune.sample(denoiser, SCHEDULE, X_T, conditions={"added": {"w": gain, "o": other}})
        assert seen[-1]["w"].tolist() == [*gain.tolist(), 7, 7, 7, 7]
        assert seen[-1]["o"] is not None
        assert torch.equal(seen[-1]["o"], other)  # one row, which all samples share
    with pytest.raises(ValueError, match=r"null\['added.x'\] must be the null of a condition, of \['added.w'\]"):
        Denoiser(spy, NOISE, guidance=ClassifierFree(2.0, {"added": {"x": 0.0}}))(X_T, 3.0, added={"w": gain})
    with pytest.raises(ValueError, match=r"null\['added.w'\] must be a number, or broadcast .* \(4,\), got \(3,\)"):
        Denoiser(spy, NOISE, guidance=ClassifierFree(2.0, {"added": {"w": torch.zeros(3)}}))(X_T, 3.0, added={"w": gain})


@dataclass
class Unknown:
    table: Tensor


class More(dict):
    pass


@pytest.mark.parametrize(
    ("conditions", "error", "match"),
    [
        (
            {"table": torch.zeros(3, 2)},
            ValueError,
            r"conditions\['table'\] must have one row per sample, 4, .* got shape \(3, 2\)",
        ),
        ({"table": {"a": [0, np.zeros(3)]}}, ValueError, r"conditions\['table.a.1'\] .* shared=\('table.a.1',\)"),
        ({"table": More(a=torch.zeros(4))}, ValueError, r"conditions\['table'\] must be a tensor, or a container .* got More with tensors"),
        ({"table": [Unknown(torch.zeros(4))]}, ValueError, r"conditions\['table.0'\] must be a tensor, or a container .* got Unknown"),
        ([torch.zeros(4)], TypeError, "conditions must be a mapping of names to values, got list"),
        ({3: torch.zeros(4)}, TypeError, "conditions must be named by words, .* got the name 3"),
    ],
    ids=["rows", "array", "dict of a type", "dataclass", "list", "number"],
)
def test_refused_before_the_first_call(conditions: Any, error: type[Exception], match: str) -> None:
    def never(x: Tensor, tau: Tensor, **conditions: Any) -> Tensor:
        raise AssertionError("called")

    denoiser = Denoiser(never, NOISE)
    with pytest.raises(error, match=match):
        ttune.sample(denoiser, SCHEDULE, X_T, conditions=conditions)
    with pytest.raises(error, match=match):
        CompiledSampler(denoiser, SCHEDULE)(X_T, conditions=conditions)
    with pytest.raises(error, match=match.replace(", 4,", ", 16,")):
        ttune.tune(denoiser, SCHEDULE, x_T=torch.randn(16, 6), conditions=conditions, progress=False)
    with pytest.raises(error, match=match.replace(", 4,", ", 8,")):
        ttune.tune(
            denoiser, SCHEDULE, sample_shape=(6,), samples=8, validation_samples=8, conditions=lambda seeds: conditions, progress=False
        )


def test_what_is_shared_reaches_the_network_as_it_is() -> None:
    """A table with as many rows as there are samples, or halves of guidance, or samples in a part of a call."""
    shapes: set[tuple[int, ...]] = set()

    def spy(x: Tensor, tau: Tensor, gain: Tensor, table: Tensor) -> Tensor:
        if len(x) > 3:
            raise torch.OutOfMemoryError("no room")
        shapes.add(tuple(table.shape))
        assert len(gain) == len(x)
        return network(x, tau, gain, table)

    table, gain = torch.arange(16.0), torch.linspace(0.9, 1.1, 16)
    denoiser = Denoiser(spy, NOISE, guidance=ClassifierFree(2.0, {"gain": 0.0}), shared=("table",))
    x_T = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    with pytest.warns(RuntimeWarning, match="out of memory"):
        ttune.tune(
            denoiser, SCHEDULE, x_T=x_T, conditions={"gain": gain, "table": table}, batch_size=4, iterations=1, search_starts=False,
            progress=False, teacher=TEACHER,
        )  # fmt: skip
    assert shapes == {(16,)}
    assert Denoiser(network, NOISE, shared="table").shared == ("table",)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="shared must hold names of conditions"):
        Denoiser(network, NOISE, shared=(3,))  # pyright: ignore[reportArgumentType]


def test_one_row_for_all_samples() -> None:
    one = torch.tensor([0.9])
    for guidance in (None, ClassifierFree(2.0, {"gain": 0.0})):
        denoiser = Denoiser(network, NOISE, guidance=guidance)
        found = [ttune.sample(denoiser, SCHEDULE, X_T, conditions={"gain": v}) for v in (torch.full((4,), 0.9), one, one.expand(4))]
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("optimizer", ["differences", "broyden", "backpropagation"])
def test_tuning_with_a_condition_within_another(optimizer: str) -> None:
    """As with the same tensor by itself; the perturbed runs share calls, so that its rows are repeated."""

    def tuned(of: Any) -> Schedule:
        return ttune.tune(
            Denoiser(network, NOISE), SCHEDULE, sample_shape=(6,), samples=8, validation_samples=8, batch_size=8, iterations=2,
            optimizer=optimizer, search_starts=False, fallback=False, progress=False, teacher=TEACHER,
            conditions=lambda seeds: {"gain": of(1 + 0.01 * (seeds % 5).float())},
        ).schedule  # fmt: skip

    assert tuned(CONTAINERS["deep"]) == tuned(lambda v: v)


def test_a_teacher_remembers_whole_conditions() -> None:
    """A tensor of this size has a repr that shows its corners."""
    teacher, text = Teacher(SCHEDULE, remember=True), torch.zeros(4, 1200)
    other = text.clone()
    other[:, 500:700] = 1

    def means(x: Tensor, tau: Tensor, added: dict[str, Tensor]) -> Tensor:
        return 0.1 * x + added["text"].mean(1)[:, None]

    denoiser = Denoiser(means, NOISE)
    first = teacher.endpoint(denoiser, X_T, {"added": {"text": text}})
    second = teacher.endpoint(denoiser, X_T, {"added": {"text": other}})
    assert torch.equal(second, Teacher(SCHEDULE).endpoint(denoiser, X_T, {"added": {"text": other}}))
    assert not torch.equal(first, second)
    counted = denoiser.evaluations
    teacher.endpoint(denoiser, X_T.clone(), {"added": {"text": other.clone()}})
    assert denoiser.evaluations == counted


def test_a_digest_sees_numbers_types_and_structure() -> None:
    long = torch.zeros(5000)
    other = long.clone()
    other[2500] = 1
    values: list[Any] = [long, other, long.double(), long.view(2, -1), long.bfloat16(), [long], (long,), {"a": long}, {"b": long}]
    values += [
        {"a": {"a": long}},
        Pair(1, long),
        Pair(1.0, long),
        Unknown(long),
        Unknown(other),
        More(a=long),
        More(a=other),
        1,
        1.0,
        True,
        "1",
        None,
    ]
    values += [long.numpy(), other.numpy(), torch.tensor(0.0), torch.tensor(-0.0), torch.float32, [1, [2]], [[1], 2]]
    assert len({digest(value) for value in values}) == len(values)
    assert digest({"a": 1, "b": long}) == digest({"b": long.clone(), "a": 1})
    assert digest(long[::2]) == digest(long[::2].contiguous()) == digest(torch.zeros(1).expand(2500))


def test_a_layout_sees_all_but_the_numbers() -> None:
    a = {"x": [torch.zeros(2, 3), 0.5]}
    assert layout(a) == layout({"x": [torch.ones(2, 3), 0.5]})
    others = [{"x": (torch.zeros(2, 3), 0.5)}, {"x": [torch.zeros(2, 3), 0.6]}, {"x": [torch.zeros(1, 3).expand(2, 3), 0.5]}]
    assert len({layout(value) for value in (a, *others)}) == 4


def test_rows_of_arrays() -> None:
    array = np.arange(8.0).reshape(4, 2)
    assert taken(array, torch.tensor([3, 0])).tolist() == [[6, 7], [0, 1]]
    assert repeated(array, 2).shape == (8, 2)
