"""A real Keycloak: started once for a test run, or one that runs already."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections import deque
from pathlib import Path
from typing import Any

import requests
from joserfc import jwt
from joserfc.jwk import KeySet

from identity_client.server.keycloak import KeycloakBackend
from support import cache
from support.ports import reserve_port

REALM_FILE = Path(__file__).parents[1] / "keycloak" / "realm.json"
ADMIN_SECRET = "secret-of-identity-api"
_STARTED = "Listening on:"


class Keycloak:
    """Keycloak in dev mode on loopback, with its embedded database in a folder.

    Args:
        folder: where its database is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._port = reserve_port()
        self.url: str = f"http://127.0.0.1:{self._port}"
        self.admin = Admin(self.url, "admin", "password-of-the-admin")
        self._folder = folder
        self._home = cache.keycloak_home()
        self._java = cache.java_home()
        self._log: deque[str] = deque(maxlen=50)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = {
            "JAVA_HOME": str(self._java),
            "JAVA_OPTS_KC_HEAP": "-Xms128m -Xmx512m",
            "KC_BOOTSTRAP_ADMIN_USERNAME": self.admin.user,
            "KC_BOOTSTRAP_ADMIN_PASSWORD": self.admin.password,
            "KC_CACHE": "local",
            "KC_DB": "dev-file",
            "KC_DB_URL": f"jdbc:h2:file:{self._folder}/keycloak;NON_KEYWORDS=VALUE",
            "KC_FEATURES": "client-secret-rotation",
            "KC_HTTP_HOST": "127.0.0.1",
            "KC_HTTP_PORT": str(self._port),
            "KC_LOG_LEVEL": "warn,io.quarkus:info",
        }
        self._process = subprocess.Popen(
            ["nice", str(self._home / "bin" / "kc.sh"), "start-dev"],
            env={**os.environ, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started = threading.Event()
        reader = threading.Thread(target=self._read, args=(self._process, started), daemon=True)
        reader.start()
        if not started.wait(300) or self._process.poll() is not None:
            self.stop()
            raise RuntimeError("Keycloak does not start:\n" + "".join(self._log))

    def _read(self, process: subprocess.Popen[str], started: threading.Event) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._log.append(line)
            if _STARTED in line:
                started.set()
        started.set()
        process.stdout.close()

    def stop(self) -> None:
        """Stop it, as an operator would."""
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class Admin:
    """The admin API, as the administrator of the whole Keycloak uses it."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self.user = user
        self.password = password

    @classmethod
    def from_env(cls) -> Admin:
        """Return the admin API of the Keycloak that KEYCLOAK_URL names."""
        user = os.environ.get("KEYCLOAK_ADMIN", "admin")
        url = os.environ["KEYCLOAK_URL"].rstrip("/")
        return cls(url, user, os.environ["KEYCLOAK_ADMIN_PASSWORD"])

    def call(
        self, method: str, path: str, document: object = None, **params: str
    ) -> requests.Response:
        """Call the admin API at a path below ``/admin/realms``."""
        granted = requests.post(
            f"{self.url}/realms/master/protocol/openid-connect/token",
            data={
                "grant_type": "password",
                "client_id": "admin-cli",
                "username": self.user,
                "password": self.password,
            },
            timeout=30,
        )
        answer = requests.request(
            method,
            f"{self.url}/admin/realms{path}",
            json=document,
            params=params,
            headers={"Authorization": f"Bearer {granted.json()['access_token']}"},
            timeout=30,
        )
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer


class Realm:
    """A realm of its own, made of tests/keycloak/realm.json.

    Args:
        admin: the admin API.
        name: the realm's name.
    """

    def __init__(self, admin: Admin, name: str) -> None:
        self.admin = admin
        self.name = name
        self.issuer: str = f"{admin.url}/realms/{name}"
        self.token_endpoint: str = f"{self.issuer}/protocol/openid-connect/token"

    def create(self) -> None:
        document = json.loads(REALM_FILE.read_text("utf-8"))
        self.admin.call("POST", "", {**document, "realm": self.name})

    def delete(self) -> None:
        self.admin.call("DELETE", f"/{self.name}")

    def change(self, **settings: Any) -> None:
        """Change settings of the realm."""
        self.admin.call("PUT", f"/{self.name}", settings)

    def backend(
        self, client_id: str = "identity-api", *, url: str | None = None, **options: Any
    ) -> KeycloakBackend:
        """Return an identity-api's back end for it, at another address if there is one."""
        address = url or self.admin.url
        return KeycloakBackend(address, self.name, client_id, ADMIN_SECRET, **options)

    def client(self, name: str) -> dict[str, Any]:
        """Return a client as Keycloak has it."""
        (found,) = self.admin.call("GET", f"/{self.name}/clients", clientId=name).json()
        document: dict[str, Any] = found
        return document

    def change_client(self, name: str, **settings: Any) -> None:
        client = self.client(name)
        path = f"/{self.name}/clients/{client['id']}"
        self.admin.call("PUT", path, {**client, **settings})

    def delete_client(self, name: str) -> None:
        self.admin.call("DELETE", f"/{self.name}/clients/{self.client(name)['id']}")

    def rotate_secret(self, name: str) -> str:
        """Let Keycloak make a new secret, and return it."""
        path = f"/{self.name}/clients/{self.client(name)['id']}/client-secret"
        secret: str = self.admin.call("POST", path).json()["value"]
        return secret

    def add_user(self, name: str) -> str:
        """Make a user and return its id."""
        made = self.admin.call("POST", f"/{self.name}/users", {"username": name, "enabled": True})
        return made.headers["Location"].rpartition("/")[2]

    def claims(self, token: str) -> dict[str, Any]:
        """Verify a token with the keys that Keycloak publishes, and return its claims."""
        return claims(f"{self.issuer}/protocol/openid-connect/certs", token)


def claims(certs: str, token: str) -> dict[str, Any]:
    """Verify a token with the keys at an address, and return its claims."""
    published: Any = KeySet
    keys = published.import_key_set(requests.get(certs, timeout=30).json())
    return dict(jwt.decode(token, keys, ["RS256"]).claims)
