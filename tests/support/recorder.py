"""The recorder of the testing kit."""

from __future__ import annotations

from identity_client.testing import EventRecorder as Recorder

__all__ = ["Recorder"]
