"""Noise schedules alpha(t), sigma(t), and the spacings of untuned times."""

from ttune.noise import continuous as continuous  # adds its schedules to those of discrete time
