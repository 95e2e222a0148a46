"""The command line: ``ttune demo | tune | sample | evaluate | compare | analytic | info``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import torch
import tyro

from ttune.grids import GRIDS
from ttune.ranks import RankLost, Ranks, current, joined
from ttune.samplers import SAMPLERS, sampler_options
from ttune.tuning.methods import METHODS

if TYPE_CHECKING:
    from ttune.denoiser import Denoiser
    from ttune.noise import NoiseSchedule
    from ttune.schedule import Schedule
    from ttune.tuning import Choice

    Sampler = SamplerOrAuto = Spacing = Method = str
else:  # the registries are the list of choices
    Sampler = Literal[tuple(SAMPLERS)]
    SamplerOrAuto = Literal[(*SAMPLERS, "auto")]
    Spacing = Literal[tuple(GRIDS)]
    Method = Literal[tuple(METHODS)]


def demo(out: Path = Path("runs/demo"), steps: int = 5, samples: int = 512, quiet: bool = False) -> None:
    """Tune the bundled model and show what it bought: a table, a picture, two schedules.

    Example: ttune demo

    Args:
        out: Folder for ddim.json, dpmpp_2m.json, report.json and report.png.
        steps: Step budget.
        samples: Held-out x_T that every line of the table is judged on.
        quiet: No progress bars.
    """
    from ttune.demo import run_demo

    run_demo(out, steps=steps, samples=samples, progress=not quiet)


def tune(
    out: Path,
    model: str = "fashion",
    sampler: SamplerOrAuto = "ddim",
    steps: tuple[int, ...] = (5,),
    method: Method = "endpoint",
    tune: tuple[Literal["conditioning", "positions", "coefficients"], ...] = ("conditioning", "positions"),
    spacing: Spacing = "leading",
    offset: int = 0,
    t_start: float | None = None,
    final: Literal["zero", "min"] = "zero",
    option: dict[str, str] | None = None,
    residual: str = "samples",
    conditions: str | None = None,
    fix_start: bool = False,
    optimizer: Literal["auto", "backpropagation", "differences", "broyden", "adam"] = "auto",
    samples: int | None = None,
    holdout: int = 256,
    chunk: int = 64,
    iterations: int | None = None,
    search_starts: bool = True,
    guard: bool = True,
    procedure: Literal["sequential", "parallel"] = "sequential",
    operators: Literal["genetic", "cma"] = "genetic",
    fitness: Literal["frechet", "rmse"] = "frechet",
    population: int | None = None,
    rounds: int | None = None,
    budget: float | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> None:
    """Tune a schedule for one model, one sampler and one or several step budgets, and write it to a file.

    Example: ttune tune --model fashion --sampler ddim --steps 5 --out ttune.json

    Several budgets (--steps 4 5 6 8 10) share the teacher, each also begins where the one before it ended, and stand in one file.

    An interrupted run (Ctrl-C, SIGTERM, or killed) goes on with the same command and --resume. The best schedule so far is in
    OUT's name with .partial before .json at any time: usable, but never compared with the start on held-out x_T.

    By several processes or GPUs: torchrun --nproc-per-node 4 -m ttune tune … gives the same result, sharing the x_T in whole chunks
    (so SAMPLES / CHUNK is best a multiple of the processes); --resume goes on with any number of them.

    Args:
        out: The ttune.json to write.
        model: A bundled name (fashion), or package.module:factory, where factory() returns a ttune.Denoiser.
        sampler: The sampler to tune for; a tuned schedule does not carry over to another. With auto the sampler, grid and t_0 that do
            best untuned, over all --steps, on x_T of the tuning.
        steps: Step budgets: network evaluations of one sample, for samplers with one evaluation a step.
        method: endpoint (default), trajectory or local (1-D searches, cheap), optimal_steps (dynamic programming), ays (published
            tables), shifted (times by the variance of each sample), timetuner (the published objective; bundled model only), evolution
            (AutoDiffusion's search for positions, or CMA-ES).
        tune: What endpoint, and evolution with --operators cma, may change: what the network is told, where the steps stand, the
            solver's coefficients.
        spacing: The untuned grid that the result must beat.
        offset: Shift of the leading grid.
        t_start: First position, instead of the largest trained time.
        final: Last position: clean ("zero") or the smallest trained time ("min").
        option: The sampler's own options, for example --option order 3 variant bh1 (see ttune info).
        residual: What is compared with the teacher's: samples, own (and the network's own activations on them), lenet64 (and the
            bundled classifier's features), or package.module:factory, where factory(denoiser) returns a function of samples.
        conditions: package.module:factory, where factory() returns a function of seeds (see ttune.conditions_from); by default the
            model's own draw.
        fix_start: Keep the first position.
        optimizer: Of endpoint. auto takes backpropagation where the network has gradients and there are many parameters, else
            differences of whole runs, which need nothing but calls of the network.
        samples: x_T to tune on; by default 128, with coefficients 256.
        holdout: x_T that decide whether the result is kept.
        chunk: Samples in one network call.
        iterations: Accepted Levenberg-Marquardt iterations at most (30), or for timetuner Adam iterations a step (500, as published).
        search_starts: Begin from several grids.
        guard: Return the start if the result is not better on held-out x_T.
        procedure: timetuner only.
        operators: evolution only: genetic (positions, in whole times where the model is discrete) or cma (whatever --tune names).
        fitness: evolution only: what is to become small, the Fréchet distance to the teacher's samples or the RMSE to them.
        population: evolution only: candidates a round (genetic 50, CMA-ES by the number of parameters).
        rounds: evolution only: as many as judge 500 candidates by default.
        budget: evolution only, for a model whose network is a ttune.Variants: what the evaluations may cost together, in calls of the
            whole network. The grid to beat then has the cheapest network at the noisiest steps.
        guidance_scale: Classifier-free guidance of the bundled model.
        seed: Of the x_T.
        checkpoint: Where progress is remembered; OUT.checkpoint by default, removed at the end.
        resume: Go on from the checkpoint.
        quiet: No progress bars.
    """
    import ttune
    from ttune.atomic import remove_unfinished
    from ttune.models import imported, load_model
    from ttune.tuning import Accepted, Evolution, Teacher, choose_sampler
    from ttune.tuning import checkpoint as checkpoint_files
    from ttune.tuning.budgets import budget_checkpoints

    own = {
        "operators": operators != "genetic",
        "fitness": fitness != "frechet",
        "population": population,
        "rounds": rounds,
        "budget": budget,
    }
    _refuse_ignored(method, "evolution", own)
    _refuse_ignored(method, "timetuner", {"procedure": procedure != "sequential"})
    _refuse_ignored(method, "endpoint", {"optimizer": optimizer != "auto"})
    ranks = current()
    denoiser = _on_own_device(load_model(model, guidance_scale=guidance_scale), ranks)
    drawn = None if conditions is None else imported("conditions", conditions)()
    journal, partial = checkpoint or out.with_name(out.name + ".checkpoint"), out.with_name(f"{out.stem}.partial{out.suffix}")
    journals = budget_checkpoints(journal, steps)
    teacher = choice = None
    if sampler == "auto":
        named = {"spacing": spacing != "leading", "offset": offset, "t_start": t_start is not None, "option": option}
        if any(named.values()):
            raise ValueError(f"sampler: auto chooses the grid too, so {[name for name, is_set in named.items() if is_set]} cannot be given")
        teacher = Teacher.default(ttune.Schedule.build(denoiser.noise, "ddim", max(steps), "linspace", final=final), remember=True)
        journals = [*journals, journal.with_name(f"{journal.name}.choice")]
        settings = {"samples": samples or 128, "chunk": chunk, "conditions": drawn, "teacher": teacher, "final": final, "seed": seed}
        settings |= {"features": _bundled_features(model), "progress": not quiet, "checkpoint": journals[-1]}
        # The first rank chooses for all: on 64 x_T there is little to share.
        choice = ranks.from_first(lambda: choose_sampler(denoiser, steps, **settings, resume=resume and journals[-1].exists()))
        if ranks.first:
            print(choice.summary())
        schedules = list(choice.schedules.values())
    else:
        schedules = [
            ttune.Schedule.build(denoiser.noise, sampler, k, spacing, t_start=t_start, final=final, offset=offset, options=_options(option))
            for k in steps
        ]
    bests: dict[int, ttune.Schedule] = {}

    def accepted(found: Accepted) -> None:
        bests[found.best.steps] = found.best
        _save(bests, partial)

    evolution = None
    if method == "evolution":
        names = tune if operators == "cma" else None
        starts = {"fix_start": fix_start, "search_starts": search_starts}
        evolution = Evolution(operators, fitness, population, rounds=rounds, tune=names, budget=budget, **starts)
        if budget is not None and isinstance(denoiser.network, ttune.Variants):
            schedules = [s.replace(variants=denoiser.network.fitting(len(s.conditioning), budget)) for s in schedules]
    try:
        results = ttune.tune_budgets(
            denoiser,
            schedules,
            method=method if evolution is None else evolution,
            tune=tune,
            residual=imported("residual", residual)(denoiser) if ":" in residual else residual,
            teacher=teacher,
            conditions=drawn,
            data=_bundled_data(model) if method == "timetuner" else None,
            fix_start=fix_start,
            optimizer=optimizer,
            samples=samples,
            holdout=holdout,
            chunk=chunk,
            iterations=30 if iterations is None else iterations,
            search_starts=search_starts,
            features=_bundled_features(model),
            timetuner=ttune.TimeTuner(procedure, iterations=500 if iterations is None else iterations) if method == "timetuner" else None,
            guard=guard,
            seed=seed,
            progress=not quiet,
            checkpoint=journal,
            resume=resume,
            accepted=accepted,
            ranks=ranks,
        )
    except (KeyboardInterrupt, RankLost) as interrupt:
        if ranks.first:
            why = "" if isinstance(interrupt, RankLost) else f"{str(interrupt) or 'Interrupted'}. "
            print(f"\n{why}{_left_behind(journals, partial)}", file=sys.stderr)
        raise
    if not ranks.first:
        return
    _save({k: _recorded(result.schedule, choice) for k, result in results.items()}, out)
    for file in journals:
        checkpoint_files.remove(file)
    partial.unlink(missing_ok=True)
    remove_unfinished(partial)
    print("\n\n".join(result.summary() for result in results.values()))
    print(f"Wrote {out}")


def sample(
    out: Path,
    schedule: Path | None = None,
    model: str = "fashion",
    sampler: Sampler | None = None,
    steps: int | None = None,
    spacing: Spacing = "leading",
    option: dict[str, str] | None = None,
    n: int = 64,
    seed: int = 0,
    condition: dict[str, int] | None = None,
    guidance_scale: float | None = None,
    backend: str | None = None,
    columns: int = 8,
) -> None:
    """Sample images, with a tuned schedule or an untuned grid.

    Example: ttune sample --schedule ttune.json --n 64 --out samples.png

    Args:
        out: A .png (one picture of all samples) or .npz (array "images", float32, in the model's range).
        schedule: A ttune.json. Without one, --sampler, --steps and --spacing make an untuned schedule.
        model: As in ttune tune.
        sampler: Default ddim; with --schedule it must be the schedule's own.
        steps: Default 50; with --schedule, which of several schedules in the file.
        spacing: Untuned only.
        option: Untuned only: the sampler's own options, for example --option eta 0.5 with ddim (see ttune info).
        n: Samples.
        seed: Sample i has seed SEED + i, whatever n is.
        condition: One value for all samples, for example --condition class_label 7.
        guidance_scale: Classifier-free guidance of the bundled model.
        backend: Kernels to use (see ttune info).
        columns: Images in a row of the picture.
    """
    import numpy as np

    import ttune
    from ttune.atomic import write_atomically
    from ttune.evaluation import save_grid
    from ttune.models import load_model
    from ttune.tuning.points import drawn_points

    if out.suffix not in (".png", ".npz"):
        raise ValueError(f"out must end in .png or .npz, got {str(out)!r}")
    denoiser = load_model(model, guidance_scale=guidance_scale)
    if schedule is not None:
        if option:
            raise ValueError(f"option goes with an untuned schedule, --schedule has its own, got {option}")
        if spacing != "leading":
            raise ValueError(f"spacing goes with an untuned schedule, --schedule has its own positions, got {spacing!r}")
        chosen = ttune.Schedule.load(schedule, noise=denoiser.noise, sampler=sampler, steps=steps)
    else:
        chosen = ttune.Schedule.build(denoiser.noise, sampler or "ddim", 50 if steps is None else steps, spacing, options=_options(option))
    seeds = torch.arange(n) + seed
    x_T, conditions = drawn_points(denoiser, seeds)
    conditions = {**conditions, **{k: torch.full((n,), v, device=x_T.device) for k, v in (condition or {}).items()}}
    images = ttune.sample(denoiser, chosen, x_T, conditions=conditions, seeds=seeds, backend=backend)
    if out.suffix == ".png":
        save_grid(out, images, columns)
    else:
        import io

        buffer = io.BytesIO()
        np.savez_compressed(buffer, images=images.float().cpu().numpy())
        write_atomically(out, buffer.getvalue())
    print(f"Wrote {n} samples of {chosen.steps} steps to {out}")


def evaluate(
    schedules: tyro.conf.Positional[tuple[Path, ...]],
    model: str = "fashion",
    steps: tuple[int, ...] | None = None,
    n: Annotated[int, tyro.conf.arg(aliases=["--samples"])] = 1000,
    chunk: int = 64,
    seed: int = 2**40,
    features: Literal["lenet64", "inception"] = "lenet64",
    inception: Path | None = None,
    teacher: bool = True,
    guidance_scale: float | None = None,
    out: Path | None = None,
    quiet: bool = False,
) -> None:
    """Judge tuned schedules: RMSE and Fréchet distance to the teacher, Fréchet distance to real images.

    Example: ttune evaluate runs/demo/ddim.json runs/demo/dpmpp_2m.json --n 1000 --out evaluation.json

    By several processes or GPUs: torchrun --nproc-per-node 4 -m ttune evaluate … --samples 1000 gives the same table.

    Args:
        schedules: One or more ttune.json files.
        model: As in ttune tune.
        steps: Of files of several schedules, those of these steps; by default all.
        n: Samples (--samples under torchrun, which takes --n for an option of its own).
        chunk: Samples in one network call.
        seed: Sample i has seed SEED + i; the default never meets the x_T of a tuning with seed 0.
        features: lenet64 (bundled, Fashion-MNIST) or inception (clean-fid's weights, not downloaded).
        inception: Path of inception-2015-12-05.pt; by default clean-fid's own place.
        teacher: Also sample the teacher (128 steps) and compare with it.
        guidance_scale: Classifier-free guidance of the bundled model.
        out: Write the table as JSON.
        quiet: No progress bars.
    """
    import ttune
    from ttune.evaluation import inception as inception_features
    from ttune.evaluation import lenet64, lenet64_train_statistics, print_table, write_report
    from ttune.evaluation.judge import Judge
    from ttune.evaluation.statistics import FeatureStatistics
    from ttune.models import load_model
    from ttune.tuning import Teacher
    from ttune.tuning.points import drawn_points
    from ttune.zoo.fashion_mnist import load_test_images, to_unit_range

    if not schedules:
        raise ValueError("schedules must name at least one ttune.json, got none")
    ranks = current()
    denoiser = _on_own_device(load_model(model, guidance_scale=guidance_scale), ranks)
    loaded = [named for path in schedules for named in _named_schedules(path, denoiser.noise, steps)]
    extractor = lenet64() if features == "lenet64" else inception_features(inception)
    real = None
    if model == "fashion":
        images = to_unit_range(load_test_images()[0]) if features == "inception" else None
        real = lenet64_train_statistics() if images is None else FeatureStatistics.of_features(extractor(images), extractor.name)
    share = ranks.share(n, chunk)
    share.check("n")
    seeds = share.rows + seed
    x_T, conditions = drawn_points(denoiser, seeds)
    bars = not quiet and ranks.first
    judge = Judge(denoiser, x_T, conditions, extractor, real, chunk=chunk, progress=bars, share=share, seeds=seeds)
    rows = []
    if teacher:
        best = Teacher.default(loaded[0][1])
        source = (best.on_whole_times() if denoiser.integer_time else best).source
        assert isinstance(source, ttune.Schedule)
        row, target = judge.row(f"teacher: 2M, {source.steps} steps", "teacher", source)
        judge = judge.with_teacher(target)
        rows.append(row)
    rows = [judge.row(name, _method_of(s), s)[0] for name, s in loaded] + rows
    if not ranks.first:
        return
    print(print_table(rows))
    if out is not None:
        write_report(out, {"model": model, "rows": rows})
        print(f"Wrote {out}")


def compare(
    out: Path,
    methods: tuple[str, ...] = tuple(METHODS),
    model: str = "fashion",
    samplers: tuple[Sampler, ...] = ("ddim", "dpmpp_2m"),
    steps: tuple[int, ...] = (3, 4, 5, 6, 8, 10),
    curve: int = 20,
    references: tuple[Sampler, ...] = (),
    samples: int = 128,
    holdout: int = 256,
    held_out: int = 1000,
    chunk: int = 64,
    data: str | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> None:
    """Tune with several methods on the same x_T, and judge all of them, and the best untuned grids, on x_T that no tuning saw.

    Example: ttune compare --methods endpoint trajectory timetuner:procedure=parallel,iterations=100 --steps 5 --out runs/compare

    A method is written [label=]method[@best][:field=value,...]: the fields are its settings (ttune.tuning's dataclasses), the words
    of a list are joined by +, as in all=endpoint:tune=conditioning+positions,iterations=50. Without a label the text is the label.
    Tunings start from the leading grid, with @best from the best untuned grid, and are charged for the search.
    The same command goes on where an earlier one stopped; several processes may run it at once with the same --out and share the work.

    Args:
        out: Folder: comparison.json has the settings, cells/ every finished cell, report.json, .txt, .md and .png the outcome.
        methods: Methods and their settings.
        model: As in ttune tune.
        samplers: Samplers.
        steps: Step budgets.
        curve: The best untuned grids of 3 steps up to this many are there to say how many untuned steps a tuned schedule is worth.
        references: More samplers whose best untuned grids are there too, at the budgets and twice that.
        samples: x_T to tune on.
        holdout: x_T of each tuning's own guard.
        held_out: x_T that the figures are measured on.
        chunk: Samples in one network call.
        data: package.module:factory that returns clean samples (n, ...), for the methods that need them (the bundled model has its own).
        guidance_scale: Classifier-free guidance of the bundled model.
        seed: Of the tuning x_T.
        quiet: No progress bars.
    """
    import ttune
    from ttune.models import imported, load_model

    denoiser = load_model(model, guidance_scale=guidance_scale)
    clean = _bundled_data(model) if data is None and model == "fashion" else None if data is None else imported("data", data)()
    features = _bundled_features(model)
    comparison = ttune.compare(
        denoiser,
        methods,
        samplers=samplers,
        steps=steps,
        curve=range(3, curve + 1),
        references=references,
        samples=samples,
        holdout=holdout,
        held_out=held_out,
        chunk=chunk,
        data=clean,
        features=features,
        real=_real_statistics(model, clean, features),
        seed=seed,
        work=out,
        progress=not quiet,
    )
    files = comparison.save(out / "report.json")
    print(comparison.table())
    print(f"Wrote {', '.join(map(str, files))}")
    if comparison.failed:
        raise ValueError(f"{len(comparison.failed)} cells failed (see above); the same command tries them again")


def analytic(
    out: Path,
    model: str = "fashion",
    sampler: Literal["ddpm", "ddim"] = "ddpm",
    steps: int = 10,
    spacing: Spacing = "leading",
    eta: float = 0.0,
    samples: int = 1000,
    chunk: int = 256,
    seed: int = 0,
    quiet: bool = False,
) -> None:
    """Estimate the optimal variance of every step from real images (Analytic-DPM), and write a schedule that has it.

    Example: ttune analytic --sampler ddpm --steps 10 --out analytic.json

    Args:
        out: The ttune.json to write; ttune sample takes it like any other.
        model: The bundled one (fashion), whose images are at hand. For others: ttune.estimate_gammas in Python.
        sampler: ddpm (Analytic-DPM) or ddim (Analytic-DDIM).
        steps: Step budget.
        spacing: The grid.
        eta: ddim only.
        samples: Real images, at most 10,000.
        chunk: Samples in one network call.
        seed: Of the noise.
        quiet: No progress bars.
    """
    import ttune
    from ttune.models import load_model

    denoiser = load_model(model)
    images, conditions = _bundled_data(model)
    if not 1 <= samples <= len(images):
        raise ValueError(f"samples must lie in [1, {len(images)}], got {samples}")
    plain = ttune.Schedule.build(denoiser.noise, sampler, steps, spacing, eta=eta)
    gammas = ttune.estimate_gammas(
        denoiser,
        plain,
        images[:samples],
        conditions={name: value[:samples] for name, value in conditions.items()},
        seeds=torch.arange(samples) + seed,
        chunk=chunk,
        progress=not quiet,
    )
    options = {"gammas": gammas} | ({"variance": "analytic"} if sampler == "ddpm" else {})
    schedule = plain.replace(options=options)
    schedule.save(out)
    print(schedule.tableau())
    print(f"Wrote {out}")


def info() -> None:
    """Versions, backends and why one is not available, samplers, grids, bundled models.

    Example: ttune info
    """
    import platform

    import numpy as np

    import ttune
    from ttune import zoo
    from ttune.grids import GRIDS

    print(f"ttune {ttune.__version__}, torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}")
    print(
        f"threads {torch.get_num_threads()}, CPU capability {torch.backends.cpu.get_cpu_capability()}, CUDA {torch.version.cuda or 'none'}"
    )
    for name, state in ttune.backends().items():
        served = f"{state['detail']}; serves {', '.join(state['operators'])}"
        print(f"backend {name:10s} {served if state['available'] else 'not available: ' + state['reason']}")
    print("samplers")
    for name in SAMPLERS:
        own = ", ".join(f"{option}={value!r}" for option, value in sampler_options(name).items())
        print(f"  {name}{f' ({own})' if own else ''}")
    print(f"grids {', '.join(GRIDS)}")
    print(f"bundled models {', '.join(zoo.MODELS)}")


def _save(schedules: Mapping[int, Schedule], path: Path) -> None:
    """One schedule in a file of its own, several in one file."""
    import ttune

    if len(schedules) == 1:
        next(iter(schedules.values())).save(path)
    else:
        ttune.save_schedules(schedules, path)


def _recorded(schedule: Schedule, choice: Choice | None) -> Schedule:
    """The schedule with what it cost to choose its sampler, if that was chosen."""
    return schedule if choice is None else schedule.replace(tuned={**schedule.tuned, "choice": choice.cost})


def _left_behind(journals: Sequence[Path], partial: Path) -> str:
    """What an interrupted tuning has on disk."""
    begun = [journal for journal in journals if journal.exists()]
    if not begun:
        return "Nothing had been finished yet."
    best = (
        f" The best schedule so far is {partial}: usable, but not yet compared with the start on held-out x_T." if partial.exists() else ""
    )
    return f"What was found is in {', '.join(map(str, begun))}; the same command with --resume goes on from there.{best}"


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command the way that Ctrl-C does."""


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM as an exception meanwhile; in another thread than the main one signals are somebody else's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> NoReturn:
        raise Terminated("Terminated")

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _on_own_device(denoiser: Denoiser, ranks: Ranks) -> Denoiser:
    """Of several processes on a machine with GPUs each has its own, the current one; networks that are no modules must see to it."""
    if ranks.world > 1 and torch.cuda.is_available():
        for module in denoiser.modules():
            module.to("cuda")
    return denoiser


def _method_of(schedule: Schedule) -> str:
    """For a table."""
    return f"{schedule.tuned.get('method', 'base')}{', unfinished' if 'unfinished' in schedule.tuned else ''}"


def _refuse_ignored(method: str, owner: str, given: Mapping[str, Any]) -> None:
    """ValueError for settings of one method that were given with another, which would not look at them."""
    names = [name for name, value in given.items() if value is not None and value is not False]
    if method != owner and names:
        raise ValueError(f"{' and '.join(names)}: only --method {owner} knows this, got --method {method}")


def _options(given: dict[str, str] | None) -> dict[str, float | str | bool]:
    """Words of the command line as the numbers and truth values that they spell."""
    options: dict[str, float | str | bool] = {}
    for name, word in (given or {}).items():
        try:
            options[name] = int(word) if word.lstrip("+-").isdigit() else float(word)
        except ValueError:
            options[name] = {"true": True, "false": False}.get(word.lower(), word)
    return options


def _named_schedules(path: Path, noise: NoiseSchedule, steps: tuple[int, ...] | None) -> list[tuple[str, Schedule]]:
    """The schedules of a file with names for a table: the file's, and the number of steps where there are several."""
    import ttune

    found = ttune.load_schedules(path, noise=noise)
    for k in steps or ():
        if k not in found:
            raise ValueError(f"{path}: steps must be among {list(found)}, of which there is a schedule in this file, got {k}")
    return [(f"{path}, {k} steps" if len(found) > 1 else str(path), s) for k, s in found.items() if steps is None or k in steps]


def _bundled_data(model: str) -> Any:
    if model != "fashion":
        raise ValueError(f"clean images are needed, which the command line has for the bundled model (fashion) only, got {model!r}")
    from ttune.zoo.fashion_mnist import load_test_images, to_unit_range

    images, labels = load_test_images()
    return to_unit_range(images), {"class_label": labels}


def _bundled_features(model: str) -> Any:
    from ttune.evaluation import lenet64

    return lenet64() if model == "fashion" else None


def _real_statistics(model: str, clean: Any, features: Any) -> Any:
    """Of real images in the features that samples are compared in."""
    from ttune.evaluation import lenet64_train_statistics
    from ttune.evaluation.statistics import FeatureStatistics
    from ttune.tuning.search import pooled_features

    if features is not None:
        return lenet64_train_statistics()
    images = clean[0] if isinstance(clean, tuple) else clean
    return None if images is None else FeatureStatistics.of_features(pooled_features(images), "pooled pixels")


SHARED = ("tune", "evaluate")  # what several processes can do together
COMMANDS = {"demo": demo, "tune": tune, "sample": sample, "evaluate": evaluate, "compare": compare, "analytic": analytic, "info": info}


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a mistake in the arguments or the files is one line on stderr and exit status 1."""

    command = next(iter(sys.argv[1:] if arguments is None else arguments), "")
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and command in COMMANDS and command not in SHARED:
            raise ValueError(f"ttune {command} runs in one process; start it without torchrun")
        with _terminable(), joined():
            tyro.extras.subcommand_cli_from_dict(COMMANDS, args=arguments, prog="ttune", description=__doc__)
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError, RankLost) as error:
        if os.environ.get("TTUNE_TRACEBACK"):
            raise
        rank = f"rank {os.environ.get('RANK')}: " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
        sys.exit(f"ttune: {rank}{error}")
    except KeyboardInterrupt as interrupt:
        sys.exit(128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT))


if __name__ == "__main__":
    main()
