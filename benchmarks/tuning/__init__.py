"""Tunings and evaluations: quality, network evaluations, seconds and memory."""
