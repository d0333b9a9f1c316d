"""Numbers and thresholds in; what is wrong, why, in words, and what to do. One file per pattern and cause, pure."""
