"""ttune: few-step sampling of frozen diffusion models, made accurate and cheap."""

from ttune import ops
from ttune.compiled_sampler import CompiledSampler
from ttune.denoiser import ClassifierFree, Denoiser
from ttune.evaluation import fid, frechet_distance
from ttune.noise import NoiseSchedule
from ttune.ops import backends, use_backend
from ttune.samplers import SAMPLERS, Stage, Start, Tableau
from ttune.sampling import initial_noise, sample
from ttune.schedule import Schedule
from ttune.tuning import TimeTuner, TuneResult, apply_timetuner_ratios, timetuner_ratios, tune
from ttune.version import __version__

__all__ = [
    "SAMPLERS",
    "ClassifierFree",
    "CompiledSampler",
    "Denoiser",
    "NoiseSchedule",
    "Schedule",
    "Stage",
    "Start",
    "Tableau",
    "TimeTuner",
    "TuneResult",
    "__version__",
    "apply_timetuner_ratios",
    "backends",
    "fid",
    "frechet_distance",
    "initial_noise",
    "ops",
    "sample",
    "timetuner_ratios",
    "tune",
    "use_backend",
]
