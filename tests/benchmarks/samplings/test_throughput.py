"""The throughput benchmark works: gates, counts, files, comparison. That it is fast enough is not a test's business."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import timing
from benchmarks.correctness_gate import RedGate
from benchmarks.counts import Counts, count_on_cpu
from benchmarks.machine import UNKNOWN, commit_of
from benchmarks.result_paths import ROOT
from benchmarks.samplings import by_hand, changes, throughput, workloads
from benchmarks.samplings.contestants import contestants
from benchmarks.samplings.gates import check
from benchmarks.samplings.setting import SAMPLERS, Setting
from benchmarks.samplings.throughput_picture import draw
from benchmarks.samplings.throughput_report import ThroughputCell, ThroughputReport
from benchmarks.timing import Spread
from ttune import ops

CPU = torch.device("cpu")


def measured(tmp_path: Path, *options: str) -> dict[str, Any]:
    output = tmp_path / "throughput.json"
    throughput.main(["--quick", "--quiet", "--output", str(output), *options])
    return json.loads(output.read_text())


def test_a_run_measures_every_cell_and_what_budgets_gain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = measured(tmp_path, "--steps", "1", "3", "--no-compile", "--sampler", "ddim", "--quality-samples", "8")
    assert report["red"] == []
    cells = {(c["network"], c["guided"], c["steps"]) for c in report["cells"]}
    assert cells == {(network, guided, steps) for network in ("none", "bundled") for guided in (False, True) for steps in (1, 3)}
    for cell in report["cells"]:
        assert {"ttune, cpu", "ttune, reference", "eager"} <= set(cell["milliseconds"]) or not ops.backends()["cpu"]["available"]
        assert set(cell["of_eager"]) == set(cell["milliseconds"]) - {"eager"}
        assert all(0 < s["low"] <= s["median"] <= s["high"] for s in [*cell["milliseconds"].values(), *cell["of_eager"].values()])
        assert all(value > 0 for value in cell["peak_bytes"].values())
        assert all(value["launches"] > 0 for value in cell["counts"].values())
        assert set(cell["of_folded"]) == set(cell["milliseconds"]) - {"eager, folded"}
        assert set(cell["first_seconds"]) == set(cell["milliseconds"])  # none of them compiles
        assert cell["rounds"] == report["effort"]["rounds"]
    assert {q["steps"] for q in report["quality"] if q["label"] in ("untuned, leading", "untuned, linspace")} == {1, 3}
    for kind in ("tuned", "tuned, coefficients too", "untuned, best grid"):
        assert {"ddim", "dpmpp_2m"} == {q["sampler"] for q in report["quality"] if q["label"] == kind}
    assert all(q[f"{what}_error"] > 0 for q in report["quality"] for what in ("rmse", "frechet_to_teacher", "frechet_to_real"))
    page = (tmp_path / "throughput.md").read_text()
    assert page.count("| eager |") == len(report["cells"])
    assert "not FID" in page
    assert "eager" in capsys.readouterr().out


def test_compiled_contestants_take_part_without_a_network(tmp_path: Path) -> None:
    report = measured(tmp_path, "--steps", "2", "3", "--network", "none", "--sampler", "dpmpp_2m", "--dtype", "float32")
    compiled = {"torch.compile", "torch.compile, whole loop", "ttune, compiled", "ttune, compiled, unrolled"}
    assert all(compiled <= set(c["milliseconds"]) for c in report["cells"])
    # What one budget left in a compiler's caches makes the next one's first call no first call.
    for c in report["cells"]:
        assert compiled & set(c["first_seconds"]) == (compiled if c["steps"] == 2 else set())
    assert [c["steps"] for c in report["cells"]] == [2, 3, 2, 3]


def test_a_red_gate_gives_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = by_hand.ddim_step
    monkeypatch.setattr(by_hand, "ddim_step", lambda x, outputs, c: right(x, outputs, c) * 1.01)
    with pytest.raises(SystemExit) as exit_status:
        measured(tmp_path, "--steps", "2", "--network", "none", "--sampler", "ddim", "--no-compile")
    assert exit_status.value.code == 1
    report = json.loads((tmp_path / "throughput.json").read_text())
    assert report["cells"] == []
    assert "eager: output 0 must be within" in report["red"][0][1]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guided", [False, True])
def test_all_contestants_arrive_at_the_same_image_in_float64(sampler: str, guided: bool) -> None:
    shape = (2, 1, 4, 4)
    workload = workloads.nothing(shape, torch.float64, CPU)
    setting = Setting(workload, sampler, 5, shape, torch.float64, guided, CPU)
    found, _ = contestants(setting, compile=False, peer=None)
    x_T = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = found["ttune, reference"].call(x_T)
    assert expected.abs().max() > 1
    for name, sampling in found.items():
        # diffusers and k-diffusion keep their tables in float32
        tolerance = 1e-4 if name in ("diffusers", "k-diffusion") else 1e-12
        torch.testing.assert_close(sampling.call(x_T), expected, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


TIME_TUNER = '''
import torch
class NoiseScheduleVP:
    """The interface of the clone, not its code."""
    def __init__(self, schedule, betas):
        self.log_alphas = torch.cat([torch.zeros(1), (1 - betas.double()).log().cumsum(0) / 2])
    def marginal_alpha(self, t):
        return self.log_alphas[(t * 1000).round().long()].exp().float()
class TimeTuner:
    def __init__(self, model_fn, noise_schedule, device="cuda"):
        self.model, self.noise = model_fn, noise_schedule
    def ddim_step_fn(self, x, t, s):
        a, b = self.noise.marginal_alpha(t), self.noise.marginal_alpha(s)
        e = self.model(x, t.expand(len(x)), None, None)
        x_0 = (x - (1 - a * a).sqrt() * e) / a
        return b * x_0 + (1 - b * b).sqrt() * e, x_0
'''


def test_a_clone_takes_part(tmp_path: Path) -> None:
    (tmp_path / "time_tuner.py").write_text(TIME_TUNER)
    shape = (2, 1, 4, 4)
    setting = Setting(workloads.nothing(shape, torch.float32, CPU), "ddim", 3, shape, torch.float32, True, CPU)
    found, _ = contestants(setting, compile=False, peer=tmp_path)
    x_T = torch.randn(shape)
    check("time_tuner", found["time_tuner"], setting, x_T, found["eager"].call(x_T))
    with pytest.raises(ValueError, match="peer must be a folder with one of"):
        contestants(setting, compile=False, peer=tmp_path / "nowhere")
    with pytest.raises(SystemExit, match=r"^--peer must be a folder with one of \['dpm_solver_pytorch.py', .* got '.*nowhere'$"):
        throughput.main(["--quick", "--peer", str(tmp_path / "nowhere")])


def test_a_peer_is_named_by_its_commit(tmp_path: Path) -> None:
    file = tmp_path / "time_tuner.py"
    file.write_text(TIME_TUNER)
    assert commit_of(tmp_path, [file.name]) == UNKNOWN  # a copy without its history

    def git(*arguments: str) -> str:
        call = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "other").write_text("")
    git("add", "other")
    git("commit", "-qm", "another's")
    assert commit_of(tmp_path, [file.name]) == UNKNOWN  # a package within a repository of something else
    git("add", file.name)
    git("commit", "-qm", "its own")
    assert commit_of(tmp_path, [file.name]) == git("rev-parse", "--short", "HEAD")
    (tmp_path / "other").write_text("not its code")
    assert commit_of(tmp_path, [file.name]) == git("rev-parse", "--short", "HEAD")
    file.write_text("")
    assert commit_of(tmp_path, [file.name]) == git("rev-parse", "--short", "HEAD") + "+changes"


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 3), ("dpmpp_2m", 1), ("dpmpp_2m", 4)])
def test_dpm_solvers_own_code_takes_part(sampler: Any, steps: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The copy in the package stable-diffusion-sdkit, as ``--peer`` of its folder."""
    package = find_spec("ldm")
    if package is None or not package.submodule_search_locations:
        pytest.skip("stable-diffusion-sdkit is not installed (--no-deps)")
    folder = Path(package.submodule_search_locations[0]) / "models" / "diffusion" / "dpm_solver"
    shape = (2, 1, 4, 4)
    setting = Setting(workloads.nothing(shape, torch.float32, CPU), sampler, steps, shape, torch.float32, True, CPU)
    found, _ = contestants(setting.probe(), compile=False, peer=folder)
    x_T = torch.randn(setting.probe().shape, generator=torch.Generator().manual_seed(0))
    check("dpm_solver", found["dpm_solver"], setting.probe(), x_T, found["eager"].call(x_T))
    assert not capsys.readouterr().err  # no bars


