"""The frozen value that sampling and tuning pass around, and its JSON file."""
