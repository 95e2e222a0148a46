"""Tuning: teacher, objectives, methods, and the run that ties them together."""

from ttune.tuning.best import Accepted
from ttune.tuning.budgets import tune_budgets
from ttune.tuning.conditions import conditions_from
from ttune.tuning.distribution.stage import Distribution
from ttune.tuning.grid_search import rank_grids
from ttune.tuning.methods.ays import AlignYourSteps
from ttune.tuning.methods.dyweight import DyWeight
from ttune.tuning.methods.endpoint import Endpoint
from ttune.tuning.methods.evolution import Evolution
from ttune.tuning.methods.generalized_solver import GeneralizedSolver
from ttune.tuning.methods.ld3 import LD3
from ttune.tuning.methods.method import Found, Method, Task
from ttune.tuning.methods.optimal_steps import OptimalSteps
from ttune.tuning.methods.registry import METHODS
from ttune.tuning.methods.shifted import Shifted
from ttune.tuning.methods.timetuner import TimeTuner, apply_timetuner_ratios, timetuner_ratios
from ttune.tuning.methods.trajectory import Local, Trajectory
from ttune.tuning.options import TuneArguments, TuneOptions
from ttune.tuning.resample import resampled
from ttune.tuning.sampler_selection import SamplerChoice, choose_sampler
from ttune.tuning.teacher import Teacher
from ttune.tuning.tune import TuneResult, tune

__all__ = [
    "LD3",
    "METHODS",
    "Accepted",
    "AlignYourSteps",
    "Distribution",
    "DyWeight",
    "Endpoint",
    "Evolution",
    "Found",
    "GeneralizedSolver",
    "Local",
    "Method",
    "OptimalSteps",
    "SamplerChoice",
    "Shifted",
    "Task",
    "Teacher",
    "TimeTuner",
    "Trajectory",
    "TuneArguments",
    "TuneOptions",
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
