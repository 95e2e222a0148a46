"""What ttune says: warnings at the line of the caller's program, and the name that was probably meant."""