def test_gates_are_red_for_what_a_timed_network_would_not_show() -> None:
    """A state, a time or a condition that is not passed on, and an image that is off by a twentieth."""
    shape = (1, 3, 32, 32)
    for dtype in (torch.float32, torch.bfloat16):
        setting = Setting(workloads.nothing(shape, dtype, CPU), "dpmpp_2m", 8, shape, dtype, True, CPU)
        probe = setting.probe()
        x_T = torch.randn(probe.shape).to(dtype)
        found = contestants(probe, compile=False, peer=None)[0]
        good, eager = found["ttune, reference"], found["eager"].call(x_T)
        check("good", good, probe, x_T, eager)
        for name in ("state", "time", "condition"):

            def other(x: Any, tau: Any, class_label: Any, name: str = name, network: Any = probe.workload.network) -> Any:
                zeroed = lambda what, value: torch.zeros_like(value) if what == name else value  # noqa: E731
                return network(zeroed("state", x), tau - 60 * (name == "time"), zeroed("condition", class_label))

            off = dataclasses.replace(probe, workload=dataclasses.replace(probe.workload, network=other))
            with pytest.raises(RedGate, match=name):
                check(name, contestants(off, compile=False, peer=None)[0]["ttune, reference"], probe, x_T, eager)
        scaled = dataclasses.replace(good, call=lambda x, good=good: good.call(x) * 1.05)
        with pytest.raises(RedGate, match="scaled"):
            check("scaled", scaled, probe, x_T, eager)


