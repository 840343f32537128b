"""The drivers, on real files."""
