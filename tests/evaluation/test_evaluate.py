"""An evaluation from beginning to end: its figures, what it keeps, what it loses when it is killed, and how much memory it holds."""

from __future__ import annotations

import json
import tracemalloc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ttune
from ttune.cli.main import main
from ttune.distributed import ALONE, Ranks
from ttune.evaluation import (
    FeatureExtractor,
    FeatureStatistics,
    frechet_distance,
    kernel_distance,
    precision_recall,
    print_metrics,
    print_table,
    rmse_to,
    split_interval,
)
from ttune.evaluation.cached_samples import CachedSamples, Candidate, _tolerance
from ttune.evaluation.evaluate import Real, evaluate, work_folder
from ttune.evaluation.images.decoded import pictures_of
from ttune.evaluation.images.image_source import ArrayPictures, open_pictures, write_png
from ttune.evaluation.metrics.density_coverage import coverage, density
from ttune.evaluation.metrics.registry import metric_names
from ttune.network.conditions import digest

NOISE = ttune.NoiseSchedule.linear()
METRICS = metric_names()
SHAPE = (1, 6, 6)
WEIGHTS = torch.randn(36, 5, generator=torch.Generator().manual_seed(0))
FEATURES = FeatureExtractor("projections", lambda x: x.flatten(1) @ WEIGHTS, batch=8)
REAL = Real("noise", ArrayPictures("noise", np.random.default_rng(0).integers(0, 256, (40, *SHAPE), np.uint8)))


def network(x: Tensor, tau: Tensor, gain: Tensor) -> Tensor:
    return 0.9 * x + 0.05 * torch.sin(3 * x) * gain.view(-1, 1, 1, 1)


