"""Whether a resumed tuning has the network that it began with, where that is a function without weights to compare."""

from __future__ import annotations

from ttune.sampling.sample import sample
from ttune.schedule.schedule import Schedule
from ttune.tuning.problem import Problem
from ttune.tuning.teacher import Teacher

# Of the teacher's sample, root mean square. Rounding on another machine is far below it, another network far above.
TOLERANCE = 0.02


def check_same_function(problem: Problem, teacher: Teacher) -> None:
    """ValueError if the teacher's first sample is not roughly the one that the checkpoint remembers.

    For modules the digest of their weights says so, exactly, and a teacher that is a function does not use the network. The
    evaluations were paid for before the interruption, and are not counted.
    """
    denoiser, schedule = problem.denoiser, teacher.source
    if denoiser.modules() or not isinstance(schedule, Schedule) or schedule.tableau().stochastic:
        return
    counted = denoiser.evaluations, denoiser.spent

    def difference(first: Problem) -> float:
        x_0 = sample(denoiser, schedule, first.x_T, conditions=first.conditions)
        return float((x_0 - first.target).double().norm() / first.target.double().norm())

    found = problem.by_first(1, difference)
    denoiser.evaluations, denoiser.spent = counted
    if not found <= TOLERANCE:
        raise ValueError(
            "resume: the network is another function than that of the checkpoint: the teacher's first sample must be within "
            f"{TOLERANCE:.0%} of the one remembered, is {found:.1%} away; give the same network, or start without resume"
        )
