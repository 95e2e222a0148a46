"""Full disks, folders that cannot be written, damaged files, too little memory, NaN, signals: nothing that was written is lost, the rest
goes on where it can, and the message says what to do."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import resource
import signal
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ttune
from tests import killed_program, tiny_model
from tests.killed_program import outcome, tuned
from tests.oracles import mixture, standard_normal
from ttune.cli.main import main
from ttune.evaluation.features.feature_statistics import FeatureStatistics
from ttune.network.oom_batching import Batches, is_out_of_memory
from ttune.storage.atomic_write import check_writable, remove_unfinished, write_atomically
from ttune.tuning import checkpoint
from ttune.tuning.checkpoint import remove
from ttune.tuning.problem import Problem

NOISE = ttune.NoiseSchedule.linear()
TINY = ["--model", "tests.tiny_model:factory"]
QUICK = [*TINY, "--steps", "2", "--samples", "4", "--validation-samples", "4", "--iterations", "1", "--no-search-starts", "--quiet"]
SAMPLE = ["sample", *TINY, "--steps", "2", "--samples", "4", "--out"]
EVALUATE = ["evaluate", "b.json", *TINY, "--samples", "4", "--batch-size", "2", "--quiet"]


@pytest.fixture(autouse=True)
def _calls(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model.calls = 0
    monkeypatch.delenv("TINY_MODEL_INTERRUPT_AT", raising=False)


def failure(arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert isinstance(stop.value.code, str)
    assert stop.value.code.count("\n") == 0
    return stop.value.code


# ---------------------------------------------------------------------------------------------------------------- disk


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A limit that the system holds a process to as it does to the size of a disk, with another number of the error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_does_not_fit_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "f"
    write_atomically(file, b"old")
    with files_of_at_most(10_000), pytest.raises(OSError, match=f"{file} is not written; what it held before, it still holds") as met:
        write_atomically(file, bytes(50_000))
    assert met.value.errno == errno.EFBIG
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_command_without_room_says_which_file(tmp_path: Path) -> None:
    with files_of_at_most(100):
        said = failure([*SAMPLE, str(tmp_path / "a.npz")])
    assert f"File too large: {tmp_path / 'a.npz'} is not written" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", [1, 4, 9])
def test_a_tuning_that_met_a_full_disk_goes_on_when_there_is_room(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th file does not fit; what is in the checkpoint by then is used, and the end is that of an undisturbed tuning."""
    written, fsync = 0, os.fsync

    def full(descriptor: int) -> None:
        nonlocal written
        written += 1
        if written == 2 * at - 1:  # a write syncs its file, then its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: .* is not written"):
            tuned("trajectory", tmp_path)
    assert outcome(tuned("trajectory", tmp_path)) == outcome(tuned("trajectory", None))
    remove(tmp_path / "journal")
    assert {file.name for file in tmp_path.iterdir()} <= {"best.json"}


@pytest.mark.parametrize("command", [[*SAMPLE], ["tune", *QUICK, "--out"], ["analytic", "--steps", "1", "--samples", "1", "--out"]])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    name = "a.png" if command[0] == "sample" else "a.json"
    said = failure([*command, str(tmp_path / "file" / name)])
    assert f"{tmp_path / 'file' / name} cannot be written; name another place" in said
    assert tiny_model.calls == 0
    (tmp_path / name).mkdir()
    assert "it is a folder" in failure([*command, str(tmp_path / name)])
    assert tiny_model.calls == 0


def test_looking_whether_a_place_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    check_writable(tmp_path / "old")
    check_writable(tmp_path / "new" / "file")
    assert (tmp_path / "old").read_text() == "old"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "old"]


def test_a_link_is_followed_and_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    for content in (b"new", b"newer"):  # a link to nothing yet, and to a file
        check_writable(tmp_path / "link")
        write_atomically(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "there" / "file").read_bytes() == content
    (tmp_path / "there" / ".file.abcdef.unfinished").touch()
    remove_unfinished(tmp_path / "link")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "link", "there"]


