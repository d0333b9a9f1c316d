"""Event loops: the watch of each, what is seen of it, and what is measured."""
