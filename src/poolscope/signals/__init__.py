"""From histories to the numbers that rules judge by: pure functions and values, no clock, no thread, no I/O."""
