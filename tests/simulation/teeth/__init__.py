"""Planted bugs: what the simulator must find, or it has no teeth."""