def test_a_rival_that_is_wrong_gets_no_number_and_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = throughput.contestants

    def with_two_more(*args: Any, **options: Any) -> Any:
        found, missing = right(*args, **options)
        found["deaf"] = dataclasses.replace(found["eager"], call=torch.zeros_like)
        found["broken"] = dataclasses.replace(found["eager"], call=lambda x: x.no_such_method())
        return found, missing

    monkeypatch.setattr(throughput, "contestants", with_two_more)
    report = measured(tmp_path, "--steps", "2", "--network", "none", "--sampler", "ddim", "--no-compile")
    for cell in report["cells"]:
        assert not {"deaf", "broken"} & set(cell["milliseconds"])
        assert "deaf: output 0 must be within" in cell["missing"]["deaf"]
        assert "AttributeError" in cell["missing"]["broken"]
    assert report["red"] == []


def test_an_interrupted_run_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--steps", "2", "--network", "none", "--sampler", "ddim", "--no-compile")
    first = measured(tmp_path, *options)
    measure, seen = throughput._measure, []
    monkeypatch.setattr(
        throughput, "_measure", lambda report, group, *a, **k: (seen.extend(s.steps for s in group), measure(report, group, *a, **k))
    )
    both = (*options[:5], "dpmpp_2m", *options[5:], "--resume")
    ended = measured(tmp_path, *both, "--minutes", "0")
    assert (ended["cells"], seen) == (first["cells"], [])
    assert ended["unmeasured"] == [f"none, dpmpp_2m, 1x3x32x32 float32{guided}, 2 steps" for guided in ("", ", guided")]
    again = measured(tmp_path, *both)
    assert again["unmeasured"] == []
    assert seen == [2, 2]  # with and without guidance
    assert [c for c in again["cells"] if c["sampler"] == "ddim"] == first["cells"]
    measured(tmp_path, *options[:1], "2", "3", *options[2:], "--resume")
    assert seen[2:] == [2, 3, 2, 3]  # of a group all budgets: they take turns
    with pytest.raises(ValueError, match=r"resume: .* must be of the same code, machine and effort"):
        throughput.main(["--quiet", "--output", str(tmp_path / "throughput.json"), *options, "--resume"])


