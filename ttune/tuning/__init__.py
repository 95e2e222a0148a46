"""Tuning: teacher, objectives, methods, and the run that ties them together."""

from ttune.tuning.ays import AlignYourSteps
from ttune.tuning.best import Accepted
from ttune.tuning.budgets import tune_budgets
from ttune.tuning.choice import Choice, choose_sampler
from ttune.tuning.conditions import conditions_from
from ttune.tuning.endpoint import Endpoint
from ttune.tuning.evolution import Evolution
from ttune.tuning.local import Local
from ttune.tuning.method import Found, Method, Task
from ttune.tuning.methods import METHODS
from ttune.tuning.optimal_steps import OptimalSteps
from ttune.tuning.resample import resampled
from ttune.tuning.run import TuneResult, tune
from ttune.tuning.search import rank_grids
from ttune.tuning.shifted import Shifted
from ttune.tuning.teacher import Teacher
from ttune.tuning.timetuner import TimeTuner, apply_timetuner_ratios, timetuner_ratios
from ttune.tuning.trajectory import Trajectory

__all__ = [
    "METHODS",
    "Accepted",
    "AlignYourSteps",
    "Choice",
    "Endpoint",
    "Evolution",
    "Found",
    "Local",
    "Method",
    "OptimalSteps",
    "Shifted",
    "Task",
    "Teacher",
    "TimeTuner",
    "Trajectory",
    "TuneResult",
    "apply_timetuner_ratios",
    "choose_sampler",
    "conditions_from",
    "rank_grids",
    "resampled",
    "timetuner_ratios",
    "tune",
    "tune_budgets",
]
