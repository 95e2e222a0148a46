"""``ttune tune``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ttune.cli.arguments import ModelFlags, SamplerOrAuto, UntunedFlags, as_words, check_paths
from ttune.cli.models import bundled_data, bundled_features, imported
from ttune.distributed import RankLost, Ranks, current
from ttune.tuning.options import TuneOptions

if TYPE_CHECKING:
    from ttune.network.denoiser import Denoiser
    from ttune.schedule.schedule import Schedule
    from ttune.tuning import Accepted, SamplerChoice, Teacher, TuneResult

    TuneFlags = TuneOptions
else:
    TuneFlags = as_words(
        TuneOptions,
        method=str,
        residual=str,
        tune=Literal["all", "portable"] | tuple[Literal["network_times", "times", "coefficients"], ...],
        objective=Literal["endpoint", "distribution"],
        reference=str | None,
        detail=str | None,
    )


@dataclass(frozen=True, kw_only=True)
class Tune:
    """Tune a schedule for one model, one sampler and one or several step budgets, and write it to a file.

    Example: ttune tune --model fashion --sampler ddim --steps 5 --out ttune.json

    Example: ttune tune --model fashion --sampler auto --steps 4 5 6 8 10 --tune all --out ttune.json

    Example: ttune tune --model fashion --sampler dpmpp_2m --objective distribution --reference fashion --out ttune.json

    Several budgets share the teacher, each also begins where the one before it ended, and are in one file.

    An interrupted run (Ctrl-C, SIGTERM, or killed) goes on with the same command and --resume. The best schedule so far is in
    OUT's name with .partial before .json at any time: it can be used, but has not been validated yet.

    By several processes or GPUs: torchrun --nproc-per-node 4 -m ttune tune … gives the same result. They share the starting noises in
    whole batches, so SAMPLES / BATCH_SIZE is best a multiple of the processes; --resume goes on with any number of them.
    """

    out: Path
    """The ttune.json to write."""
    model: str
    """A bundled name (fashion, emoji), a diffusers folder or hub id, or package.module:factory that returns a ttune.Denoiser."""
    sampler: SamplerOrAuto = "ddim"
    """The sampler to tune for; auto takes the sampler, spacing and first time that do best untuned."""
    steps: tuple[int, ...] = (5,)
    """Numbers of steps; a step is one network evaluation for most samplers."""
    conditions: str | None = None
    """package.module:factory that returns a function of seeds; by default the model's own draw."""
    checkpoint: Path | None = None
    """Where progress is remembered; by default OUT.checkpoint, removed at the end."""
    quiet: bool = False
    """No progress bars."""
    tuning: TuneFlags = TuneFlags()  # noqa: RUF009 (frozen)
    """What is tuned, and how."""
    untuned: UntunedFlags = UntunedFlags()
    """The schedule that tuning begins with, and has to beat."""
    loading: ModelFlags = ModelFlags()

    def run(self) -> None:
        import ttune

        files = self._checked()
        ranks, tuning = current(), self.tuning
        denoiser = self.loading.load(self.model, ranks)
        given = vars(tuning) | self._settings(denoiser)
        choice = None
        if self.sampler == "auto":
            given["teacher"], choice = self._choice(denoiser, given, files, ranks)
            schedules = list(choice.schedules.values())
        else:
            schedules = [self.untuned.build(denoiser.noise, self.sampler, k) for k in self.steps]
            files.check_holds(schedules)
        if (budget := getattr(tuning.chosen_method(), "budget", None)) is not None and isinstance(denoiser.network, ttune.Variants):
            schedules = [s.replace(variants=denoiser.network.fitting(len(s.network_times), budget)) for s in schedules]
        given |= {"checkpoint": files.journal, "accepted": files.keep_best(), "ranks": ranks}
        with files.named_on_interrupt(ranks):
            results = ttune.tune_budgets(denoiser, schedules, **given)
        if ranks.first:
            # With what it cost to choose the sampler, if that was chosen; a start that is returned has its record too.
            more = {} if choice is None else {"choice": choice.cost}
            files.finish({k: result.schedule.replace(tuned={**result.record, **more}) for k, result in results.items()})
            print("\n\n".join(result.summary() for result in results.values()))
            print(f"Wrote {self.out}: {_written(results)}")

    def _checked(self) -> TuningFiles:
        """The files to write; everything that can be refused before the model is loaded is refused."""
        from ttune.tuning.starting_points import check_draws

        tuning, prompts = self.tuning, self.loading.prompts
        tuning.chosen_method()
        check_paths(out=self.out, prompts=prompts, checkpoint=self.checkpoint)
        counts = {"samples": 2 if tuning.samples is None else tuning.samples, "validation_samples": tuning.validation_samples}
        check_draws(tuning.seed, tuning.batch_size, **counts)
        files = TuningFiles.beside(self.out, self.checkpoint, self.steps, choice=self.sampler == "auto")
        files.check(prompts)
        return files

    def _settings(self, denoiser: Denoiser) -> dict[str, Any]:
        """What words mean, and what the bundled model has at hand."""
        residual = str(self.tuning.residual)
        return {
            "conditions": None if self.conditions is None else imported("conditions", self.conditions)(),
            "residual": imported("residual", residual)(denoiser) if ":" in residual else residual,
            "features": bundled_features(self.model),
            "data": bundled_data(self.model) if self.tuning.chosen_method().name == "timetuner" else None,
            "progress": not self.quiet,
        }

    def _choice(self, denoiser: Denoiser, given: Mapping[str, Any], files: TuningFiles, ranks: Ranks) -> tuple[Teacher, SamplerChoice]:
        """The teacher, and the sampler with its schedules; the first rank chooses for all: on 64 x_T there is little to share."""
        import ttune
        from ttune.tuning import Teacher, choose_sampler

        if changed := self.untuned.changed(but="final"):
            raise ValueError(f"sampler: auto chooses the spacing too, so {changed} cannot be given; name a --sampler with it")
        final, journal = self.untuned.final, files.journals[-1]
        grids = [ttune.Schedule.build(denoiser.noise, "ddim", k, "linspace", final=final) for k in sorted(set(self.steps))]
        files.check_holds(grids)
        teacher = Teacher.default(grids[-1], remember=True)
        shared = ("conditions", "features", "progress", "seed", "batch_size")
        settings = {name: given[name] for name in shared} | {"teacher": teacher, "final": final, "checkpoint": journal}
        settings |= {} if self.tuning.samples is None else {"samples": self.tuning.samples}
        with files.named_on_interrupt(ranks):
            resume = self.tuning.resume and journal.exists()
            choice = ranks.from_first(lambda: choose_sampler(denoiser, self.steps, **settings, resume=resume))
        if ranks.first:
            print(choice.summary())
        return teacher, choice


