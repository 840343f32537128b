"""The only configuration of structlog, and what the process takes of its machine."""
