"""What minimises a residual: least squares, differences, backpropagation."""
