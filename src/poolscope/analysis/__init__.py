"""From messages to findings: pure functions and values, no clock, no thread, no I/O."""
