"""One small class per library: set up as its documentation says, for one realm of the endpoint.

What a library needs beyond the address (a password, a private key) is of the benchmark's own make.
Libraries are imported where they are used, so that the import of this module costs none of them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

CLIENT = "bench"
SECRET = "secret"


class Peer:
    """A library, ready to give tokens.

    Attributes:
        name: as it stands in the tables.
        package: the distribution that it comes from.
        statement: what its documentation imports.
        module: what has to be imported at the least, where that is less.
        tls: whether it refuses a token endpoint without TLS.
        lifetime: of a first token that is due for a refresh soon, in seconds.
        due: when that token is due at the latest, in seconds.
        signs: "requests" or "httpx" where it signs the requests of that library.
        note: in what the set-up differs from a plain client credentials grant.
    """

    name = ""
    package = ""
    statement = ""
    module = ""
    tls = False
    lifetime = 0
    due = 2.0
    signs = ""
    note = ""

    def __init__(self, realm: str) -> None:
        """Take the URL of a realm."""
        raise NotImplementedError

    def get(self) -> str:
        """Return a token, from the cache where there is a usable one."""
        raise NotImplementedError

    def sign(self, request: Any) -> object:
        """Put the token into a request as the library's auth class does."""
        raise NotImplementedError

    def call(self, url: str) -> int:
        """Send a request with the library's auth class and return the status."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop what the library keeps in its modules from one client to the next."""


class _OverRequests(Peer):
    """A library whose auth class signs the requests of requests."""

    signs = "requests"
    auth: Callable[[Any], Any]

    def sign(self, request: Any) -> object:
        return self.auth(request)

    def call(self, url: str) -> int:
        import requests

        return requests.get(url, auth=self.auth, timeout=10).status_code


class IdentityClient(_OverRequests):
    name = "identity-client"
    package = "xemahq-identity-client"
    statement = "from identity_client import IdentityBootstrapConfig, IdentityBootstrapService"
    module = "import identity_client"
    lifetime = 40
    due = 4.0
    note = "refresh_ratio=0.1 in the rows of a refresh, so that they take seconds"

    def __init__(self, realm: str) -> None:
        from identity_client import IdentityBootstrapConfig, IdentityBootstrapService

        config = IdentityBootstrapConfig(
            service_name=CLIENT,
            client_id=CLIENT,
            client_secret=SECRET,
            token_endpoint=f"{realm}/token",
            refresh_ratio=0.1 if "-refresh" in realm else 0.9,
        )
        self.service = IdentityBootstrapService(config)
        self.get = self.service.get_access_token  # type: ignore[method-assign]
        self.auth = self.service.auth()


class Msal(Peer):
    name = package = "msal"
    statement = "import msal"
    tls = True
    lifetime = 302
    note = "no refresh_in from the endpoint; acquire_token_for_client serves its cache"

    def __init__(self, realm: str) -> None:
        import msal

        self.app = msal.ConfidentialClientApplication(
            CLIENT, client_credential=SECRET, authority=realm, instance_discovery=False
        )

    def get(self) -> str:
        result = self.app.acquire_token_for_client(scopes=["api/.default"])
        if "access_token" not in result:
            raise RuntimeError(result.get("error"))
        return str(result["access_token"])


class AzureIdentity(Peer):
    name = package = "azure-identity"
    statement = "from azure.identity import ClientSecretCredential"
    tls = True
    lifetime = 302

    def __init__(self, realm: str) -> None:
        from azure.identity import ClientSecretCredential

        authority, _, tenant = realm.rpartition("/")
        self.credential = ClientSecretCredential(
            tenant, CLIENT, SECRET, authority=authority, disable_instance_discovery=True
        )

    def get(self) -> str:
        return str(self.credential.get_token("api/.default").token)


class GoogleAuth(Peer):
    name = package = "google-auth"
    statement = "from google.oauth2 import service_account"
    lifetime = 227
    signs = "requests"
    note = "the JWT bearer grant of a service account, its two-legged flow"

    def __init__(self, realm: str) -> None:
        from google.auth.transport.requests import AuthorizedSession, Request
        from google.oauth2 import service_account

        load: Any = service_account.Credentials.from_service_account_info
        self.credentials = load(
            {
                "client_email": CLIENT,
                "token_uri": f"{realm}/token",
                "private_key": _private_key(),
            },
            scopes=["api"],
        )
        self.session = AuthorizedSession(self.credentials)
        self.transport = Request()

    def get(self) -> str:
        self.credentials.before_request(self.transport, "GET", "http://api.test/", {})
        return str(self.credentials.token)

    def sign(self, request: Any) -> object:
        return self.credentials.before_request(self.transport, "GET", request.url, request.headers)

    def call(self, url: str) -> int:
        return int(self.session.get(url, timeout=10).status_code)


