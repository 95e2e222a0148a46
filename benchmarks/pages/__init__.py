"""Pages that are made from results, from the code, or from other libraries."""