def points(seeds: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return ttune.initial_noise(NOISE, SHAPE, seeds), {"gain": (seeds % 3).float()}


def candidate(steps: int = 3, sampler: str = "ddim", **options: Any) -> Candidate:
    return Candidate(f"{sampler} {steps}", "base", ttune.Schedule.build(NOISE, sampler, steps, **options))


TEACHER = candidate(12, "dpmpp_2m", spacing="log_snr")


def samples(work: Path, n: int = 22, calls: list[int] | None = None, **options: Any) -> CachedSamples:
    counted = [] if calls is None else calls

    def counting(x: Tensor, tau: Tensor, gain: Tensor) -> Tensor:
        counted.append(len(x))
        return network(x, tau, gain)

    settings: dict[str, Any] = {"features": FEATURES, "batch_size": 4, "seed": 7, "teacher": TEACHER, "progress": False}
    return CachedSamples(ttune.Denoiser(counting, NOISE), points, n=n, work=work, **(settings | options))


def rows_of(made: CachedSamples, candidates: Sequence[Candidate] = (), **options: Any) -> list[dict[str, Any]]:
    found = evaluate(made, candidates or [candidate()], **({"metrics": METRICS, "real": REAL, "splits": 2} | options))
    return [dict(row) | {"seconds": 0} for row in found]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTUNE_CACHE", str(tmp_path / "cache"))


def test_the_figures_are_those_of_all_samples_at_once(tmp_path: Path) -> None:
    row, teacher_row = rows_of(samples(tmp_path / "work"))
    x_T, conditions = points(torch.arange(22) + 7)
    denoiser = ttune.Denoiser(network, NOISE)
    x, target = (ttune.sample(denoiser, c.schedule, x_T, conditions=conditions) for c in (candidate(), TEACHER))
    real = next(open_pictures_of(REAL).read(range(40)))
    f, g, r = (FEATURES(images).numpy().astype(np.float32) for images in (x, target, real))
    assert row["frechet"]["value"] == pytest.approx(frechet_distance(f, r), rel=1e-6)
    assert row["frechet_to_teacher"] == pytest.approx(frechet_distance(f, g), rel=1e-6)
    assert row["kernel"]["value"] == pytest.approx(kernel_distance(f, r), rel=1e-4)
    assert row["precision_recall"]["precision"] == precision_recall(f, r).precision
    assert row["precision_recall"]["recall"] == precision_recall(f, r).recall
    assert [row["others"][name]["value"] for name in ("density", "coverage")] == [density(f, r), coverage(f, r)]
    assert row["precision_recall"]["precision_interval"]["splits"] == 2
    assert row["precision_recall"]["recall_interval"] is None
    errors = rmse_to(x, target)
    assert row["rmse_to_teacher"] == pytest.approx(errors.square().mean().sqrt().item(), rel=1e-6)
    clamped = rmse_to(x.clamp(-1, 1), target.clamp(-1, 1)).numpy()
    psnr = 20 * np.log10(2 / clamped)
    assert row["psnr_to_teacher"]["value"] == pytest.approx(psnr.mean(), rel=1e-6)
    interval = split_interval(lambda rows: float(psnr[rows].mean()), float(psnr.mean()), 22, 2)
    assert row["psnr_to_teacher"]["interval"]["low"] == pytest.approx(interval.low, rel=1e-5)
    assert row["frechet"]["interval"]["splits"] == 2
    assert row["network_evaluations"] == 3
    assert (teacher_row["rmse_to_teacher"], teacher_row["frechet_to_teacher"]) == (None, None)
    assert teacher_row["frechet"]["value"] == pytest.approx(frechet_distance(g, r), rel=1e-6)


def open_pictures_of(real: Real) -> ArrayPictures:
    assert isinstance(real.source, ArrayPictures)
    return real.source


def test_what_is_kept_is_not_sampled_again(tmp_path: Path) -> None:
    calls: list[int] = []
    whole = rows_of(samples(tmp_path / "work", calls=calls))
    per_sample = 3 + 12
    assert sum(calls) == 22 * per_sample
    calls.clear()
    assert rows_of(samples(tmp_path / "work", calls=calls)) == whole
    rows_of(samples(tmp_path / "work", calls=calls), metrics=("kid",))
    assert calls == [1] * per_sample * 2  # sample 0 each time, to see whether the network is still the same
    calls.clear()
    more = rows_of(samples(tmp_path / "work", 32, calls=calls))
    assert sum(calls) == per_sample + (32 - 20) * per_sample  # the last chunk had two samples, and is made anew with four
    assert more == rows_of(samples(tmp_path / "other", 32))
    calls.clear()
    rows_of(samples(tmp_path / "work", calls=calls), [candidate(), candidate(4)])
    assert sum(calls) == per_sample + 22 * (4 + 12) + 2 * 3  # the teacher's images are not kept, and the short last chunk is wanted again


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"batch_size": 2},
        {"teacher": candidate(13, "dpmpp_2m")},
        {"features": FeatureExtractor("others", FEATURES.function, batch=8)},
        {"features": FeatureExtractor("projections", FEATURES.function, batch=8, digest="other weights")},
        {"points": lambda seeds: (points(seeds)[0], {"gain": torch.zeros(len(seeds))})},
    ],
    ids=["seed", "chunk", "teacher", "features", "weights of the features", "conditions"],
)
def test_what_was_made_otherwise_is_not_taken(tmp_path: Path, change: dict[str, Any]) -> None:
    first, second = samples(tmp_path), samples(tmp_path)
    object.__setattr__(second, "__dict__", {**second.__dict__, **change})
    assert first.folder(candidate()).path == samples(tmp_path).folder(candidate()).path
    assert first.folder(candidate()).path != second.folder(candidate()).path


def test_another_function_of_the_same_name_is_refused(tmp_path: Path) -> None:
    rows_of(samples(tmp_path))
    for change in (
        {"denoiser": ttune.Denoiser(lambda x, tau, gain: 0.7 * x, NOISE)},
        {"features": FeatureExtractor("projections", lambda x: 2 * FEATURES.function(x), batch=8)},
    ):
        other = samples(tmp_path)
        object.__setattr__(other, "__dict__", {**other.__dict__, **change})
        with pytest.raises(ValueError, match=r"work: .* was made by another network or other features of the same name: sample 0"):
            rows_of(other, metrics=("fid",), real=None)  # the real images' features, where there are any, are found to be others first


