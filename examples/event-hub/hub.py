"""Stands in for the client of an event hub: it takes a callable that returns an access token."""

import json
import uuid
from datetime import UTC, datetime

import requests


class EventHub:
    """Publishes CloudEvents (JSON format, over HTTP), each with a token of its own."""

    def __init__(self, url, source, token_provider):
        self._url = url
        self._source = source
        self._token_provider = token_provider
        self._session = requests.Session()

    def publish(self, event_type, data):
        """Publish one event and return its id."""
        event = {
            "specversion": "1.0",
            "id": str(uuid.uuid4()),
            "source": self._source,
            "type": event_type,
            "time": datetime.now(UTC).isoformat(),
            "data": data,
        }
        response = self._session.post(
            self._url,
            data=json.dumps(event),
            headers={"Content-Type": "application/cloudevents+json"},
            auth=self._authorize,
            timeout=10,
        )
        response.raise_for_status()
        return event["id"]

    def _authorize(self, request):
        request.headers["Authorization"] = f"Bearer {self._token_provider()}"
        return request
