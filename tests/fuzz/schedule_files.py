"""``ttune.json``: what is taken is a valid schedule and is written again as it was read; all else is a ValueError that names the file."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.fuzz.corpus import cases, small
from tests.fuzz.mutation import as_json, damaged, edited
from tests.fuzz.target import Target, folder
from ttune import SAMPLERS, NoiseSchedule, Schedule, load_schedules, save_schedules
from ttune.samplers import sampler_options
from ttune.schedule.time_shift import Shift

OTHERS_WORDS = ("could not convert", "ufunc", "Python int too large", "unsupported operand", "math domain")  # what Python and NumPy say
SHORT = NoiseSchedule.linear(steps=20)  # a table of 1,000 alphas costs more than all else


@cache
def bases() -> list[dict[str, Any]]:
    """Files of every kind of noise schedule, with every optional field; without a digest, which would refuse every change."""
    explicit = NoiseSchedule.from_alphas_cumprod([0.9, 0.7, 0.4, 0.1])
    passed = Schedule.build(SHORT, "ddim", 3, "quadratic", t_start=17.3)
    schedules = [
        passed.replace(network_times=[16.1, 1 / 3, 2.0], model={"name": "m", "clip_sample": 1.0}, tuned={"method": "endpoint", "seed": 3}),
        Schedule.build(NoiseSchedule.cosine(steps=12), "unipc", 4, options={"order": 3, "variant": "bh1", "corrector": False}),
        Schedule.build(NoiseSchedule.continuous_vp(), "dpmpp_2m", 3, "log_snr", lower_order_final=True),
        Schedule.build(NoiseSchedule.edm(), "heun", 2, "karras"),
        Schedule.build(NoiseSchedule.ve(), "euler", 2, "linspace"),
        Schedule.build(NoiseSchedule.flow(3.0), "euler", 3, "linspace"),
        Schedule.build(explicit, "ddim", 2, "trailing", eta=0.5),
        Schedule.build(SHORT.zero_terminal_snr(), "ddim", 2, "trailing"),
        Schedule.build(NoiseSchedule.scaled_linear(steps=9), "ddpm", 3).part(1),
        passed.replace(
            coefficients=[[0.01, -0.02, 0], [0, 0.01, 0.02], [0.01, 0, 0]], variants=(1, 0, 0), shift=Shift(window=2.0, cutoff=5.0)
        ),
    ]
    schedules += [Schedule.build(SHORT, name, 4, options=options) for name in SAMPLERS if (options := sampler_options(name))]
    contents = []
    for schedule in schedules:
        schedule.save(folder() / "base.json")
        contents.append(json.loads((folder() / "base.json").read_text()))
    save_schedules(schedules[1:3], folder() / "base.json")
    contents.append(json.loads((folder() / "base.json").read_text()))
    for content in [*contents, *contents[-1]["schedules"]]:
        content.pop("digest", None)
    return contents


def read(data: bytes) -> bool:
    path = folder() / "fuzzed.json"
    path.write_bytes(data)
    try:
        found = load_schedules(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: "), error
        assert not any(words in str(error) for words in OTHERS_WORDS), error
        return False
    content = json.loads(data)
    for one in content.get("schedules", [content]):
        check_noise(one["noise"])
        check_options(sampler_options(one["sampler"]), one.get("options", {}))
    for steps, schedule in found.items():
        assert schedule.steps == steps
        check(schedule)
        same_when_written_again(schedule)
    return True


def check_noise(values: dict[str, Any]) -> None:
    """No word, list or truth value is taken for a number."""
    for name, value in values.items():
        if name == "base":
            check_noise(value)
        elif name != "kind":
            assert name != "alphas_cumprod" or isinstance(value, list), value
            assert all(type(number) in (int, float) for number in (value if name == "alphas_cumprod" else [value])), values


def check_options(defaults: dict[str, Any], options: dict[str, Any]) -> None:
    """Every option is of its default's kind."""
    kinds: dict[type, tuple[type, ...]] = {float: (float, int), tuple: (list,)}
    for name, value in options.items():
        kind = type(defaults[name])
        assert type(value) in kinds.get(kind, (kind,)), (name, value)


def check(schedule: Schedule) -> None:
    """The rules of a schedule, written anew."""
    noise = schedule.noise
    times, passed = schedule.times, schedule.network_times
    assert np.isfinite(times).all()
    assert (np.diff(times) < 0).all()
    assert noise.t_clean <= times[-1] < times[0] <= noise.t_max
    assert ((passed >= noise.t_min) & (passed <= noise.t_max)).all()
    assert 0 <= schedule.eta <= 1
    assert 0 <= schedule.first < 2**63 - schedule.steps  # the number of a draw of noise, int64
    tableau = schedule.tableau()
    assert len(passed) == len(tableau.stages)
    for stage in tableau.stages:
        for row in (stage.update, *stage.retain.values()):
            assert all(np.isfinite(value) for value in row.values()), (stage, row)
    assert np.isfinite(schedule.alphas).all()
    assert np.isfinite(schedule.sigmas).all()
    assert str(schedule)
    assert isinstance(schedule.settings(), dict)
    schedule.drifted()


def same_when_written_again(schedule: Schedule) -> None:
    first, second = folder() / "first.json", folder() / "second.json"
    schedule.save(first)
    again = Schedule.load(first)
    assert again == schedule
    again.save(second)
    assert first.read_bytes() == second.read_bytes()


@st.composite
def _texts(draw: st.DrawFn) -> bytes:
    data = as_json(draw(edited(bases())))
    if not draw(st.integers(0, 15)):  # the same key twice
        key = draw(st.sampled_from((b'"times"', b'"noise"', b'"sampler"', b'"kind"', b'"format"')))
        data = data.replace(key, key + b": 1, " + key, 1)
    return data


VALUES = Target("ttune.json, values", st.deferred(_texts), read, 34)
BYTES = Target(
    "ttune.json, bytes",
    st.deferred(lambda: damaged([as_json(content) for content in bases()], small("schedules"))),
    read,
    30,
    lambda: cases("schedules"),
)
