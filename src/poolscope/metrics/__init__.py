"""Metric families from snapshots, added up over pools and processes, and kept from going down."""
