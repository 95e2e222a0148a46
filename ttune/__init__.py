"""ttune: few-step sampling of frozen diffusion models, made accurate and cheap."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from ttune import adapters
from ttune.noise.schedules import NoiseSchedule
from ttune.samplers import SAMPLERS, Stage, Start, Tableau
from ttune.samplers.points import Point
from ttune.schedule.collection import load_schedules, save_schedules
from ttune.schedule.schedule import Schedule
from ttune.schedule.time_shift import Shift
from ttune.version import __version__

# Schedules and ttune.numpy need no torch, the rest does.
if TYPE_CHECKING or find_spec("torch") is not None:
    from ttune import nn, ops
    from ttune.comparison import Comparison, compare
    from ttune.evaluation import fid, frechet_distance
    from ttune.freezing.freeze_time import FrozenTime, freeze_time
    from ttune.network.denoiser import Denoiser
    from ttune.network.guidance import Classifier, ClassifierFree
    from ttune.network.layer_skipping import skip_layers
    from ttune.network.numpy_network import from_numpy
    from ttune.network.stitched import Stitched
    from ttune.network.threshold import DynamicThreshold
    from ttune.network.variants import Variants
    from ttune.ops import backends, use_backend
    from ttune.sampling.analytic_variance import estimate_gammas
    from ttune.sampling.compiled_sampler import CompiledSampler
    from ttune.sampling.inversion import Inverted, invert
    from ttune.sampling.sample import initial_noise, noised, sample
    from ttune.tuning import TimeTuner, TuneResult, apply_timetuner_ratios, conditions_from, timetuner_ratios, tune, tune_budgets

if TYPE_CHECKING:
    from ttune.adapters import diffusers as diffusers
    from ttune.adapters import dpm_solver as dpm_solver
    from ttune.adapters import edm as edm
    from ttune.adapters import exchange as exchange
    from ttune.adapters import guided_diffusion as guided_diffusion
    from ttune.adapters import hub as hub
    from ttune.adapters import k_diffusion as k_diffusion
    from ttune.adapters import latent_diffusion as latent_diffusion
    from ttune.adapters import onnx as onnx
else:

    def __getattr__(name: str) -> object:
        torch_is_there = find_spec("torch") is not None
        if name in adapters.ADAPTERS and (torch_is_there or name in adapters.WITHOUT_TORCH):
            return adapters.load(name)
        if name in (*__all__, *adapters.ADAPTERS) and not torch_is_there:
            raise AttributeError(f"ttune.{name} needs torch, which is not installed: pip install 'torch>=2.11'")
        raise AttributeError(f"module 'ttune' has no attribute {name!r}")


__all__ = [
    "SAMPLERS",
    "Classifier",
    "ClassifierFree",
    "Comparison",
    "CompiledSampler",
    "Denoiser",
    "DynamicThreshold",
    "FrozenTime",
    "Inverted",
    "NoiseSchedule",
    "Point",
    "Schedule",
    "Shift",
    "Stage",
    "Start",
    "Stitched",
    "Tableau",
    "TimeTuner",
    "TuneResult",
    "Variants",
    "__version__",
    "apply_timetuner_ratios",
    "backends",
    "compare",
    "conditions_from",
    "estimate_gammas",
    "fid",
    "frechet_distance",
    "freeze_time",
    "from_numpy",
    "initial_noise",
    "invert",
    "load_schedules",
    "nn",
    "noised",
    "ops",
    "sample",
    "save_schedules",
    "skip_layers",
    "timetuner_ratios",
    "tune",
    "tune_budgets",
    "use_backend",
]
