"""ttune: few-step sampling of frozen diffusion models, made accurate and cheap."""

from ttune.noise import NoiseSchedule

__all__ = ["NoiseSchedule"]
