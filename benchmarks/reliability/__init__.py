"""What was tried to break ttune, and what came of it."""
