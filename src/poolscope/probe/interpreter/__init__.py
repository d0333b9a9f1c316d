"""What the probe touches of the interpreter and the system: their shapes, clocks, stacks, threads and imports."""