@dataclass(frozen=True)
class TuningFiles:
    """What a tuning writes: its result, meanwhile the best so far, and a checkpoint for every budget and the choice of a sampler."""

    out: Path
    partial: Path
    journal: Path
    journals: tuple[Path, ...]

    @classmethod
    def beside(cls, out: Path, checkpoint: Path | None, steps: Sequence[int], *, choice: bool) -> TuningFiles:
        from ttune.tuning.budgets import budget_checkpoints

        journal = checkpoint or out.with_name(f"{out.name}.checkpoint")
        more = [journal.with_name(f"{journal.name}.choice")] if choice else []
        return cls(out, out.with_name(f"{out.stem}.partial{out.suffix}"), journal, (*budget_checkpoints(journal, steps), *more))

    def check(self, prompts: Path | None) -> None:
        """ValueError if two of the files are one, which would overwrite each other; OSError for one that cannot be written."""
        from ttune.storage.atomic_write import check_writable
        from ttune.tuning.checkpoint import files_of

        written = [("out", self.out), ("out's partial file", self.partial)]
        written += [("checkpoint", file) for journal in self.journals for file in files_of(journal)]
        taken: dict[str, str] = {}
        for name, file in dict.fromkeys([*written, *([] if prompts is None else [("prompts", prompts)])]):
            place = os.path.realpath(file)
            if place in taken:
                raise ValueError(f"{taken[place]} and {name} must be different files, got {place} for both")
            taken[place] = name
        for _, file in written:
            check_writable(file)

    def check_holds(self, schedules: Sequence[Schedule]) -> None:
        """ValueError for schedules that one file cannot hold."""
        from ttune.schedule.collection import check_storable

        check_storable(schedules, self.out)

    def keep_best(self) -> Any:
        """For ``accepted`` of a tuning: the best schedule of every budget so far, in the partial file."""
        bests: dict[int, Schedule] = {}

        def accepted(found: Accepted) -> None:
            bests[found.best.steps] = found.best
            _save(bests, self.partial)

        return accepted

    def finish(self, schedules: Mapping[int, Schedule]) -> None:
        """The result, in the place of everything else."""
        from ttune.storage.atomic_write import remove_unfinished
        from ttune.tuning import checkpoint

        _save(schedules, self.out)
        for journal in self.journals:
            checkpoint.remove(journal)
        remove_unfinished(self.partial)
        Path(os.path.realpath(self.partial)).unlink(missing_ok=True)

    @contextmanager
    def named_on_interrupt(self, ranks: Ranks) -> Iterator[None]:
        """An interrupt, or a rank that was lost, goes on its way; the first rank says what is on disk."""
        try:
            yield
        except (KeyboardInterrupt, RankLost) as interrupt:
            if ranks.first:
                why = "" if isinstance(interrupt, RankLost) else f"{str(interrupt) or 'Interrupted'}. "
                print(f"\n{why}{self._left()}", file=sys.stderr)
            raise

    def _left(self) -> str:
        begun = [str(journal) for journal in self.journals if journal.exists()]
        if not begun:
            return "Nothing had been finished yet."
        best = f" The best schedule so far is {self.partial}: it can be used, but has not been validated yet."
        return f"What was found is in {', '.join(begun)}; the same command with --resume goes on from there.{best * self.partial.exists()}"


def _save(schedules: Mapping[int, Schedule], path: Path) -> None:
    """One schedule in a file of its own, several in one file."""
    import ttune

    if len(schedules) == 1:
        next(iter(schedules.values())).save(path)
    else:
        ttune.save_schedules(schedules, path)


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
