"""``ttune info``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import tyro

from ttune.cli.arguments import ModelFlags, check_paths
from ttune.samplers import SAMPLERS, sampler_options
from ttune.tuning.methods.registry import METHODS, fields_of

if TYPE_CHECKING:
    from ttune.network.denoiser import Denoiser
    from ttune.schedule.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Info:
    """Versions, backends and why one is not available, samplers, methods, grids, models. Or what schedule files hold, or a model is.

    Example: ttune info

    Example: ttune info ttune.json
    """

    schedules: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Schedule files: their steps, whether tuning helped, and the figures that decided it."""
    model: str | None = None
    """As in ttune tune: its noise schedule, shape, guidance and conditions."""
    loading: ModelFlags = ModelFlags()

    def run(self) -> None:
        import ttune

        check_paths(schedules=self.schedules)
        found = [_about(schedule) for path in self.schedules for schedule in ttune.load_schedules(path).values()]
        found += [] if self.model is None else ["\n".join(_described(self.loading.load(self.model)))]
        print("\n\n".join(found) if self.schedules or self.model is not None else "\n".join(_installation()))


def _installation() -> Iterator[str]:
    import platform

    import numpy as np

    import ttune
    from ttune import zoo
    from ttune.noise.grids import GRIDS

    yield f"ttune {ttune.__version__}, torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    capability, cuda = torch.backends.cpu.get_cpu_capability(), torch.version.cuda or "none"
    yield f"threads {torch.get_num_threads()}, CPU capability {capability}, CUDA {cuda}"
    for name, state in ttune.backends().items():
        served = f"{state['detail']}; serves {', '.join(state['operators'])}"
        yield f"backend {name:10s} {served if state['available'] else 'not available: ' + state['reason']}"
    yield "samplers"
    yield from (_with_settings(name, sampler_options(name)) for name in SAMPLERS)
    yield "methods of tuning"
    yield from (_with_settings(name, fields_of(name)) for name in METHODS)
    yield f"grids {', '.join(GRIDS)}"
    yield f"bundled models {', '.join(zoo.MODELS)}"


def _with_settings(name: str, settings: Mapping[str, Any]) -> str:
    own = ", ".join(f"{setting}={value!r}" for setting, value in settings.items())
    return f"  {name}{f' ({own})' if own else ''}"


def _about(schedule: Schedule) -> str:
    """A schedule, and what its file says of its tuning."""
    from ttune.evaluation.numbers import number
    from ttune.report.record import read_record

    record = read_record(schedule)
    lines = [str(schedule), *([f"model {schedule.model['name']}"] if "name" in schedule.model else [])]
    lines += [f"method {record.method}, tuned on {record.samples or 'an unknown number of'} x_T"] if record.method else []
    if (held := record.validation) is not None:
        best = "" if held.best_untuned is None else f", best untuned schedule {number(held.best_untuned.rmse)}"
        lines.append(f"on {held.n:,} validation x_T: RMSE to the teacher {number(held.rmse)} (start {number(held.rmse_start)}{best})")
        lines += [f"  not better: {reason}" for reason in dict.fromkeys(held.refused) if schedule.outcome != "tuned"]
    return "\n".join([*lines, *([f"{record.unfinished}"] if record.unfinished else []), *record.faults])


def _described(denoiser: Denoiser) -> list[str]:
    """What a command would tune, a line each."""
    from ttune.schedule.file import describe

    settings = denoiser.guidance.settings() if denoiser.guidance is not None else {"guidance": "none"}
    draw = denoiser.draw_conditions
    drawn = {} if draw is None else {name: _shape(value) for name, value in draw(torch.zeros(1, dtype=torch.int64)).items()}
    names = getattr(denoiser.network, "names", None)  # of a diffusers model
    needed = " (to be given)" if draw is None and callable(names) and names() else ""
    return [
        f"model {denoiser.name or 'without a name'}: {denoiser.prediction_type} prediction, noise schedule {describe(denoiser.noise)}",
        f"  a sample has the shape {denoiser.sample_shape}{', decoded to pictures by its VAE' if denoiser.decode else ''}",
        f"  guidance {', '.join(f'{name}={value}' for name, value in settings.items())}",
        f"  conditions {', '.join(f'{name} {shape}' for name, shape in drawn.items()) or 'none'}{needed}",
    ]


def _shape(value: Any) -> Any:
    return tuple(value.shape[1:]) if isinstance(value, torch.Tensor) else type(value).__name__