class GoogleAuthNonBlocking(GoogleAuth):
    name = "google-auth (non-blocking)"

    def __init__(self, realm: str) -> None:
        super().__init__(realm)
        self.credentials.with_non_blocking_refresh()


class Botocore(Peer):
    name = package = "botocore"
    statement = "import botocore.session"
    lifetime = 902
    note = "container credentials: AWS_CONTAINER_CREDENTIALS_FULL_URI"

    def __init__(self, realm: str) -> None:
        import botocore.session

        os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = f"{realm}/credentials"
        self.session = botocore.session.Session()

    def get(self) -> str:
        return str(self.session.get_credentials().get_frozen_credentials().token)


class RequestsOAuth2Client(_OverRequests):
    name = package = "requests-oauth2client"
    statement = "from requests_oauth2client import OAuth2Client, OAuth2ClientCredentialsAuth"
    lifetime = 22
    note = "testing=True, which allows http"

    def __init__(self, realm: str) -> None:
        from requests_oauth2client import OAuth2Client, OAuth2ClientCredentialsAuth

        client = OAuth2Client(f"{realm}/token", auth=(CLIENT, SECRET), testing=True)
        self.auth: Any = OAuth2ClientCredentialsAuth(client)

    def get(self) -> str:
        token = self.auth.token
        if token is None or token.is_expired(self.auth.leeway):
            self.auth.renew_token()
        return str(self.auth.token.access_token)


class RequestsAuth(_OverRequests):
    name = package = "requests-auth"
    statement = "from requests_auth import OAuth2ClientCredentials"
    lifetime = 32

    def __init__(self, realm: str) -> None:
        from requests_auth import OAuth2, OAuth2ClientCredentials

        self.cache = OAuth2.token_cache
        self.auth: Any = OAuth2ClientCredentials(f"{realm}/token", CLIENT, SECRET)

    def get(self) -> str:
        fetch = self.auth.request_new_token
        return str(self.cache.get_token(self.auth.state, on_missing_token=fetch))

    def forget(self) -> None:
        self.cache.clear()


class Authlib(_OverRequests):
    name = "authlib"
    package = "Authlib"
    statement = "from authlib.integrations.requests_client import OAuth2Session"
    lifetime = 62
    note = "a first token by fetch_token(), then the renewal of its session"

    def __init__(self, realm: str) -> None:
        from authlib.integrations.requests_client import OAuth2Session

        self.session: Any = OAuth2Session(
            CLIENT, SECRET, token_endpoint=f"{realm}/token", grant_type="client_credentials"
        )
        self.auth = self.session.token_auth

    def get(self) -> str:
        if not self.session.token:
            self.session.fetch_token()
        self.session.ensure_active_token()
        return str(self.session.token["access_token"])

    def call(self, url: str) -> int:
        return int(self.session.get(url, timeout=10).status_code)


def _private_key() -> str:
    with open(os.environ["PEERS_KEY"]) as file:
        return file.read()


class StupsTokens(Peer):
    name = package = "stups-tokens"
    statement = "import tokens"
    lifetime = 1202
    note = "the password grant: it has no other"

    def __init__(self, realm: str) -> None:
        import tokens

        folder = os.path.dirname(os.environ["PEERS_KEY"])  # with user.json and client.json
        tokens.configure(url=f"{realm}/token", dir=folder)
        tokens.manage(CLIENT, ["api"])
        tokens.start()
        self.tokens = tokens

    def get(self) -> str:
        return str(self.tokens.get(CLIENT))


class PythonKeycloak(Peer):
    name = package = "python-keycloak"
    statement = "from keycloak import KeycloakOpenIDConnection"
    lifetime = 40
    due = 4.0
    note = (
        "token_lifetime_fraction=0.1 in the rows of a refresh, so that they take seconds; "
        "its own connection in the row of 401s"
    )

    def __init__(self, realm: str) -> None:
        from keycloak import KeycloakOpenIDConnection

        self.connection: Any = KeycloakOpenIDConnection(
            f"{realm}/", client_id=CLIENT, client_secret_key=SECRET, realm_name="bench"
        )
        if "-refresh" in realm:
            self.connection.token_lifetime_fraction = 0.1

    def get(self) -> str:
        from datetime import UTC, datetime

        expires_at = self.connection.expires_at
        if expires_at is None or datetime.now(UTC) >= expires_at:
            self.connection.refresh_token()
        return str(self.connection.token["access_token"])

    def call(self, url: str) -> int:
        return int(self.connection.raw_get(url.rpartition("/")[2]).status_code)


