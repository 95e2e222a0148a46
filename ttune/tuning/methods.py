"""The registry of tuning methods: one file and one line each. The command line, the comparison and the tests iterate it."""

from __future__ import annotations

from ttune.tuning.ays import AlignYourSteps
from ttune.tuning.endpoint import Endpoint
from ttune.tuning.evolution import Evolution
from ttune.tuning.local import Local
from ttune.tuning.method import Method
from ttune.tuning.optimal_steps import OptimalSteps
from ttune.tuning.shifted import Shifted
from ttune.tuning.timetuner import TimeTuner
from ttune.tuning.trajectory import Trajectory

METHODS: dict[str, type[Method]] = {
    "endpoint": Endpoint,
    "trajectory": Trajectory,
    "local": Local,
    "timetuner": TimeTuner,
    "optimal_steps": OptimalSteps,
    "ays": AlignYourSteps,
    "shifted": Shifted,
    "evolution": Evolution,
}