def test_what_is_left_of_another_function_is_refused_wherever_it_is(tmp_path: Path) -> None:
    """Of the teacher alone, of a later chunk alone, and where the change is small."""

    def other(gain_of_x: float, work: Path) -> CachedSamples:
        made = samples(work)
        object.__setattr__(made, "denoiser", ttune.Denoiser(lambda x, tau, gain: gain_of_x * network(x, tau, gain), NOISE))
        return made

    rows_of(samples(tmp_path))
    with pytest.raises(ValueError, match=r"dpmpp_2m-12.* was made by another network .*: sample 0 is not"):
        rows_of(other(0.99, tmp_path), [candidate(5)])  # a new schedule, compared with the old teacher's features
    for file in tmp_path.rglob("00000[0-2].safetensors"):
        file.unlink()
    with pytest.raises(ValueError, match="sample 12 is not what it was"):
        rows_of(other(0.99, tmp_path))
    rows_of(other(1 + 1e-6, tmp_path))  # rounding


def test_other_conditions_of_later_samples_are_sampled_anew(tmp_path: Path) -> None:
    def changed(work: Path, calls: list[int]) -> CachedSamples:
        made = samples(work, calls=calls)
        other = lambda seeds: (points(seeds)[0], {"gain": torch.where(seeds == 20, 9.0, points(seeds)[1]["gain"])})  # noqa: E731
        object.__setattr__(made, "points", other)
        return made

    calls: list[int] = []
    before = rows_of(samples(tmp_path / "work"))
    rows = rows_of(changed(tmp_path / "work", calls))
    assert sum(calls) == (1 + 4) * (3 + 12)  # the check, and the chunk of seed 20
    assert rows == rows_of(changed(tmp_path / "other", []))
    assert rows != before


def test_digests_see_every_condition_whole() -> None:
    x = torch.zeros(2, 3)

    def of(**conditions: Any) -> str:
        return digest(x, conditions)

    long = torch.zeros(5000)  # of which a repr shows six
    other = long.clone()
    other[2500] = 1
    kinds = [{"a": long}, {"b": long}, {"a": {"b": long}}, {"a": {"b": other}}, {"a": [long, 1]}, {"a": (long, 1)}, {"a": long.bfloat16()}]
    kinds += [{"a": long.numpy()}, {"a": other.numpy()}, {"a": "text"}, {"a": None}, {"a": torch.tensor(1.0)}, {"a": torch.tensor(2.0)}]
    assert len({of(**kind) for kind in kinds}) == len(kinds)
    assert of(a=long, b={"c": other}) == of(b={"c": other.clone()}, a=long.clone())
    assert digest(x + 1, {}) != digest(x, {})


