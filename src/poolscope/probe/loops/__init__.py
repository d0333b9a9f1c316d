"""Event loops: who watches them, what is seen, and what is measured."""
