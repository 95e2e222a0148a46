"""``ttune info``."""

from __future__ import annotations

import torch

from ttune.samplers import SAMPLERS, sampler_options


def info() -> None:
    """Versions, backends and why one is not available, samplers, grids, bundled models.

    Example: ttune info
    """
    import platform

    import numpy as np

    import ttune
    from ttune import zoo
    from ttune.grids import GRIDS

    print(f"ttune {ttune.__version__}, torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}")
    print(
        f"threads {torch.get_num_threads()}, CPU capability {torch.backends.cpu.get_cpu_capability()}, CUDA {torch.version.cuda or 'none'}"
    )
    for name, state in ttune.backends().items():
        served = f"{state['detail']}; serves {', '.join(state['operators'])}"
        print(f"backend {name:10s} {served if state['available'] else 'not available: ' + state['reason']}")
    print("samplers")
    for name in SAMPLERS:
        own = ", ".join(f"{option}={value!r}" for option, value in sampler_options(name).items())
        print(f"  {name}{f' ({own})' if own else ''}")
    print(f"grids {', '.join(GRIDS)}")
    print(f"bundled models {', '.join(zoo.MODELS)}")
