"""The pure core: bytes and decisions. No I/O, no clock, no randomness; all of it is passed in."""
