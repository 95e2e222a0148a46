"""The registry of tuning methods: one file and one line each. The command line, the comparison and the tests iterate it."""

from __future__ import annotations

from ttune.tuning.methods.ays import AlignYourSteps
from ttune.tuning.methods.endpoint import Endpoint
from ttune.tuning.methods.evolution import Evolution
from ttune.tuning.methods.local import Local
from ttune.tuning.methods.method import Method
from ttune.tuning.methods.optimal_steps import OptimalSteps
from ttune.tuning.methods.shifted import Shifted
from ttune.tuning.methods.timetuner import TimeTuner
from ttune.tuning.methods.trajectory import Trajectory

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
