"""The only configuration of structlog, and counters."""
