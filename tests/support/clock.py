"""The clock of the testing kit."""

from __future__ import annotations

from identity_client.testing import FakeClock

__all__ = ["FakeClock"]
