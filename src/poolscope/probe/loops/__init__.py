"""Event loops: who watches them, what is seen, and what it means."""
