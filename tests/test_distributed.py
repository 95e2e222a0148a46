"""Several processes give what one gives; one that fails or is killed ends them all, and the rest can be resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ttune
from tests import ranks_program, tiny_model
from tests.oracles import mixture, standard_normal
from ttune.cli.main import main
from ttune.distributed import ALONE, Ranks

ROOT = Path(__file__).parent.parent


def start(world: int, *arguments: str, **environment: str) -> list[subprocess.Popen[str]]:
    """``python arguments`` as ``world`` ranks, in the environment that torchrun would give them."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port.getsockname()[1]), "WORLD_SIZE": str(world)}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    fixed = {**os.environ, **address, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo", **environment}
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**fixed, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def finish(processes: list[subprocess.Popen[str]], timeout: float = 120) -> list[tuple[int, str, str]]:
    """(exit status, stdout, stderr) by rank."""
    outputs = [process.communicate(timeout=timeout) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def run(name: str, world: int, out: Path) -> list[Any]:
    """What ``ranks_program.NAME`` returned, by rank."""
    ended = finish(start(world, "-m", "tests.ranks_program", name, str(out)))
    assert all(status == 0 for status, _, _ in ended), [error for _, _, error in ended]
    return [json.loads((out / f"{name}.{rank}.json").read_text()) for rank in range(world)]


@pytest.mark.parametrize(("count", "batch_size", "world"), [(22, 4, 3), (8, 8, 2), (1, 1, 1), (7, 2, 4), (100, 7, 5)])
def test_every_sample_is_somebodys_and_chunks_stay_whole(count: int, batch_size: int, world: int) -> None:
    rows = [Ranks(rank, world).share(count, batch_size).rows for rank in range(world)]
    assert sorted(torch.cat(rows).tolist()) == list(range(count))
    for own in rows:
        for piece in own.split(batch_size) if len(own) else []:
            assert piece[0] % batch_size == 0
            assert piece.tolist() == list(range(piece[0], min(piece[0] + batch_size, count)))
    for rank, own in enumerate(rows):
        head = Ranks(rank, world).share(count, batch_size).head(5).rows
        assert torch.equal(head, own[own < 5])


def test_a_rank_without_work_is_refused() -> None:
    Ranks(0, 4).share(100, 25).check("samples")
    with pytest.raises(
        ValueError, match="batch_size must leave every rank some samples: samples=100 in batches of 32 are 4 for 5 ranks; use at most 20"
    ):
        Ranks(0, 5).share(100, 32).check("samples")


def test_sums_are_in_the_order_of_the_chunks() -> None:
    parts = [(np.array([1e16, 1.0]), 1.0), (np.array([1.0, 2.0]), 2.0), (np.array([-1e16, 3.0]), 3.0)]
    vector, number = ALONE.share(3, 1).total(parts)
    assert vector.tolist() == [(1e16 + 1.0) - 1e16, 6.0]
    assert number == 6.0
    assert parts[0][0].tolist() == [1e16, 1.0]  # not added to in place


def test_several_processes_find_what_one_finds_bit_for_bit(tmp_path: Path) -> None:
    """Figures of a problem; tunings by several starts, differences, Broyden's updates, backpropagation, a fitted residual map."""
    alone = json.loads(json.dumps(ranks_program.everything(ALONE)))
    ranks = run("everything", 2, tmp_path)
    assert [[r["figures"][part].pop("own") for r in ranks] for part in ("all", "head")] == [[12, 10], [3, 0]]
    assert all(found["schedule"] != alone["neighbours"]["ays"]["schedule"] for name, found in alone["neighbours"].items() if name != "ays")
    for part in ("all", "head"):
        del alone["figures"][part]["own"]
    for found in ranks:
        for name, value in alone.items():
            assert found[name] == value, name


@pytest.mark.slow
def test_several_processes_tune_for_a_distribution_as_one_does(tmp_path: Path) -> None:
    """By backpropagation with fidelity, and by the detail search; two batches of new x_T for two ranks."""
    alone = json.loads(json.dumps(ranks_program.distributions(ALONE)))
    assert run("distributions", 2, tmp_path) == [alone, alone]


# ----------------------------------------------------------------------------------------------------- the command line, torchrun

TUNE = ["tune", "--model", "tests.tiny_model:factory", "--steps", "3", "--samples", "8", "--validation-samples", "8", "--batch-size", "4"]
TUNE += ["--iterations", "3", "--quiet"]


def torchrun(world: int, arguments: list[str], **environment: str) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of ``ttune`` under torchrun."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world), "-m", "ttune", *arguments]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment}
    ended = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return ended.returncode, ended.stdout, ended.stderr


def test_a_killed_rank_ends_the_job_and_the_rest_is_resumed_by_any_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, out = tmp_path / "whole.json", tmp_path / "ttune.json"
    tiny_model.calls = 0  # other tests of this process count too
    main([*TUNE, "--out", str(whole)])
    alone = capsys.readouterr().out
    calls = {"TINY_MODEL_INTERRUPT_AT": str(tiny_model.calls // 4), "TINY_MODEL_SIGNAL": str(int(signal.SIGKILL)), "TINY_MODEL_RANK": "1"}
    status, said, error = torchrun(2, [*TUNE, "--out", str(out)], **calls)
    assert status != 0
    assert re.search(r"rank\s*: 1 ", error)
    assert "SIGKILL" in error
    assert not said
    assert not out.exists()
    kept = sorted(file.name for file in tmp_path.iterdir())
    assert "ttune.json.checkpoint" in kept
    status, said, error = torchrun(2, [*TUNE, "--out", str(out), "--resume"])
    assert status == 0, error
    assert said.count("Wrote") == 1
    assert ttune.Schedule.load(out) == ttune.Schedule.load(whole)
    assert ttune.Schedule.load(out).tuned["validation"] == ttune.Schedule.load(whole).tuned["validation"]
    assert "RMSE to the teacher" in alone
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ttune.json", "whole.json"]


def test_evaluate_is_that_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTUNE_CACHE", str(tmp_path / "cache"))
    file, out, together = (tmp_path / name for name in ("ddim.json", "alone.json", "together.json"))
    ttune.Schedule.build(ttune.NoiseSchedule.linear(), "ddim", 2).save(file)
    arguments = ["evaluate", str(file), "--samples", "11", "--batch-size", "2", "--quiet", "--reference-samples", "100", "--splits", "2"]
    arguments += ["--metrics", "fid", "precision_recall", "rmse", "psnr"]
    main([*arguments, "--out", str(out)])
    status, said, error = torchrun(2, [*arguments, "--out", str(together), "--work", str(tmp_path / "work")])
    assert status == 0, error
    assert said.count("Wrote") == 1
    alone, shared = (json.loads(path.read_text())["rows"] for path in (out, together))
    for row in [*alone, *shared]:
        del row["seconds"]
    assert shared == alone
    assert [row["network_evaluations"] for row in shared] == [2, 128]
    assert len(list((tmp_path / "work").rglob("0*.safetensors"))) == 2 * 6


def test_a_rank_that_dies_in_an_evaluation_ends_it_and_what_was_kept_is_taken(tmp_path: Path) -> None:
    """Each of two ranks in its turn, with torchrun, which ends the other, and without, when the other must see it for itself."""
    file, work = tmp_path / "ddim.json", tmp_path / "work"
    ttune.Schedule.build(ttune.NoiseSchedule.linear(), "ddim", 2).save(file)
    arguments = ["evaluate", str(file), "--model", "tests.tiny_model:factory", "--samples", "12", "--batch-size", "1", "--quiet"]
    together = [*arguments, "--work", str(work), "--out", str(tmp_path / "together.json")]
    main([*arguments, "--out", str(tmp_path / "alone.json")])

    def dying(rank: int) -> dict[str, str]:
        """In its third chunk of 130 evaluations; or in its second, after as many to see whether the network is still the same."""
        return {"TINY_MODEL_INTERRUPT_AT": "320", "TINY_MODEL_SIGNAL": str(int(signal.SIGKILL)), "TINY_MODEL_RANK": str(rank)}

    every = {f"{k:06}" for k in range(12)}

    def kept() -> dict[Path, int]:
        """When each was written, which must stay as it is."""
        return {path: path.stat().st_mtime_ns for path in work.glob("d*/0*.safetensors")}

    status, said, error = torchrun(2, together, **dying(1))
    assert status != 0
    assert re.search(r"rank\s*: 1 ", error)
    assert "SIGKILL" in error
    assert error.count("Traceback (most recent call last)") == 1  # torchrun's own
    assert re.search(r"With --work, what was finished is kept there|rank 0 waited for the others, and one of them is gone", error)
    assert not said
    first = kept()
    assert len(first) >= 2 * 2  # both chunks of the one that died, of teacher and schedule
    survivor, dead = finish(start(2, "-m", "ttune", *together, **dying(0)))[::-1]
    assert dead[0] == -signal.SIGKILL
    assert survivor[0] == 1
    assert "ttune: rank 1: rank 1 waited for the others, and one of them is gone or stuck" in survivor[2]
    assert "With --work, what was finished is kept there and the same command goes on from it" in survivor[2]
    assert "Traceback" not in survivor[2]
    second = kept()
    assert first.items() < second.items()
    teacher, tuned = ({path.stem for path in second if path.parent.name.startswith(sampler)} for sampler in ("dpmpp_2m", "ddim"))
    tiny_model.calls = 0
    main(together)
    assert tiny_model.calls == 130 + sum(128 + 2 * (k not in tuned) for k in every - (teacher & tuned))
    assert second.items() < kept().items()
    alone, shared = (json.loads((tmp_path / f"{name}.json").read_text())["rows"] for name in ("alone", "together"))
    assert [row | {"seconds": 0} for row in shared] == [row | {"seconds": 0} for row in alone]


def test_what_cannot_be_shared_is_refused_and_a_failing_rank_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit, match="ttune: rank 1: ttune info runs in one process; start it without torchrun"):
        main(["info"])
    monkeypatch.undo()
    broken = {"TINY_MODEL_NAN_AT": "40", "TINY_MODEL_RANK": "1"}
    begin = time.monotonic()
    status, _, error = torchrun(2, [*TUNE, "--out", str(tmp_path / "ttune.json")], **broken)
    assert time.monotonic() - begin < 100
    assert status != 0
    assert "ttune: rank 1: the network returned NaN or infinity on the way through dpmpp_2m" in error
    assert re.search(r"rank\s*: 1 ", error)


def test_methods_that_do_not_share_are_refused() -> None:
    denoiser, start = mixture(ranks_program.NOISE).denoiser(), ttune.Schedule.build(ranks_program.NOISE, "ddim", 3)
    method = ttune.tuning.Evolution(fitness=lambda schedule, x, problem: 0.0)  # a function wants to see all samples
    with pytest.raises(ValueError, match="method 'evolution' runs in one process, got 2 ranks: start it without torchrun"):
        ttune.tune(denoiser, start, method=method, x_T=standard_normal((16, 2)), batch_size=2, ranks=Ranks(0, 2))
