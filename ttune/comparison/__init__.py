"""Tuning methods side by side: the same x_T, the same teacher, the same accounting."""

from ttune.comparison.compare import compare
from ttune.comparison.comparison import Comparison
from ttune.comparison.specification import Entrant, parse_method, parse_methods

__all__ = ["Comparison", "Entrant", "compare", "parse_method", "parse_methods"]
