"""Engines that run Python in processes of their own: what has each of these watched, and reports on all."""