def test_latent_models_are_judged_by_their_pictures(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    features = FeatureExtractor("sums", lambda x: (seen.append(x), x.flatten(2).sum(2))[1])

    def decode(z: Tensor) -> Tensor:
        return (z[:, :3] / 4 - 0.1).repeat_interleave(2, 2)

    def latents(seeds: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return ttune.initial_noise(NOISE, (4, 6, 6), seeds), {}

    denoiser = ttune.Denoiser(lambda x, tau: network(x, tau, torch.ones(len(x))), NOISE, decode=decode)
    made = CachedSamples(denoiser, latents, features, 8, 8, 0, tmp_path / "work", TEACHER, tmp_path / "images", progress=False)
    row = evaluate(made, [candidate()], metrics=("rmse", "psnr", "fid"), splits=2, resamples=0)[0]
    z, y = (ttune.sample(denoiser, c.schedule, latents(torch.arange(8))[0]) for c in (candidate(), TEACHER))
    assert torch.equal(seen[1], decode(z).clamp(-1, 1))
    assert row["rmse_to_teacher"] == pytest.approx((z - y).square().mean().sqrt().item(), rel=1e-6)
    psnr = 20 * np.log10(2 / rmse_to(decode(z).clamp(-1, 1), decode(y).clamp(-1, 1)).numpy())
    assert row["psnr_to_teacher"]["value"] == pytest.approx(psnr.mean(), rel=1e-6)
    saved = open_pictures(tmp_path / "images" / made.folder(candidate()).path.name, 3)
    torch.testing.assert_close(next(saved.read(range(8))), decode(z).clamp(-1, 1), rtol=0, atol=1 / 255)
    assert row["rmse_space"] == "latents"
    assert print_table([row]).count("RMSE here: of latents") == 1
    assert "RMSE (latents)" in print_metrics([row])
    before = made.folder(candidate()).path
    decoders = [lambda z: z, torch.nn.Conv2d(4, 3, 1), torch.nn.Conv2d(4, 3, 1), None]
    others = [ttune.Denoiser(denoiser.network, NOISE, decode=other) for other in decoders]
    paths = {CachedSamples(other, latents, features, 8, 8, 0, tmp_path / "work", TEACHER).folder(candidate()).path for other in others}
    assert len(paths | {before}) == 5
    with pytest.raises(ValueError, match=r"decode: must return pictures \(8, C, H, W\) of 8 samples, got \(8, 144\)"):
        pictures_of(ttune.Denoiser(denoiser.network, NOISE, decode=lambda z: z.flatten(1)), z)


def test_half_precision_is_allowed_more_rounding() -> None:
    x, linear = torch.zeros(1, 6), torch.nn.Linear(6, 6)
    assert _tolerance(ttune.Denoiser(linear, NOISE), x) == 1e-3
    assert _tolerance(ttune.Denoiser(linear.double(), NOISE), x.double()) == 1e-3
    assert _tolerance(ttune.Denoiser(linear.half(), NOISE), x) == 5e-2
    assert _tolerance(ttune.Denoiser(network, NOISE), x.bfloat16()) == 5e-2


def test_schedules_and_weights_tell_folders_apart(tmp_path: Path) -> None:
    base = candidate()
    other = base.schedule.replace(network_times=base.schedule.network_times + 1.0)
    layer = torch.nn.Linear(6, 6)
    denoiser = ttune.Denoiser(layer, NOISE)
    made = CachedSamples(denoiser, points, FEATURES, 4, 4, 0, tmp_path)
    names = {made.folder(Candidate("a", "b", s)).path.name for s in (base.schedule, other, candidate(4).schedule)}
    torch.nn.init.zeros_(layer.weight)
    names.add(CachedSamples(denoiser, points, FEATURES, 4, 4, 0, tmp_path).folder(base).path.name)
    assert len(names) == 4


def test_samples_that_are_not_finite_are_named(tmp_path: Path) -> None:
    def broken(seeds: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x, conditions = points(seeds)
        return (x * torch.nan if 15 in seeds else x), conditions

    made = samples(tmp_path)
    object.__setattr__(made, "points", broken)
    with pytest.raises(FloatingPointError, match="dpmpp_2m 12: samples of seeds 15 to 18 hold NaN or infinity"):
        rows_of(made)
    assert len(list(tmp_path.glob("d*/0*.safetensors"))) == 2 * 2  # the chunks before are kept


def test_images_can_be_kept_and_are_what_was_judged(tmp_path: Path) -> None:
    calls: list[int] = []
    made = samples(tmp_path / "work", calls=calls, images=tmp_path / "images")
    rows = rows_of(made)
    folder = tmp_path / "images" / made.folder(candidate()).path.name
    saved = open_pictures(folder, 1)
    assert len(saved) == 22
    x_T, conditions = points(torch.arange(22) + 7)
    x = ttune.sample(ttune.Denoiser(network, NOISE), candidate().schedule, x_T, conditions=conditions)
    torch.testing.assert_close(torch.cat(list(saved.read(range(22)))), x.clamp(-1, 1), rtol=0, atol=1 / 255)
    (folder / "000009.png").unlink()
    calls.clear()
    assert rows_of(samples(tmp_path / "work", calls=calls, images=tmp_path / "images")) == rows
    assert sum(calls) == (1 + 4) * (3 + 12)
    assert len(open_pictures(folder, 1)) == 22


def test_only_inception_makes_an_fid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In no word that is printed or written, whatever metric was asked for, is another distance called FID or KID."""
    file, out = tmp_path / "ttune.json", tmp_path / "out.json"
    ttune.Schedule.build(NOISE, "ddim", 2).save(file)
    np.save(tmp_path / "real.npy", np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8))
    command = [
        "evaluate",
        str(file),
        "--model",
        "tests.tiny_model:factory",
        "--samples",
        "12",
        "--no-teacher",
        "--quiet",
        "--out",
        str(out),
    ]
    command += ["--reference", str(tmp_path / "real.npy"), "--splits", "2", "--metrics", "fid", "kid", "precision_recall"]
    main([*command, "--features", "tests.evaluation.test_evaluate:user_features"])
    said = capsys.readouterr().out
    (row,) = json.loads(out.read_text())["rows"]
    name = "tests.evaluation.test_evaluate:user_features"
    assert row["frechet"]["name"] == f"Fréchet distance ({name})"
    assert row["kernel"]["name"] == f"kernel distance ({name})"
    for text in (said, json.dumps(row)):
        assert "FID" not in text
        assert "KID" not in text
    main([*command, "--features", "tests.evaluation.test_evaluate:named_as_inception"])
    said = capsys.readouterr().out
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["frechet"]["name"], row["kernel"]["name"]) == ("FID", "KID")
    assert "FID" in said
    assert "Inception (clean-fid): weights with the SHA-256 unknown" in said  # whose they are is said beside the name


def user_features() -> Callable[[Tensor], Tensor]:
    """For ``--features``."""
    return lambda x: x.flatten(1)[:, :6]


def named_as_inception() -> FeatureExtractor:
    return FeatureExtractor("Inception (clean-fid)", user_features())


def test_what_cannot_come_out_is_refused_before_sampling(tmp_path: Path) -> None:
    calls: list[int] = []
    statistics = Real("s", FeatureStatistics(np.zeros(5), np.eye(5), 10, "projections"))
    for options, message in (
        ({"real": None}, "metrics: kid needs real images; name some with reference"),
        ({"real": statistics}, "metrics: kid needs real images, got statistics"),
        ({"metrics": ("fid", "inception_score")}, r"metrics must be one of .* got .inception_score."),
        ({"splits": 1}, "splits must be 0 or at least 2, got 1"),
        ({"resamples": 1}, "bootstrap must be 0 or at least 2, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            rows_of(samples(tmp_path, calls=calls), **options)
    for metrics, named in ((METRICS, "psnr"), (("rmse",), "rmse")):
        with pytest.raises(ValueError, match=f"metrics: {named} needs the teacher's samples, got no teacher"):
            rows_of(samples(tmp_path, calls=calls, teacher=None), metrics=metrics)
    with pytest.raises(ValueError, match="samples must be at least 2"):
        samples(tmp_path, 1)
    assert calls == []


def test_real_images_that_cannot_be_used_are_refused_before_sampling(tmp_path: Path) -> None:
    calls: list[int] = []
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "x.png").write_bytes(b"no picture")
    (tmp_path / "file").touch()
    statistics = FeatureStatistics(np.zeros(7), np.eye(7), None, "projections")
    few = {"metrics": ("fid",)}
    for real, options, error, message in (
        (Real("r", REAL.source, count=41), {}, ValueError, r"reference_samples must lie in \[2, 40\], the images in noise, got 41"),
        (
            Real("r", FeatureStatistics(np.zeros(5), np.eye(5), None, "projections"), count=3),
            few,
            ValueError,
            "reference_samples: statistics cannot be cut down",
        ),
        (Real("r", statistics), few, ValueError, "reference: must be statistics of 5 features, as many as 'projections' makes, got 7"),
        (Real("r", REAL.source, statistics), few, ValueError, "must be statistics of 5 features"),
        (Real("r", open_pictures(folder, 1)), {}, ValueError, "is not a readable image"),
        (Real("r", REAL.source, cache=tmp_path / "file"), {}, OSError, "file"),
    ):
        with pytest.raises(error, match=message):
            rows_of(samples(tmp_path / "work", calls=calls), real=real, **options)
    with pytest.raises(OSError, match=r"000000\.png cannot be written"):
        rows_of(samples(tmp_path / "work", calls=calls, images=tmp_path / "file"))
    assert calls == []


def test_statistics_of_the_right_width_are_used(tmp_path: Path) -> None:
    statistics = FeatureStatistics(np.zeros(5), np.eye(5), None, "projections")
    row, _ = rows_of(samples(tmp_path), real=Real("r", statistics), metrics=("fid",))
    assert row["frechet"]["reference"] == "r"
    assert row["frechet"]["features_sha256"] is None


def test_a_schedule_is_not_overwritten_by_the_table(tmp_path: Path) -> None:
    file, link = tmp_path / "ttune.json", tmp_path / "link.json"
    ttune.Schedule.build(NOISE, "ddim", 2).save(file)
    link.symlink_to(file)
    before = file.read_bytes()
    for out in (file, link):
        with pytest.raises(SystemExit, match=r"out: must not be one of the files that are read, got .*, which is given as schedules"):
            main(["evaluate", str(file), "--model", "tests.tiny_model:factory", "--samples", "4", "--quiet", "--out", str(out)])
    assert file.read_bytes() == before


def test_two_evaluations_may_write_the_same_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins while the first is at it, and is done before."""
    image = pytest.importorskip("PIL.Image")
    path, save, names = tmp_path / "x.png", image.Image.save, []

    def saving(picture: Any, file: Path, format: str) -> None:
        names.append(file)
        if len(names) == 1:
            write_png(path, torch.ones(1, 2, 2))
        save(picture, file, format=format)

    monkeypatch.setattr(image.Image, "save", saving)
    write_png(path, torch.zeros(1, 2, 2))
    assert len(set(names)) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]


class Blind(Ranks):
    """Two ranks, of which the second does not see the first one's disk."""

    def everyones(self, value: Any) -> list[Any]:
        return [value, False]

    def from_first(self, compute: Callable[[], Any]) -> Any:
        return compute()


def test_ranks_without_a_common_disk_are_reported_so(tmp_path: Path) -> None:
    message = r"work: all ranks must see .*, ranks \[1\] do not; name a folder on a disk that they share"
    with pytest.raises(ValueError, match=message), work_folder(tmp_path, Blind(0, 2)):
        pass
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]
    with work_folder(None, ALONE) as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_a_work_folder_is_one_runs_at_a_time(tmp_path: Path) -> None:
    message = "work: another evaluation is using"
    with work_folder(tmp_path, ALONE), pytest.raises(ValueError, match=message), work_folder(tmp_path, ALONE):
        pass
    with work_folder(tmp_path, ALONE) as folder:
        assert folder == tmp_path


def test_no_more_images_are_alive_with_more_samples(tmp_path: Path) -> None:
    """Counted, not measured: the states and outputs that the network saw and made, and that something still holds."""
    alive = most = 0

    def release(size: int) -> None:
        nonlocal alive
        alive -= size

    def counting(x: Tensor, tau: Tensor, gain: Tensor) -> Tensor:
        nonlocal alive, most
        y = network(x, tau, gain)
        for tensor in (x, y):
            alive += tensor.numel()
            weakref.finalize(tensor, release, tensor.numel())
        most = max(most, alive)
        return y

    peaks = []
    for n in (16, 160):
        alive = most = 0
        made = samples(tmp_path / str(n), n)
        object.__setattr__(made, "denoiser", ttune.Denoiser(counting, NOISE))
        rows_of(made)
        peaks.append(most)
    assert peaks[0] == peaks[1] > 0


def test_figures_read_features_a_block_at_a_time(tmp_path: Path) -> None:
    """NumPy's own count of what is allocated: per sample far less than the 512 bytes that its features take in float64."""
    generator = np.random.default_rng(0)
    reference = FeatureStatistics(np.zeros(64), np.eye(64), 100, "f")
    peaks = []
    for n in (8_192, 40_960):
        np.save(tmp_path / "x.npy", generator.normal(size=(n, 64)).astype(np.float32))
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
        tracemalloc.start()
        frechet_distance(x, reference)
        ttune.evaluation.frechet_standard_error(x, reference, resamples=2)
        kernel_distance(x, x[:2000], subsets=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < (40_960 - 8_192) * 64
