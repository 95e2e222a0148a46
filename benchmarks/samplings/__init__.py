"""Whole samplings, from x_T to x_0: what a step budget costs, by ttune and by others, and the quality that it gives."""
