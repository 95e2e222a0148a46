"""Tuning: teacher, objectives, methods, and the run that ties them together."""

from ttune.tuning.run import METHODS, TuneResult, tune
from ttune.tuning.search import rank_grids
from ttune.tuning.teacher import Teacher
from ttune.tuning.timetuner import TimeTuner, apply_timetuner_ratios, timetuner_ratios

__all__ = ["METHODS", "Teacher", "TimeTuner", "TuneResult", "apply_timetuner_ratios", "rank_grids", "timetuner_ratios", "tune"]