def test_a_red_cell_is_not_tried_until_it_is_green(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--steps", "2", "--network", "none", "--sampler", "ddim", "--no-compile")
    with monkeypatch.context() as wrong:
        right = by_hand.ddim_step
        wrong.setattr(by_hand, "ddim_step", lambda x, outputs, c: right(x, outputs, c) * 1.01)
        with pytest.raises(SystemExit):
            measured(tmp_path, *options)
    red = json.loads((tmp_path / "throughput.json").read_text())["red"]
    with pytest.raises(SystemExit) as exit_status:
        measured(tmp_path, *options, "--resume")
    assert exit_status.value.code == 1
    again = json.loads((tmp_path / "throughput.json").read_text())
    assert (again["cells"], again["red"][: len(red)]) == ([], red)


def test_a_part_does_not_replace_a_whole_result() -> None:
    part = lambda *options: throughput._is_part(throughput._parser().parse_args(options))  # noqa: E731
    assert not part()
    assert not part("--quiet", "--resume", "--peer", "x", "--device", "cuda")
    for options in (
        ("--quick",),
        ("--sampler", "ddim"),
        ("--rounds", "2"),
        ("--threads", "2"),
        ("--quality-samples", "8"),
        ("--no-compile",),
    ):
        assert part(*options), options


def test_the_benchmarks_without_a_name_are_the_throughput() -> None:
    command = [sys.executable, "-m", "benchmarks", "--compare", "no-such-commit", "no-such-commit"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert "no commit that has benchmarks/results/throughput-cpu.json" in ran.stderr


def test_calls_allocations_and_bytes_are_counted() -> None:
    x = torch.ones(1000)

    def call() -> None:
        y = x + x  # 4,000 bytes
        del y
        torch.cat([x, x]).neg_()  # 8,000 bytes

    counts, peak = count_on_cpu(call)
    assert (counts.launches, counts.allocations, peak) == (3, 2, 8000)
    kept: list[torch.Tensor] = [x]

    def keeps() -> None:
        kept[0] = x + x

    assert count_on_cpu(keeps)[1] == 8000  # what the last call kept is there while the next one works


def result(median: float) -> dict[str, Any]:
    spread = {"median": median, "low": median - 0.05, "high": median + 0.05}
    cell = {"network": "none", "sampler": "ddim", "shape": [1, 3], "dtype": "float32", "guided": False, "steps": 4}
    return {"machine": {"cpu": "x"}, "cells": [cell | {"of_eager": {"ttune, cpu": spread, "diffusers": copy.copy(spread)}}]}


@pytest.mark.parametrize(
    ("after", "said", "status"),
    [(0.5, "0 regressed, 0 improved", 0), (0.65, "REGRESSED", 1), (0.3, "improved ", 0), (None, "GONE", 1)],
)
def test_a_regression_beyond_its_spread_is_named(
    tmp_path: Path, after: float | None, said: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, median in zip(paths, (0.52, after), strict=True):
        content = result(0.52 if median is None else median)
        if median is None:
            content["cells"] = []
        path.write_text(json.dumps(content))
    with pytest.raises(SystemExit) as exit_status:
        throughput.main(["--compare", *map(str, paths)])
    assert exit_status.value.code == status
    out = capsys.readouterr().out
    assert said in out
    assert "diffusers" not in out


def test_calls_are_compared_and_few_rounds_decide_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, median, calls in zip(paths, (0.3, 0.6), (4, 5), strict=True):
        content = result(median)
        content["cells"][0] |= {"counts": {"ttune, cpu": {"launches": calls, "allocations": 2}}, "peak_bytes": {"ttune, cpu": 100}}
        path.write_text(json.dumps(content))
    assert changes.compare_results(*map(str, paths), name="throughput-cpu.json") == 1
    out = capsys.readouterr().out
    assert "calls per step of ttune, cpu: 4.000" in out
    assert "4 ratios in both: 2 regressed" in out
    for path in paths:
        content = json.loads(path.read_text())
        content["cells"][0]["rounds"] = 4
        path.write_text(json.dumps(content))
    assert changes.compare_results(*map(str, paths), name="throughput-cpu.json") == 1
    assert "ttune, cpu / eager" not in capsys.readouterr().out


def test_what_was_left_out_is_no_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Left out as too slow, or as the time was over; gone without a word it is one."""
    cell = "none, ddim, 1x3 float32, 4 steps"
    before, after = result(0.5), result(0.5)
    after["cells"] = [after["cells"][0] | {"steps": 8}]
    before["cells"] += copy.deepcopy(after["cells"])
    for left_out, status in ({"skipped": [[cell, "slow"]]}, 0), ({"unmeasured": [cell]}, 0), ({}, 1):
        paths = [tmp_path / "a.json", tmp_path / "b.json"]
        for path, content in zip(paths, (before, after | left_out), strict=True):
            path.write_text(json.dumps(content))
        assert changes.compare_results(*map(str, paths), name="throughput-cpu.json") == status
        assert (f"left out  {cell}" if left_out else f"GONE      {cell}: ttune, cpu / eager") in capsys.readouterr().out


def test_kernels_are_compared_by_their_rounds_and_folded_code_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for rounds, regressed in (3, 0), (9, 1):
        for path, median in zip(paths, (0.5, 0.8), strict=True):
            ratio = {"subject": "ttune", "rival": "copy", "value": {"median": median, "low": median, "high": median}}
            kernel = {"case": "clip", "shape": [2], "dtype": "float32", "backend": "cpu", "ratios": [ratio]}
            path.write_text(json.dumps({"effort": {"rounds": rounds}, "results": [kernel]}))
        assert changes.compare_results(*map(str, paths), name="kernels-cpu.json") == regressed
    for path, median in zip(paths, (0.5, 0.8), strict=True):
        content = result(0.5)
        content["cells"][0]["of_folded"] = {"ttune, cpu": {"median": median, "low": median, "high": median}}
        path.write_text(json.dumps(content))
    assert changes.compare_results(*map(str, paths), name="throughput-cpu.json") == 1
    assert "REGRESSED none, ddim, 1x3 float32, 4 steps: ttune, cpu / folded: 0.500" in capsys.readouterr().out


def test_one_result_is_not_compared_with_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(result(0.5)))
    (tmp_path / "b.json").write_text(json.dumps(result(0.5)))
    assert changes.compare_results(str(tmp_path / "a.json"), str(tmp_path / "b.json"), name="throughput-cpu.json") == 2
    assert "one and the same result" in capsys.readouterr().out


def test_what_was_measured_in_unlike_ways_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, threads in zip(paths, (1, 2), strict=True):
        content = result(0.5)
        content["machine"]["threads"] = threads
        path.write_text(json.dumps(content))
    assert changes.compare_results(*map(str, paths), name="throughput-cpu.json") == 2
    assert "threads is 1 and 2" in capsys.readouterr().out


def test_commits_are_compared_by_the_results_that_they_have(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="'no-such-commit' is no file, and no commit that has"):
        changes.compare_results("no-such-commit", "no-such-commit", "kernels-cpu.json")


def test_under_pytest_benchmark(benchmark: Any) -> None:
    """``pytest tests/benchmarks --benchmark-enable -k pytest_benchmark``: absolute times, for whoever tracks those."""
    shape = (1, 3, 32, 32)
    setting = Setting(workloads.nothing(shape, torch.float32, CPU), "dpmpp_2m", 8, shape, torch.float32, False, CPU)
    found, _ = contestants(setting, compile=False, peer=None)
    x_T = torch.randn(shape)
    fastest = next(name for name in found if name.startswith("ttune"))
    check(fastest, found[fastest], setting, x_T, found["eager"].call(x_T))
    benchmark(lambda: found[fastest].call(x_T))


def test_every_kind_of_schedule_is_drawn(tmp_path: Path) -> None:
    """Two samplers, and as many kinds of schedules as there are."""
    pytest.importorskip("matplotlib")
    cells = []
    for sampler in SAMPLERS:
        for steps in (1, 8):
            cell = ThroughputCell("bundled", 1, sampler, steps, (16, 1, 28, 28), "float32", False, "cpu")
            cell.milliseconds = {"ttune, cpu": Spread(steps, steps, steps), "eager": Spread(steps, steps, steps)}
            cells.append(cell)
    kinds = ("untuned, leading", "untuned, best grid", "tuned", "tuned, coefficients too")
    quality = [
        {"sampler": sampler, "steps": steps, "label": kind, "rmse": 1 / steps, "frechet_to_teacher": 2 / steps}
        for sampler in SAMPLERS
        for kind in kinds
        for steps in (3, 4, 5)
    ]
    report = ThroughputReport("", {}, "cpu", {}, cells=cells, quality=quality)
    drawn = draw(quality, report.seconds_per_sample(), tmp_path / "throughput.png")
    assert drawn is not None
    assert drawn.read_bytes()[:4] == b"\x89PNG"


def test_on_a_gpu_the_hosts_share_and_its_waiting_are_columns() -> None:
    cell = ThroughputCell("none", 0, "ddim", 4, (1, 16, 128, 128), "float32", False, "cuda")
    cell.milliseconds, cell.queue_milliseconds = {"eager": Spread(0.2, 0.2, 0.4)}, {"eager": Spread(0.1, 0.1, 0.1)}
    cell.counts, cell.peak_bytes = {"eager": Counts(5.0, 2.0, 0.25)}, {"eager": 3_000_000}
    heads, _, row = cell.table()
    assert heads.endswith("| calls/step | allocations/step | queue us/step [spread] | synchronisations/step |")
    assert row == "| eager | 5,000 | 50 [50, 100] | 1 | 1 |  | 3 | 5 | 2 | 25 [25, 25] | 0.25 |"
    assert ThroughputCell.read(json.loads(json.dumps(dataclasses.asdict(cell)))) == cell
    cell.device = "cpu"
    assert cell.table()[0].endswith("| calls/step | allocations/step |")


def test_waiting_for_the_device_is_in_the_time_until_done_and_not_in_the_time_to_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    queued: list[int] = []

    def wait() -> None:
        time.sleep(0.01 * len(queued))
        queued.clear()

    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    assert timing.synchronised_seconds(lambda: queued.append(0), 3) >= 0.03
    assert timing.queue_seconds(lambda: queued.append(0), 3) < 0.03
    assert not queued


def test_what_a_cpu_is_too_slow_for_is_measured_with_the_small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        throughput, "_workload", lambda name, shape, dtype, device: workloads.Workload(name, None, shape, None, None, {}, 0)
    )

    def cells(device: str) -> set[tuple[str, str, bool, tuple[int, ...]]]:
        groups = throughput._groups(throughput._parser().parse_args([]), torch.device(device))
        return {(s.workload.name, s.sampler, s.guided, s.shape) for group in groups for s in group}

    every = [(sampler, guided) for sampler in SAMPLERS for guided in (False, True)]
    assert {cell[1:3] for cell in cells("cpu") if cell[0] == "unet-35m"} == {("ddim", False)}
    assert {cell[1:3] for cell in cells("cpu") if cell[0] == "unet-4m"} == {cell[1:3] for cell in cells("cuda") if cell[0] == "unet-35m"}
    for shape in ((1, 16, 128, 128), (58032, 96)):  # the scheduler alone
        assert {cell[1:3] for cell in cells("cuda") if cell[0] == "none" and cell[3] == shape} == set(every)


def test_the_small_unet_takes_part() -> None:
    small = workloads.small(torch.float32, CPU)
    x = torch.randn(2, *small.shape)
    assert small.network(x, torch.tensor([5.0, 900.0]), **small.conditions(2)).shape == x.shape
    assert 4e6 < small.parameters < 5e6


def test_a_cell_has_both_times_and_ratios_of_the_same_rounds() -> None:
    shape = (1, 3, 8, 8)
    setting = Setting(workloads.nothing(shape, torch.float32, CPU), "ddim", 2, shape, torch.float32, False, CPU)
    found, cell = by_hand.by_hand(setting, compile=False), ThroughputCell.of(setting)
    times = {(2, "eager"): [2000.0, 4000.0], (2, "eager, folded"): [1000.0, 2000.0]}  # microseconds
    throughput._fill(cell, found, times, {key: [v / 4 for v in values] for key, values in times.items()}, setting.start(3), 2)
    assert cell.milliseconds["eager"] == Spread(3.0, 2.0, 4.0)
    assert cell.queue_milliseconds["eager"] == Spread(0.75, 0.5, 1.0)
    assert cell.of_eager == {"eager, folded": Spread(0.5, 0.5, 0.5)}
    assert cell.of_folded == {"eager": Spread(2.0, 2.0, 2.0)}
    assert cell.counts["eager"].launches > cell.counts["eager, folded"].launches > 0
