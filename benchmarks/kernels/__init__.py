"""Operators: what a call costs, against the least that it could cost and against what it replaces."""
