"""Bounds on how much goes on at once that have no workers: semaphores and locks, each as a pool of holds."""
