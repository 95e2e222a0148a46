"""The distribution objective: few steps whose samples are distributed as real ones are."""
