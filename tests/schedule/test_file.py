"""``ttune.json``: what is written can be read, bit for bit; what was damaged or edited is refused with a ValueError that says why."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.noise.test_schedules import any_noise
from ttune import SAMPLERS, NoiseSchedule, Schedule, load_schedules, save_schedules
from ttune.schedule import file
from ttune.schedule.collection import check_storable, encoded
from ttune.schedule.file import ScheduleFileV1, _digest
from ttune.storage import atomic_write

NOISE = NoiseSchedule.linear()


def example() -> Schedule:
    schedule = Schedule.build(NOISE, "ddim", 3, "quadratic", t_start=951.3)
    tuned = {"method": "endpoint", "seed": 3}
    return schedule.replace(network_times=[940.123456789, 1 / 3, 100.0], model={"name": "m", "clip_sample": 1.0}, tuned=tuned)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    example().save(tmp_path / "ttune.json")
    return tmp_path / "ttune.json"


def edit(path: Path, digest: bool = False, **changes: Any) -> Path:
    """Rewrite fields of the file; without its digest, unless ``digest`` says otherwise."""
    content = json.loads(path.read_text()) | changes
    if not digest:
        content["digest"] = ""
    path.write_text(json.dumps(content))
    return path


def test_round_trip(path: Path) -> None:
    loaded, original = Schedule.load(path), example()
    assert loaded == original
    np.testing.assert_array_equal(loaded.times, original.times)
    np.testing.assert_array_equal(loaded.network_times, original.network_times)
    assert (loaded.model, loaded.tuned) == (original.model, original.tuned)
    loaded.save(path.with_name("again.json"))
    assert path.with_name("again.json").read_bytes() == path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=any_noise, data=st.data())
def test_any_schedule_makes_the_round_trip_bit_for_bit(tmp_path: Path, noise: NoiseSchedule, data: st.DataObject) -> None:
    fractions = data.draw(st.lists(st.floats(0.001, 0.99), min_size=1, max_size=6, unique_by=lambda u: round(u, 3)))
    low, high = noise.t_min, noise.t_max
    times = [low + u * (high - low) for u in sorted(fractions, reverse=True)] + [noise.t_clean]
    if len(set(times)) < len(times):  # a range of a single step has no room
        return
    sampler = data.draw(st.sampled_from(sorted(SAMPLERS)))
    schedule = Schedule(noise, sampler, np.array(times), eta=data.draw(st.sampled_from([0, 0.3, 1])) if sampler == "ddim" else 0)
    schedule = schedule.replace(network_times=np.clip(schedule.network_times * 0.97, low, high), tuned={"x": data.draw(st.floats())})
    schedule.save(tmp_path / "s.json")
    loaded = Schedule.load(tmp_path / "s.json", noise=noise, sampler=sampler)
    assert loaded == schedule
    assert loaded.network_times.tobytes() == schedule.network_times.tobytes()


def test_the_file_is_readable_by_a_person(path: Path) -> None:
    content = json.loads(path.read_text())
    assert content["format"] == "ttune schedule"
    assert content["schema_version"] == 2
    assert content["noise"] == {"kind": "linear", "steps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
    assert content["sampler"] == "ddim"
    assert len(path.read_text().splitlines()) > 10


def test_a_truncated_file_is_refused_at_every_length(path: Path) -> None:
    whole = path.read_bytes().rstrip()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a readable schedule file"):
            Schedule.load(path)


@pytest.mark.parametrize("field", ["times", "network_times", "eta", "tuned", "model", "ttune_version", "noise"])
def test_an_edited_file_is_refused(path: Path, field: str) -> None:
    content = json.loads(path.read_text())
    value = content[field]
    changed = {
        "times": lambda: [900.0, *value[1:]],
        "network_times": lambda: [900.0, *value[1:]],
        "eta": lambda: 0.5,
        "tuned": lambda: value | {"seed": 4},
        "model": lambda: {},
        "ttune_version": lambda: "9.9",
        "noise": lambda: value | {"beta_end": 0.021},
    }[field]()
    edit(path, digest=True, **{field: changed})
    with pytest.raises(ValueError, match=r"ttune\.json: the content was changed after it was written .*digest"):
        Schedule.load(path)


def test_an_edited_file_without_digest_is_used(path: Path) -> None:
    edit(path, network_times=[900.0, 10.0, 5.0])
    assert Schedule.load(path).network_times.tolist() == [900, 10, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "format must be 'ttune schedule', got 'other'"),
        ({"schema_version": 3}, r"schema_version must be one of \[1, 2\] for this ttune, got 3"),
        ({"schema_version": 3, "of_version_3": 1}, r"schema_version must be one of \[1, 2\] for this ttune, got 3"),
        ({"surprise": 1}, "not a readable schedule file: .*unknown field .*surprise"),
        ({"times": "all"}, "not a readable schedule file: .*times"),
        ({"times": [1.0, None]}, "not a readable schedule file: .*times"),
        ({"times": [100.0, 200.0, 50.0, -1.0]}, "times must be strictly decreasing"),
        ({"times": [999.0, -1.0]}, "network_times must hold one time per network evaluation, 1 .*got 3"),
        ({"times": []}, "times must be at least two"),
        ({"times": [2000.0, 500.0, 100.0, -1.0]}, r"times must lie in \[-1, 999\]"),
        ({"network_times": [1e5, 10.0, 5.0]}, "network_times must lie in the trained range"),
        ({"network_times": []}, "network_times must hold one time per network evaluation"),
        ({"sampler": "magic"}, "sampler must be one of .*'magic'"),
        ({"sampler": ["ddim"]}, "not a readable schedule file: .*sampler"),
        ({"eta": 2.0}, "eta must lie in"),
        ({"eta": 1, "sampler": "euler"}, "eta is an option of the sampler 'ddim'"),
        ({"noise": {"kind": "mystery"}}, "noise.kind must be one of .*'mystery'"),
        ({"noise": {}}, "noise.kind must be one of"),
        ({"noise": {"kind": {}}}, "noise.kind must be one of"),
        ({"noise": {"kind": "linear", "steps": 10**15}}, "steps must be a whole number"),
        ({"noise": {"kind": "linear", "stops": 10}}, "do not describe a 'linear' schedule"),
        ({"noise": {"kind": "alphas_cumprod", "alphas_cumprod": [0.5, None]}}, r"alphas_cumprod\[1\] must be a number, got None"),
        ({"coefficients": [1]}, "not a readable schedule file: .*coefficients"),
    ],
)
def test_what_does_not_fit_is_named(path: Path, changes: dict[str, Any], message: str) -> None:
    edit(path, **changes)
    with pytest.raises(ValueError, match=rf"ttune\.json: .*{message}"):
        Schedule.load(path)


@pytest.mark.parametrize("field", ["format", "schema_version", "sampler", "times", "network_times", "noise", "ttune_version"])
def test_a_missing_field_is_named(path: Path, field: str) -> None:
    content = json.loads(path.read_text())
    del content[field]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"missing required field .*{field}"):
        Schedule.load(path)


numbers = st.one_of(st.floats(), st.floats(-2, 1001), st.integers(-(10**20), 10**20))
plain = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=5))
junk = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_load_as_valid_schedules_or_not_at_all(tmp_path: Path, data: st.DataObject) -> None:
    """One field replaced, and one number of a list, without a digest to give it away: ValueError, or a schedule that keeps every rule."""
    path = tmp_path / "m.json"
    if not (tmp_path / "base.json").exists():
        example().save(tmp_path / "base.json")
    content = json.loads((tmp_path / "base.json").read_text()) | {"digest": ""}
    field = data.draw(st.sampled_from(sorted(content)))
    if field in ("times", "network_times") and data.draw(st.booleans()):
        content[field][data.draw(st.integers(0, 2))] = data.draw(numbers)
    elif field == "noise" and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(["kind", "steps", "beta_start", "beta_end"]))
        content[field][key] = data.draw(st.one_of(junk, st.sampled_from(["cosine", "edm", "flow", 10, 1])))
    else:
        content[field] = data.draw(junk)
    text = json.dumps(content)  # Python writes NaN and Infinity, which JSON does not know
    path.write_text(text)
    try:
        loaded = Schedule.load(path)
    except ValueError as error:
        message = str(error)
    else:
        check(loaded)
        message = str(path)
    assert message.startswith(str(path))


def check(loaded: Schedule) -> None:
    noise = loaded.noise
    assert np.isfinite(loaded.times).all()
    assert (np.diff(loaded.times) < 0).all()
    assert noise.t_clean <= loaded.times[-1]
    assert loaded.times[0] <= noise.t_max
    assert ((loaded.network_times >= noise.t_min) & (loaded.network_times <= noise.t_max)).all()
    assert len(loaded.network_times) == loaded.steps == 3
    assert 0 <= loaded.eta <= 1
    assert isinstance(loaded.lower_order_final, bool)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 700), value=st.integers(0, 255))
def test_a_changed_byte_is_noticed(tmp_path: Path, at: int, value: int) -> None:
    path = tmp_path / "b.json"
    example().save(path)
    content = bytearray(path.read_bytes())
    at %= len(content)
    content[at] = value
    path.write_bytes(content)
    try:
        loaded = Schedule.load(path)
    except ValueError:
        return
    assert loaded == example()  # white space, or the digest of nothing
    assert loaded.tuned == example().tuned


@pytest.mark.parametrize("depth", [3, 30, 40, 900, 1100, 100_000])
@pytest.mark.parametrize("digest", ["", "0" * 64], ids=["without digest", "with digest"])
def test_deep_nesting_is_refused_or_read(path: Path, depth: int, digest: str) -> None:
    content = json.loads(path.read_text()) | {"digest": digest, "tuned": "HERE"}
    path.write_text(json.dumps(content).replace('"HERE"', '{"a":' * depth + "1" + "}" * depth))
    if depth > 32 or digest:
        with pytest.raises(ValueError, match=r"nested too deeply|content was changed"):
            Schedule.load(path)
    else:
        assert Schedule.load(path).steps == 3


def test_what_could_not_be_read_again_is_not_written(path: Path) -> None:
    before = path.read_bytes()
    large = Schedule.build(NoiseSchedule.from_alphas_cumprod(np.linspace(0.9999, 1e-4, 200_000)), "ddim", 2)
    with pytest.raises(ValueError, match=r"ttune\.json: a schedule file has at most 4000000 bytes, this one would have \d{7}; a noise"):
        large.save(path)
    deep: Any = 1
    for _ in range(40):
        deep = (deep,)
    with pytest.raises(ValueError, match="nested too deeply, beyond 32 levels"):
        save_schedules([example(), Schedule.build(NOISE, "ddim", 2).replace(tuned={"deep": deep})], path)
    assert path.read_bytes() == before


def test_room_for_the_record_of_a_tuning_is_asked_for_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_storable([example()], tmp_path / "x.json")
    noise = NoiseSchedule.linear()
    check_storable([Schedule.build(noise, "ddim", k) for k in range(1, 65)], tmp_path / "x.json")
    monkeypatch.setattr(file, "MAX_BYTES", file.RECORD + 500)
    example().save(tmp_path / "x.json")  # which takes more than the 500 bytes
    with pytest.raises(ValueError, match=r"x\.json: .*with 20000 for the record of the tuning"):
        check_storable([example()], tmp_path / "x.json")


def test_a_huge_file_is_refused_unread(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(10**10)  # sparse: nothing is stored, and reading it would take the memory
    with pytest.raises(ValueError, match="at most 4000000 bytes, this one has 10000000000"):
        Schedule.load(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff\xfe\x00", b'{"format": "\xff"}', b"PK\x03\x04", b"1e999", b"{" * 9])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.json: not a "):
        Schedule.load(tmp_path / "x.json")


def test_no_file() -> None:
    with pytest.raises(FileNotFoundError):
        Schedule.load("/nowhere/ttune.json")


def test_another_noise_schedule_or_sampler_is_refused(path: Path) -> None:
    Schedule.load(path, noise=NoiseSchedule.linear(), sampler="ddim")
    with pytest.raises(ValueError, match=r"made for the noise schedule linear\(steps=1000, .*got cosine\(steps=1000"):
        Schedule.load(path, noise=NoiseSchedule.cosine())
    with pytest.raises(ValueError, match="made for the sampler 'ddim', got 'euler'"):
        Schedule.load(path, sampler="euler")


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:

            def fail(*args: object) -> None:
                raise OSError("disk full")

            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="disk full"):
                Schedule.build(NOISE, "ddim", 9).save(path)
        assert path.read_bytes() == before
        assert [p.name for p in path.parent.iterdir()] == ["ttune.json"]  # no temporary file is left behind


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    atomic_write.write_atomically(tmp_path / "new folder" / "f", b"x")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "new folder" / "f").stat().st_mode & 0o777 == 0o666 & ~mask


WRITER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("atomic", sys.argv[2])  # without torch: this starts in milliseconds
atomic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(atomic)
i = 0
while True:
    i += 1
    atomic.write_atomically(sys.argv[1], (str(i % 10) * 300_000).encode())
    if i == 1:
        print("writing", flush=True)
"""


