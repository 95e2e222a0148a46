"""A network seen as one prediction of x_0: conditions, guidance, memory."""
