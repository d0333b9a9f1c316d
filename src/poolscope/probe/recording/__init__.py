"""What a pool writes down of each task, and what is read of it: no task waits for a reader."""