def test_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for delay in (0.0, 0.003, 0.011, 0.027, 0.05):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), atomic_write.__file__], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        content = path.read_bytes()
        assert len(content) == 300_000
        assert len(set(content)) == 1


def test_infinite_numbers_in_the_record_do_not_spoil_the_file(tmp_path: Path) -> None:
    example().replace(tuned={"ratio": math.nan, "high": math.inf}).save(tmp_path / "n.json")
    assert Schedule.load(tmp_path / "n.json").tuned == {"ratio": None, "high": None}


def several(tmp_path: Path) -> tuple[Path, dict[int, Schedule]]:
    noise = NoiseSchedule.linear()
    schedules = {k: Schedule.build(noise, "ddim", k).replace(network_times=np.linspace(900, 3, k)) for k in (6, 3, 4)}
    save_schedules(schedules, tmp_path / "several.json")
    return tmp_path / "several.json", schedules


def test_several_schedules_in_one_file(tmp_path: Path) -> None:
    path, schedules = several(tmp_path)
    assert load_schedules(path) == schedules
    assert list(load_schedules(path)) == [3, 4, 6]
    assert Schedule.load(path, steps=4) == schedules[4]
    with pytest.raises(ValueError, match="schedules of 3 or 4 or 6 steps in this file; name one with steps"):
        Schedule.load(path)
    with pytest.raises(ValueError, match=r"steps must be 3 or 4 or 6, .* got 5"):
        Schedule.load(path, steps=5)
    with pytest.raises(ValueError, match="made for the sampler 'ddim', got 'euler'"):
        load_schedules(path, sampler="euler")
    schedules[3].save(path)
    assert load_schedules(path) == {3: schedules[3]}
    assert Schedule.load(path, steps=3) == schedules[3]
    with pytest.raises(ValueError, match=r"steps must be 3, .* got 4"):
        Schedule.load(path, steps=4)


