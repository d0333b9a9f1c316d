"""Pools of processes, and those of `multiprocessing`."""
