"""What the workers of a full pool do and wait for, from their frames."""
