"""For tests that use the library as a program does."""

from __future__ import annotations

import pytest
import structlog


@pytest.fixture(autouse=True)
def log_of_a_program() -> None:
    """Not as a command in the same test process had it: that wrote to a stream that is closed."""
    structlog.reset_defaults()
