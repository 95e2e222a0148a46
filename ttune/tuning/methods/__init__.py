"""One file a method of tuning."""
