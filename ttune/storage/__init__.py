"""Files: atomic writes, locks, bounded reads, tensors."""
