"""What a store keeps, as bytes: JSON, encrypted where there is a key."""

from __future__ import annotations

import json
import logging
from typing import Any

from .. import wire
from ..config import url_problem
from ..errors import ConfigurationError, CredentialStoreError
from ..models import StoredCredentials

_log = logging.getLogger("identity_client")


class Documents:
    """Writes and reads the documents of one service.

    Args:
        where: the store, as messages name it.
        service_name: whose credentials these are.
        identity_api_url: the identity-api that knows the service.
        key: Fernet keys with commas between, or None.

    Raises:
        ConfigurationError: a key is none, or the package that encrypts is missing.
    """

    def __init__(
        self, where: str, *, service_name: str, identity_api_url: str, key: str | None
    ) -> None:
        self._where = where
        self._owner = {"service": service_name, "identityApi": identity_api_url.rstrip("/")}
        self._cipher = _cipher(key) if key is not None else None

    def write(self, stored: StoredCredentials) -> bytes:
        content = wire.to_wire(stored)
        if self._cipher is not None:
            sealed_content = self._cipher.encrypt(json.dumps(content).encode())
            content = {"version": stored.version, "encrypted": sealed_content.decode()}
        return json.dumps({**self._owner, **content}).encode()

    def read(self, document: bytes) -> StoredCredentials:
        """Read a document; one that is damaged counts as none, with a warning.

        Raises:
            CredentialStoreError: it belongs to another service, or to another key.
        """
        try:
            content = wire.as_object(wire.parse_json(document))
            owner = {name: content.get(name) for name in self._owner}
            if "encrypted" in content:
                content = wire.as_object(wire.parse_json(self._decrypted(content["encrypted"])))
            stored = wire.from_wire(content, StoredCredentials)
            credentials = stored.credentials
            problem = credentials and url_problem(credentials.token_endpoint)
            if problem:
                raise wire.WireError(f"its member 'tokenEndpoint' {problem}")
        except wire.WireError as error:
            _log.warning("what %s holds is damaged and counts as nothing: %s", self._where, error)
            return StoredCredentials()
        if owner != self._owner:
            raise CredentialStoreError(
                f"{self._where} holds the credentials of the service {owner['service']!r} at "
                f"{owner['identityApi']}; give each service a store of its own"
            )
        return stored

    def _decrypted(self, text: object) -> bytes:
        from cryptography.fernet import InvalidToken  # was imported where the cipher was made

        if self._cipher is not None:
            try:
                return bytes(self._cipher.decrypt(str(text)))
            except InvalidToken:
                pass
        raise CredentialStoreError(
            f"what {self._where} holds is encrypted with another key; set "
            "IDENTITY_CREDENTIAL_STORE_KEY to the key that the other replicas have"
        )


def _cipher(key: str) -> Any:
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ModuleNotFoundError:
        raise ConfigurationError(
            "credential_store_key (IDENTITY_CREDENTIAL_STORE_KEY) needs the package "
            "'cryptography'; pip install 'identity-client[encryption]'"
        ) from None
    try:
        return MultiFernet([Fernet(part.strip()) for part in key.split(",")])
    except ValueError:
        raise ConfigurationError(
            "credential_store_key (IDENTITY_CREDENTIAL_STORE_KEY) must be a Fernet key, 32 bytes "
            "in URL-safe base64, or several with commas between; make one with "
            "cryptography.fernet.Fernet.generate_key()"
        ) from None
