"""Orders: asks the inventory service, which requires an access token, what is in stock."""

import os

import requests
from flask import Flask

from identity_client.integrations.flask import FlaskIdentity, current_identity

identity = FlaskIdentity()


def create_app(settings=None):
    app = Flask(__name__)
    app.config["INVENTORY_URL"] = os.environ.get("INVENTORY_URL", "http://127.0.0.1:8001")
    app.config.from_mapping(settings or {})
    identity.init_app(app)
    app.register_blueprint(identity.health_blueprint())

    @app.get("/orders/<item>")
    def order(item):
        url = f"{app.config['INVENTORY_URL']}/items/{item}"
        response = requests.get(url, auth=current_identity.auth(), timeout=10)
        response.raise_for_status()
        return {"item": item, "can_be_delivered": response.json()["in_stock"] > 0}

    return app