@pytest.mark.parametrize("name", ["fifo", "link"])
def test_what_is_no_file_is_not_replaced_by_one(name: str, tmp_path: Path) -> None:
    """A device would be: root's --out /dev/null made a file of it."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    for refused in (check_writable, lambda path: write_atomically(path, b"new")):
        with pytest.raises(OSError, match=rf"it must be a regular file, and is a device, a FIFO or a socket: .*{name} ") as met:
            refused(tmp_path / name)
        assert met.value.errno == errno.EINVAL
    assert (tmp_path / "fifo").is_fifo()
    assert (tmp_path / "link").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_synced_does_not_make_the_file_unwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    with pytest.raises(OSError, match=f"{tmp_path / 'f'} is written, but its folder could not be synced") as met:
        write_atomically(tmp_path / "f", b"new")
    assert met.value.errno == errno.EIO
    assert (tmp_path / "f").read_bytes() == b"new"


def test_writing_leaves_the_umask_of_the_process_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is that of all threads: between asking for it and setting it back they would write files that everybody may write."""
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.delattr(os, "umask")
            write_atomically(tmp_path / "f", b"x")
        assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_what_killed_processes_left_of_other_files_is_not_removed(tmp_path: Path) -> None:
    for name in (".a.0123.unfinished", ".a.json.0123.unfinished", ".ab.0123.unfinished"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.json.0123.unfinished", ".ab.0123.unfinished"]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--checkpoint", "a.json"], "out and checkpoint"),
        (["--checkpoint", "a.partial.json"], "out's partial file and checkpoint"),
        (["--checkpoint", "link.json"], "out and checkpoint"),
        (["--prompts", "a.json"], "out and prompts"),
        (["--checkpoint", "a", "--steps", "2", "3", "--out", "a.3"], "out and checkpoint"),
        (["--checkpoint", "a", "--out", "a.teacher_tuning.safetensors"], "out and checkpoint"),
        (["--checkpoint", "a", "--out", "a.choice", "--sampler", "auto"], "out and checkpoint"),
    ],
)
def test_a_tuning_does_not_write_two_things_to_one_file(
    more: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.json").symlink_to("a.json")
    assert f"{named} must be different files" in failure(["tune", *QUICK, "--out", "a.json", *more])
    assert tiny_model.calls == 0
    assert [path.name for path in tmp_path.iterdir()] == ["link.json"]


def test_a_tuning_removes_only_what_it_wrote(tmp_path: Path) -> None:
    mine = tmp_path / "model.fp16.safetensors"
    mine.write_text("weights")
    main(["tune", *QUICK, "--out", str(tmp_path / "t.json"), "--checkpoint", str(tmp_path / "model")])
    assert mine.read_text() == "weights"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.fp16.safetensors", "t.json"]


def test_a_checkpoint_behind_a_link_is_removed_there(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "t.json.checkpoint").symlink_to(tmp_path / "scratch" / "c")
    for _ in range(2):  # what stayed there would be found by the second
        main(["tune", *QUICK, "--out", str(tmp_path / "t.json")])
        assert not list((tmp_path / "scratch").iterdir())
        assert (tmp_path / "t.json.checkpoint").is_symlink()


@pytest.mark.parametrize(
    "command",
    [
        ["tune", *QUICK, "--out", "a.json", "--checkpoint", "file/checkpoint"],
        ["report", "b.json", *TINY, "--out", "file/r.html"],
    ],
)
def test_other_places_that_cannot_be_written_are_found_before_any_work(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    ttune.Schedule.build(NOISE, "ddim", 2).save(tmp_path / "b.json")
    assert f"{command[-1]} cannot be written; name another place" in failure(command)
    assert tiny_model.calls == 0


@pytest.fixture(params=["/proc", "a file system that is read-only"])
def closed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which nobody can make a file, root neither, whom permissions do not stop."""
    if request.param == "/proc":
        if not Path("/proc/self").exists():
            pytest.skip("no /proc here")
        return Path("/proc/ttune")
    folder = tmp_path / "closed"
    folder.mkdir()

    def refusing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if Path(os.fsdecode(path)).is_relative_to(folder):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
            return function(path, *arguments, **options)

        return call

    for name in ("open", "mkdir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["tune", *QUICK, "--out"],
        ["tune", *QUICK, "--out", "a.json", "--checkpoint"],
        [*SAMPLE],
        [*EVALUATE, "--out"],
        [*EVALUATE, "--work"],
        [*EVALUATE, "--save-images"],
        [*EVALUATE, "--work", "kept", "--save-images"],
        ["report", "b.json", *TINY, "--out"],
        ["compare", *TINY, "--quiet", "--out"],
        ["export", "--schedule", "b.json", "--out"],
        ["import", "--values", "sigmas.json", "--noise", "linear", "--sampler", "ddim", "--out"],
    ],
    ids=lambda command: f"{command[0]} {command[-1]}{' of a work folder that is kept' * ('kept' in command)}",
)
def test_a_folder_in_which_no_file_can_be_made_is_refused_before_any_work(
    command: list[str], closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ttune.Schedule.build(NOISE, "ddim", 2).save(tmp_path / "b.json")
    (tmp_path / "sigmas.json").write_text("[10.0, 1.0, 0.1]")
    if "kept" in command:
        main([*EVALUATE, "--work", "kept"])
        assert tiny_model.calls > 0
        tiny_model.calls = 0
    said = failure([*command, str(closed / "a.png" if command[0] == "sample" else closed / "a")])
    assert said.startswith("ttune: [Errno ")
    assert f": {closed / 'a'}" in said
    assert said.endswith(" cannot be written; name another place")
    assert tiny_model.calls == 0


@pytest.mark.parametrize("batch_size", ["0", "-1"])
@pytest.mark.parametrize(
    "command", [["compare", *TINY, "--out", "c"], ["report", "b.json", *TINY, "--out", "r.html"], ["tune", *QUICK, "--out", "a.json"]]
)
def test_a_batch_without_a_sample_is_refused_before_any_work(
    command: list[str], batch_size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ttune.Schedule.build(NOISE, "ddim", 2).save(tmp_path / "b.json")
    for more in ([], ["--sampler", "auto"]) if command[0] == "tune" else ([],):
        said = failure([*command, *more, "--batch-size", batch_size])
        assert said.startswith("ttune: batch_size must be ")
        assert f">= 1, got {batch_size}" in said or f"at least 1, got {batch_size}" in said
    assert tiny_model.calls == 0
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


# --------------------------------------------------------------------------------------------------------------- files


def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "t.json"
    main(["tune", *QUICK, "--out", str(out)])
    calls, tiny_model.calls = tiny_model.calls, 0
    monkeypatch.setenv("TINY_MODEL_INTERRUPT_AT", str(calls - 5))
    with pytest.raises(SystemExit):
        main(["tune", *QUICK, "--out", str(out)])
    monkeypatch.delenv("TINY_MODEL_INTERRUPT_AT")
    journal = tmp_path / "t.json.checkpoint"
    content = journal.read_text()
    changed = content.replace('"pieces":{', '"pieces":{"surprise":1,', 1)
    journal.write_text(changed)
    said = failure(["tune", *QUICK, "--out", str(out), "--resume"])
    assert f"checkpoint: {journal} is not a ttune journal (its pieces are not as they were written" in said
    assert "remove it and start again" in said
    journal.write_text(content)
    main(["tune", *QUICK, "--out", str(out), "--resume"])
    assert not journal.exists()


def test_a_sparse_gigabyte_is_refused_unread(tmp_path: Path) -> None:
    """A header that promises a gigabyte, and a file that has it, of zeros."""
    header = b'{"weight":{"dtype":"F32","shape":[268435456],"data_offsets":[0,1073741824]}}'
    file = tmp_path / "w.safetensors"
    with file.open("wb") as f:
        f.write(len(header).to_bytes(8, "little") + header)
        f.truncate(8 + len(header) + 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="must hold exactly"):
        ttune.zoo.fashion(file)
    with pytest.raises(ValueError, match="must hold at most 16384 features"):
        FeatureStatistics.load(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB; the model itself takes some


def test_weights_of_another_shape_or_with_nan_are_refused(tmp_path: Path) -> None:
    import safetensors.torch

    network = ttune.zoo.fashion().network
    assert isinstance(network, torch.nn.Module)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    file = tmp_path / "w.safetensors"
    for name, value, message in (
        ("conv_in.bias", torch.zeros(3), r"conv_in\.bias must have the shape \(48\), got \(3,\)"),
        ("conv_in.bias", torch.full((48,), math.nan), r"conv_in\.bias must be finite"),
        ("conv_in.bias", torch.zeros(48, dtype=torch.int64), r"conv_in\.bias must hold floating-point numbers, got torch.int64"),
        ("surprise", torch.zeros(1), r'with \["surprise"\]'),
    ):
        safetensors.torch.save_file(state | {name: value}, file)
        with pytest.raises(ValueError, match=message):
            ttune.zoo.fashion(file)


def test_a_model_whose_schedules_no_file_holds_is_not_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = ttune.NoiseSchedule.from_alphas_cumprod(np.linspace(0.9999, 1e-4, 200_000))
    monkeypatch.setattr(tiny_model, "factory", lambda: ttune.Denoiser(tiny_model.network, noise, sample_shape=(1, 8, 8)))
    for more in ([], ["--sampler", "auto"]):
        assert "a schedule file has at most 4000000 bytes" in failure(["tune", *QUICK, "--out", str(tmp_path / "a.json"), *more])
    assert tiny_model.calls == 0
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_could_not_be_read_again_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MAX_BYTES", 1000)
    journal = checkpoint.Journal(tmp_path / "c", {"a": 1}, resume=False)
    journal.put("small", "x")
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint: a journal has at most 1000 bytes, .* would have \d+ with 'large'"):
        journal.put("large", "x" * 1000)
    assert (tmp_path / "c").read_bytes() == before


# -------------------------------------------------------------------------------------------------------------- memory


def holding(most: int, network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``network`` on a device that holds ``most`` samples."""

    def called(x: Tensor, tau: Tensor) -> Tensor:
        if len(x) > most:
            raise torch.OutOfMemoryError(f"tried to hold {len(x)} samples")
        return network(x, tau)

    return called


def test_too_large_a_batch_is_halved_until_it_fits_and_that_is_remembered() -> None:
    tried: list[int] = []
    network = mixture(NOISE)

    def called(x: Tensor, tau: Tensor) -> Tensor:
        tried.append(len(x))
        return holding(3, network)(x, tau)

    x_T, schedule = standard_normal((11, 2)), ttune.Schedule.build(NOISE, "dpmpp_2m", 3)
    denoiser = ttune.Denoiser(called, NOISE)
    with pytest.warns(RuntimeWarning) as said:
        x_0 = ttune.sample(denoiser, schedule, x_T)
    assert "out of memory with 11 samples in one call of the network: going on with 6 at a time" in str(said[0].message)
    assert len(said) == 2
    torch.testing.assert_close(x_0, ttune.sample(network.denoiser(), schedule, x_T), rtol=0, atol=1e-6)
    assert tried == [11, 6] + [3, 3, 3, 2] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ttune.sample(denoiser, schedule, x_T)


@pytest.mark.filterwarnings("ignore:out of memory")
@pytest.mark.parametrize("optimizer", ["differences", "backpropagation"])
def test_a_tuning_without_memory_ends_where_one_with_memory_ends(optimizer: str) -> None:
    """Derivatives by differences, and by backpropagation, where it is chunks that are halved."""
    network, schedule = mixture(NOISE), ttune.Schedule.build(NOISE, "ddim", 2)
    results = []
    for called in (network, holding(5, network)):
        denoiser = ttune.Denoiser(called, NOISE)
        results.append(
            ttune.tune(
                denoiser, schedule, x_T=standard_normal((16, 2)), batch_size=12, iterations=2, tune=("network_times",),
                optimizer=optimizer, search_starts=False, progress=False,
                teacher=ttune.Schedule.build(NOISE, "dpmpp_2m", 8, "log_snr"),
            )
        )  # fmt: skip
    plenty, little = results
    # J^T J is estimated with random signs of every chunk, which halves have of their own: the way differs, the end only by the tolerance.
    tolerance = 1e-6 if optimizer == "differences" else 2e-2
    np.testing.assert_allclose(little.schedule.network_times, plenty.schedule.network_times, rtol=tolerance, atol=tolerance)
    assert little.validation["rmse"] == pytest.approx(plenty.validation["rmse"], rel=tolerance)


@pytest.mark.filterwarnings("ignore:out of memory")
def test_memory_that_holds_not_even_one_sample_is_an_error() -> None:
    schedule = ttune.Schedule.build(NOISE, "ddim", 2)
    with pytest.raises(torch.OutOfMemoryError, match="tried to hold 1 samples"):
        ttune.sample(ttune.Denoiser(holding(0, mixture(NOISE)), NOISE), schedule, standard_normal((4, 2)))


@pytest.mark.filterwarnings("error")
def test_other_errors_of_a_network_are_not_taken_for_want_of_memory() -> None:
    def broken(x: Tensor, tau: Tensor) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        ttune.sample(ttune.Denoiser(broken, NOISE), ttune.Schedule.build(NOISE, "ddim", 2), standard_normal((4, 2)))
    with pytest.raises(RuntimeError) as met:
        torch.empty(2**60)
    assert is_out_of_memory(met.value)  # the machine's own memory, which has no error of its own


def test_batches_join_in_order() -> None:
    batches, seen = Batches("a test"), []

    def call(rows: slice | None) -> list[int]:
        numbers = list(range(7))[rows or slice(None)]
        seen.append(len(numbers))
        if len(numbers) > 2:
            raise torch.OutOfMemoryError
        return numbers

    with pytest.warns(RuntimeWarning):
        joined = batches.through(call, 7, lambda parts: [number for part in parts for number in part])
    assert joined == list(range(7))
    assert seen == [7, 4, 2, 2, 2, 1]
    assert batches.through(lambda rows: [], 0, lambda parts: [1]) == []


# ----------------------------------------------------------------------------------------------------------------- NaN


def broken_below(t: float) -> ttune.Denoiser:
    """A network that returns NaN for the second sample, passed a time below ``t``."""

    def network(x: Tensor, tau: Tensor) -> Tensor:
        bad = (tau < t) & (torch.arange(len(x)) == 1)
        return torch.where(bad[:, None], math.nan, 0.1 * x)

    return ttune.Denoiser(network, NOISE)


def test_nan_names_the_evaluation_and_the_sample() -> None:
    schedule, x_T = ttune.Schedule.build(NOISE, "ddim", 4, "trailing"), standard_normal((6, 2))
    with pytest.raises(FloatingPointError) as met:
        Problem(broken_below(600), x_T, {}, x_T).run(schedule)
    message = (
        "NaN or infinity on the way through ddim, 4 steps: at evaluation 2 of 0 to 3 (t = 499, network time 499) "
        "the network's output is not finite"
    )
    assert message in str(met.value)
    assert "of 1 of 6 samples (first: 1)" in str(met.value)


def test_nan_of_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def network(x: Tensor, tau: Tensor) -> Tensor:
        return x / (tau > 500).to(x)[:, None, None, None]

    monkeypatch.setattr(tiny_model, "network", network)
    said = failure([*SAMPLE, str(tmp_path / "a.png")])
    assert "NaN or infinity on the way through ddim, 2 steps: at evaluation 0 of 0 to 1 (t = 500, network time 500)" in said
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- signals


def test_an_interrupted_sampling_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a.npz"
    main([*SAMPLE, str(out)])
    before = out.read_bytes()
    tiny_model.calls = 0
    monkeypatch.setenv("TINY_MODEL_INTERRUPT_AT", "1")
    for sent, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        tiny_model.calls = 0
        monkeypatch.setenv("TINY_MODEL_SIGNAL", str(int(sent)))
        with pytest.raises(SystemExit) as stop:
            main([*SAMPLE, str(out)])
        assert stop.value.code == status
        assert out.read_bytes() == before
        assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("name", ["a.npz", "a.png"])
def test_a_sampling_killed_while_it_writes_leaves_the_old_file_or_the_new_one(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    main([*SAMPLE, str(tmp_path / name)])
    new = (tmp_path / name).read_bytes()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killed_program"])
    statuses, neither = [], 0
    for at in (1, 2, 3, 4, 5, 0):
        (tmp_path / name).write_bytes(b"old")
        process = context.Process(target=killed_program.command, args=([*SAMPLE, name], tmp_path, at))
        process.start()
        process.join(100)
        statuses.append(process.exitcode)
        neither += (tmp_path / name).read_bytes() not in (b"old", new)
    record_property("kills of a running sampling", statuses.count(-signal.SIGKILL))
    record_property("pictures that were neither the old nor the new one", neither)
    assert neither == 0
    assert statuses[-1] == 0
    assert statuses.count(-signal.SIGKILL) >= 4
    assert (tmp_path / name).read_bytes() == new
