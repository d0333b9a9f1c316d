"""Thread pools of the standard library, patched in place, and what every patch has in common."""
