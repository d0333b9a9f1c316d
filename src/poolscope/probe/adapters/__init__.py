"""Pools that libraries bring: one small file for each, patched only when the library is imported."""
