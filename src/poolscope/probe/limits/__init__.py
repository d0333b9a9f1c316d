"""Bounds on concurrency other than executors: semaphores, locks and connections as pools of holds; work queues."""
