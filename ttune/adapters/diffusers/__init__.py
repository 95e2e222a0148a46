"""diffusers: any of its model folders or pipelines as a denoiser, and its unmodified pipelines on a tuned schedule.

::

    denoiser = ttune.diffusers.load("path/to/folder")           # or a pipeline; then ttune.tune, ttune.sample, ...
    ttune.diffusers.apply(pipeline, "ttune.json")               # pipeline(num_inference_steps=5) now samples with the tuned schedule
    ttune.diffusers.remove(pipeline)                            # and again as before, bit for bit
"""

from __future__ import annotations

from ttune.evaluation.features import torchvision_shim

torchvision_shim.ensure()  # which diffusers and transformers import

try:
    import diffusers as _diffusers  # noqa: F401
except ModuleNotFoundError as _error:
    if _error.name != "diffusers":
        raise
    raise ImportError("ttune.diffusers needs the package diffusers: pip install 'ttune[diffusers]'") from None

from ttune.adapters.diffusers.apply import apply, remove  # noqa: E402
from ttune.adapters.diffusers.loading import load  # noqa: E402
from ttune.adapters.diffusers.scheduler import TunedScheduler  # noqa: E402
from ttune.adapters.diffusers.scheduler_config import noise_of  # noqa: E402

__all__ = ["TunedScheduler", "apply", "load", "noise_of", "remove"]
