"""What a pool records of each task, and how it is read: no task waits for a reader."""
