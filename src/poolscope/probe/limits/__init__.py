"""Bounds on how much goes on at once that are no executors: semaphores and locks, each as a pool of holds, and queues
with consumers."""
