"""A service with metrics, for gunicorn with any number of workers."""

from flask import Flask, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from identity_client import IdentityBootstrapConfig, IdentityBootstrapService
from identity_client.integrations.prometheus import instrument

service = IdentityBootstrapService(IdentityBootstrapConfig.from_env())
instrument(service)

app = Flask(__name__)
orders = Counter("orders", "Orders that were placed.")


@app.post("/orders")
def place_order() -> dict[str, int]:
    orders.inc()
    return {"characters of the token": len(service.get_access_token())}


@app.get("/metrics")
def metrics() -> Response:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