def test_two_schedules_of_the_same_steps_have_no_file(tmp_path: Path) -> None:
    path, schedules = several(tmp_path)
    with pytest.raises(ValueError, match="different numbers of steps, got \\[3, 3\\]"):
        save_schedules([schedules[3], schedules[3]], path)
    content = json.loads(path.read_bytes())
    content["schedules"].append(content["schedules"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="got two of 3"):
        load_schedules(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["schedules"][1].update(times=[999.0, 500.0, 100.0, -2.0]), "was changed after it was written"),
        (lambda content: content["schedules"][1].pop("noise"), "missing required field `noise`"),
        (lambda content: content.update(schedules=[]), "at least one, got none"),
        (lambda content: content.update(schema_version=3), r"schema_version must be one of \[1, 2\]"),
        (lambda content: content.update(colour="red"), "unknown field `colour`"),
        (lambda content: content["schedules"][2].update(format="ttune schedules"), "format must be 'ttune schedule'"),
    ],
)
def test_a_damaged_file_of_several_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    path, _ = several(tmp_path)
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_schedules(path)


def as_version_1(schedule: Schedule) -> dict[str, Any]:
    """What ttune 0.1 wrote of ``schedule``."""
    content = json.loads(encoded([schedule]))
    names = {"times": "positions", "network_times": "conditioning"}
    old = {names.get(name, name): value for name, value in content.items()} | {"schema_version": 1, "digest": ""}
    struct = msgspec.convert(old, ScheduleFileV1)
    return old | {"digest": _digest(struct)}


def test_version_1_is_read(tmp_path: Path) -> None:
    schedule = example().replace(tuned={"tune": ["conditioning", "positions"], "grid": {"positions": [1.0]}, "name": "positions of it"})
    old, path = as_version_1(schedule), tmp_path / "old.json"
    path.write_text(json.dumps(old))
    read = Schedule.load(path)
    assert read == schedule
    assert read.tuned == {"tune": ["network_times", "times"], "grid": {"times": [1.0]}, "name": "positions of it"}
    other = as_version_1(Schedule.build(NOISE, "ddim", schedule.steps + 1))
    path.write_text(json.dumps({"format": "ttune schedules", "schema_version": 1, "ttune_version": "0.1.0", "schedules": [other, old]}))
    assert list(load_schedules(path)) == [schedule.steps, schedule.steps + 1]
    for changed, message in (
        ({"positions": [900.0, *old["positions"][1:]]}, "the content was changed after it was written"),
        ({"times": old["positions"]}, "unknown field `times`"),
        ({"schema_version": 2}, "unknown field `positions`|required field `times`"),
    ):
        path.write_text(json.dumps(old | changed))
        with pytest.raises(ValueError, match=message):
            Schedule.load(path)
