"""Pools: who records what, where it is fetched, and what is patched."""