class HttpxAuth(Peer):
    name = "httpx-auth"
    package = "httpx_auth"
    statement = "from httpx_auth import OAuth2ClientCredentials"
    lifetime = 32
    signs = "httpx"

    def __init__(self, realm: str) -> None:
        from httpx_auth import OAuth2, OAuth2ClientCredentials

        self.cache = OAuth2.token_cache
        self.auth = OAuth2ClientCredentials(f"{realm}/token", CLIENT, SECRET)

    def get(self) -> str:
        fetch = self.auth.request_new_token
        return str(self.cache.get_token(self.auth.state, on_missing_token=fetch))

    def sign(self, request: Any) -> object:
        return next(self.auth.sync_auth_flow(request))

    def call(self, url: str) -> int:
        import httpx

        return int(httpx.get(url, auth=self.auth).status_code)

    def forget(self) -> None:
        self.cache.clear()


class Auth0(Peer):
    name = package = "auth0-python"
    statement = "from auth0.management.token_provider import TokenProvider"
    tls = True
    lifetime = 12

    def __init__(self, realm: str) -> None:
        from auth0.management.token_provider import TokenProvider

        domain = realm.partition("://")[2]
        self.provider = TokenProvider(
            domain=domain, client_id=CLIENT, client_secret=SECRET, audience="api"
        )
        self.get = self.provider.get_token  # type: ignore[method-assign]


class Databricks(Peer):
    name = package = "databricks-sdk"
    statement = "from databricks.sdk import oauth"
    lifetime = 100
    due = 50.0
    note = "disable_async=False, as its Config sets it"

    def __init__(self, realm: str) -> None:
        from databricks.sdk import oauth

        self.source = oauth.ClientCredentials(
            CLIENT, SECRET, f"{realm}/token", use_header=True, disable_async=False
        )

    def get(self) -> str:
        return str(self.source.token().access_token)


class Cognite(Peer):
    name = package = "cognite-sdk"
    statement = "from cognite.client.credentials import OAuthClientCredentials"
    lifetime = 32

    def __init__(self, realm: str) -> None:
        from cognite.client.credentials import OAuthClientCredentials

        self.provider = OAuthClientCredentials(f"{realm}/token", CLIENT, SECRET, scopes=["api"])

    def get(self) -> str:
        return str(self.provider.authorization_header()[1]).removeprefix("Bearer ")


class Floor(_OverRequests):
    """The least that can be done: an attribute behind a deadline, filled by one POST in a lock."""

    name = "floor"
    package = "requests"
    statement = "import requests, attrs, cattrs, backoff"
    note = "an attribute read, a constant header, one POST in a lock, the four dependencies"

    def __init__(self, realm: str) -> None:
        import requests  # noqa: F401  # so that no measurement pays for it

        self.url = f"{realm}/token"
        self.token = ""
        self.serve_until = 0.0
        self.lock = threading.Lock()
        self.auth = constant_header

    def get(self) -> str:
        if time.monotonic() < self.serve_until:
            return self.token
        with self.lock:
            if time.monotonic() >= self.serve_until:
                self._fetch()
        return self.token

    def _fetch(self) -> None:
        answer = bare_post(self.url)
        self.token = answer["access_token"]
        self.serve_until = time.monotonic() + answer["expires_in"]


def constant_header(request: Any) -> object:
    request.headers["Authorization"] = "Bearer token"
    return request


def bare_post(url: str) -> dict[str, Any]:
    """Ask for a token on a new session."""
    import requests

    form = {"grant_type": "client_credentials", "client_id": CLIENT, "client_secret": SECRET}
    with requests.Session() as session:
        answer = session.post(url, data=form, timeout=10)
        answer.raise_for_status()
        document: dict[str, Any] = answer.json()
    return document


PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (
        Floor,
        IdentityClient,
        Auth0,
        Authlib,
        AzureIdentity,
        Botocore,
        Cognite,
        Databricks,
        GoogleAuth,
        GoogleAuthNonBlocking,
        HttpxAuth,
        Msal,
        PythonKeycloak,
        RequestsAuth,
        RequestsOAuth2Client,
        StupsTokens,
    )
}
