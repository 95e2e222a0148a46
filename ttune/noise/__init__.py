"""Noise schedules alpha(t), sigma(t), and the spacings of untuned times."""
