"""``ttune tune``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ttune.cli.arguments import Flags, Method, ModelFlags, SamplerOrAuto, Spacing, check_paths, options_of
from ttune.cli.bundled import bundled_data, bundled_features
from ttune.distributed import RankLost, Ranks, current

if TYPE_CHECKING:
    from ttune.schedule.schedule import Schedule
    from ttune.tuning import SamplerChoice, TuneResult


def tune(
    out: Path,
    model: str = "fashion",
    sampler: SamplerOrAuto = "ddim",
    steps: tuple[int, ...] = (5,),
    method: Method = "endpoint",
    tune: tuple[Literal["network_times", "times", "coefficients"], ...] = ("network_times", "times"),
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
    validation_samples: int = 256,
    batch_size: int = 64,
    iterations: int | None = None,
    search_starts: bool = True,
    fallback: bool = True,
    procedure: Literal["sequential", "parallel"] = "sequential",
    operators: Literal["genetic", "cma"] = "genetic",
    fitness: Literal["frechet", "rmse"] = "frechet",
    population: int | None = None,
    rounds: int | None = None,
    budget: float | None = None,
    check_model: bool = True,
    flags: Flags = ModelFlags(),  # noqa: B008 (frozen)
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> None:
    """Tune a schedule for one model, one sampler and one or several step budgets, and write it to a file.

    Example: ttune tune --model fashion --sampler ddim --steps 5 --out ttune.json

    Several budgets (--steps 4 5 6 8 10) share the teacher, each also begins where the one before it ended, and stand in one file.

    An interrupted run (Ctrl-C, SIGTERM, or killed) goes on with the same command and --resume. The best schedule so far is in
    OUT's name with .partial before .json at any time: it can be used, but has not been validated yet.

    By several processes or GPUs: torchrun --nproc-per-node 4 -m ttune tune … gives the same result, sharing the x_T in whole chunks
    (so SAMPLES / CHUNK is best a multiple of the processes); --resume goes on with any number of them.

    Args:
        out: The ttune.json to write.
        model: A bundled name (fashion), a local folder of a diffusers pipeline (or its hub id, which needs a network), or
            package.module:factory, where factory() returns a ttune.Denoiser (which imports and runs that module).
        sampler: The sampler to tune for; a tuned schedule does not carry over to another. With auto the sampler, grid and t_0 that do
            best untuned, over all --steps, on x_T of the tuning.
        steps: Step budgets: network evaluations of one sample, for samplers with one evaluation a step.
        method: endpoint (default), trajectory or local (1-D searches, cheap), optimal_steps (dynamic programming), ays (published
            tables), shifted (times by the variance of each sample), timetuner (the published objective; bundled model only), evolution
            (AutoDiffusion's search for times, or CMA-ES).
        tune: What endpoint, and evolution with --operators cma, may change: the times that the network is passed, the times of the
            steps, the solver's coefficients.
        spacing: The untuned grid that the result must beat.
        offset: Offset of the leading grid's timesteps (diffusers' steps_offset).
        t_start: First time, instead of the largest trained time.
        final: Last time: clean ("zero") or the smallest trained time ("min").
        option: The sampler's own options, for example --option order 3 variant bh1 (see ttune info).
        residual: What is compared with the teacher's: samples, own (and the network's own activations on them), lenet64 (and the
            bundled classifier's features), or package.module:factory, where factory(denoiser) returns a function of samples.
        conditions: package.module:factory, where factory() returns a function of seeds (see ttune.conditions_from); by default the
            model's own draw.
        fix_start: Keep the first time.
        optimizer: Of endpoint. auto takes backpropagation where the network has gradients and there are many parameters, else
            differences of whole runs, which need nothing but calls of the network.
        samples: x_T to tune on; by default 128, with coefficients 256.
        validation_samples: x_T for validation: the tuned schedule is returned only if it is better on these.
        batch_size: Samples in one network call.
        iterations: Accepted Levenberg-Marquardt iterations at most (30), or for timetuner Adam iterations a step (500, as published).
        search_starts: Begin from several grids.
        fallback: Return an untuned schedule, the best one or the start, if the tuned one is not better on the x_T for validation.
        procedure: timetuner only.
        operators: evolution only: genetic (times, in whole times where the model is discrete) or cma (whatever --tune names).
        fitness: evolution only: what is to become small, the Fréchet distance to the teacher's samples or the RMSE to them.
        population: evolution only: candidates a round (genetic 50, CMA-ES by the number of parameters).
        rounds: evolution only: as many as judge 500 candidates by default.
        budget: evolution only, for a model whose network is a ttune.Variants: what the evaluations may cost together, in calls of the
            whole network. The grid to beat then has the cheapest network at the noisiest steps.
        check_model: With --resume: refuse a checkpoint of another model or of other weights.
        flags: How the model is loaded.
        seed: Random seed of the starting noise.
        checkpoint: Where progress is remembered; OUT.checkpoint by default, removed at the end.
        resume: Go on from the checkpoint.
        quiet: No progress bars.
    """
    import ttune
    from ttune.cli.models import imported
    from ttune.schedule.collection import check_storable
    from ttune.storage.atomic_write import remove_unfinished
    from ttune.tuning import Accepted, Evolution, Teacher, choose_sampler
    from ttune.tuning import checkpoint as checkpoint_files
    from ttune.tuning.budgets import budget_checkpoints
    from ttune.tuning.starting_points import check_draws

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
    if method == "evolution" and operators == "genetic" and tune != ("network_times", "times"):
        raise ValueError(f"tune: --operators genetic searches times, only --operators cma knows this, got {' '.join(tune)}")
    check_paths(out=out, prompts=flags.prompts, checkpoint=checkpoint)
    journal, partial = checkpoint or out.with_name(out.name + ".checkpoint"), out.with_name(f"{out.stem}.partial{out.suffix}")
    journals = [*budget_checkpoints(journal, steps), *([journal.with_name(f"{journal.name}.choice")] if sampler == "auto" else [])]
    check_draws(seed, batch_size, samples=2 if samples is None else samples, validation_samples=validation_samples)
    _check_files(out, partial, journals, flags.prompts)
    ranks = current()
    denoiser = flags.load(model, ranks)
    drawn = None if conditions is None else imported("conditions", conditions)()
    teacher = choice = None
    if sampler == "auto":
        named = {"spacing": spacing != "leading", "offset": offset, "t_start": t_start is not None, "option": option}
        if any(named.values()):
            raise ValueError(f"sampler: auto chooses the grid too, so {[name for name, is_set in named.items() if is_set]} cannot be given")
        check_storable([ttune.Schedule.build(denoiser.noise, "ddim", k, "linspace", final=final) for k in set(steps)], out)
        teacher = Teacher.default(ttune.Schedule.build(denoiser.noise, "ddim", max(steps), "linspace", final=final), remember=True)
        settings = {
            "samples": samples or 128,
            "batch_size": batch_size,
            "conditions": drawn,
            "teacher": teacher,
            "final": final,
            "seed": seed,
        }
        settings |= {"features": bundled_features(model), "progress": not quiet, "checkpoint": journals[-1]}
        # The first rank chooses for all: on 64 x_T there is little to share.
        with _telling_what_is_left(journals, partial, ranks):
            choice = ranks.from_first(lambda: choose_sampler(denoiser, steps, **settings, resume=resume and journals[-1].exists()))
        if ranks.first:
            print(choice.summary())
        schedules = list(choice.schedules.values())
    else:
        schedules = [
            ttune.Schedule.build(
                denoiser.noise, sampler, k, spacing, t_start=t_start, final=final, offset=offset, options=options_of(option, sampler)
            )
            for k in steps
        ]
        check_storable(schedules, out)
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
            schedules = [s.replace(variants=denoiser.network.fitting(len(s.network_times), budget)) for s in schedules]
    with _telling_what_is_left(journals, partial, ranks):
        results = ttune.tune_budgets(
            denoiser,
            schedules,
            method=method if evolution is None else evolution,
            tune=tune,
            residual=imported("residual", residual)(denoiser) if ":" in residual else residual,
            teacher=teacher,
            conditions=drawn,
            data=bundled_data(model) if method == "timetuner" else None,
            fix_start=fix_start,
            optimizer=optimizer,
            samples=samples,
            validation_samples=validation_samples,
            batch_size=batch_size,
            iterations=30 if iterations is None else iterations,
            search_starts=search_starts,
            features=bundled_features(model),
            timetuner=ttune.TimeTuner(procedure, iterations=500 if iterations is None else iterations) if method == "timetuner" else None,
            fallback=fallback,
            seed=seed,
            progress=not quiet,
            checkpoint=journal,
            resume=resume,
            accepted=accepted,
            ranks=ranks,
            check_model=check_model,
        )
    if not ranks.first:
        return
    _save({k: _recorded(result, choice) for k, result in results.items()}, out)
    for file in journals:
        checkpoint_files.remove(file)
    remove_unfinished(partial)
    Path(os.path.realpath(partial)).unlink(missing_ok=True)
    print("\n\n".join(result.summary() for result in results.values()))
    print(f"Wrote {out}: {_written(results)}")


def _check_files(out: Path, partial: Path, journals: Sequence[Path], prompts: Path | None) -> None:
    """ValueError if two of a tuning's files are one, which would overwrite each other; OSError for one that cannot be written."""
    from ttune.storage.atomic_write import check_writable
    from ttune.tuning.checkpoint import files_of

    named = [("out", out), ("out's partial file", partial), *(("checkpoint", file) for j in journals for file in files_of(j))]
    named += [] if prompts is None else [("prompts", prompts)]
    taken: dict[str, str] = {}
    for name, file in dict.fromkeys(named):
        place = os.path.realpath(file)
        if place in taken:
            raise ValueError(f"{taken[place]} and {name} must be different files, got {place} for both")
        taken[place] = name
    for file in (out, partial, *(file for journal in journals for file in files_of(journal))):
        check_writable(file)


def _save(schedules: Mapping[int, Schedule], path: Path) -> None:
    """One schedule in a file of its own, several in one file."""
    import ttune

    if len(schedules) == 1:
        next(iter(schedules.values())).save(path)
    else:
        ttune.save_schedules(schedules, path)


def _recorded(result: TuneResult, choice: SamplerChoice | None) -> Schedule:
    """The schedule with how its tuning went, the start's too, and what it cost to choose its sampler, if that was chosen."""
    more = {} if choice is None else {"choice": choice.cost}
    return result.schedule.replace(tuned={**result.record, **more})


def _written(results: Mapping[int, TuneResult]) -> str:
    """What the file holds, by the outcomes of its schedules."""
    names = {
        "tuned": "tuned",
        "untuned": "tuning did not help, the best untuned schedule",
        "start": "tuning did not help, the untuned start",
    }
    return "; ".join(
        f"{names[outcome]} ({', '.join(str(k) for k, r in results.items() if r.outcome == outcome)} steps)"
        for outcome in dict.fromkeys(result.outcome for result in results.values())
    )


@contextmanager
def _telling_what_is_left(journals: Sequence[Path], partial: Path, ranks: Ranks) -> Iterator[None]:
    """An interrupt, or a rank that was lost, goes on its way; the first rank says what is on disk."""
    try:
        yield
    except (KeyboardInterrupt, RankLost) as interrupt:
        if ranks.first:
            why = "" if isinstance(interrupt, RankLost) else f"{str(interrupt) or 'Interrupted'}. "
            print(f"\n{why}{_left_behind(journals, partial)}", file=sys.stderr)
        raise


def _left_behind(journals: Sequence[Path], partial: Path) -> str:
    """What an interrupted tuning has on disk."""
    begun = [journal for journal in journals if journal.exists()]
    if not begun:
        return "Nothing had been finished yet."
    best = f" The best schedule so far is {partial}: it can be used, but has not been validated yet." if partial.exists() else ""
    return f"What was found is in {', '.join(map(str, begun))}; the same command with --resume goes on from there.{best}"


def _refuse_ignored(method: str, owner: str, given: Mapping[str, Any]) -> None:
    """ValueError for settings of one method that were given with another, which would not look at them."""
    names = [name for name, value in given.items() if value is not None and value is not False]
    if method != owner and names:
        raise ValueError(f"{' and '.join(names)}: only --method {owner} knows this, got --method {method}")
