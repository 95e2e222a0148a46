"""What hostile or careless input does to ttune: ``make fuzz``, or ``python -m tests.fuzz --help``."""
