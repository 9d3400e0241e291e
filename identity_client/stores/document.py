"""What a store keeps, as bytes: JSON, encrypted where there is a key."""

from __future__ import annotations

import json
import logging
from typing import Any

from .._http import codec
from ..config import url_problem
from ..errors import ConfigurationError, CredentialStoreError
from ..models import StoredCredentials

_log = logging.getLogger("identity_client")

# How each document begins, by which a truncated one is known.
_START = b'{"service": '


class Documents:
    """Writes and reads the documents of one service.

    Args:
        where: the store, as messages name it.
        service_name: whose credentials these are.
        identity_api_url: the identity-api that knows the service.
        key: Fernet keys with commas between, or None.

    Raises:
        ConfigurationError: a key cannot be used, or the package that encrypts is missing.
    """

    def __init__(
        self, where: str, *, service_name: str, identity_api_url: str, key: str | None
    ) -> None:
        self._where = where
        self._owner = {"service": service_name, "identityApi": identity_api_url.rstrip("/")}
        self._cipher = _cipher(key) if key is not None else None

    def write(self, stored: StoredCredentials) -> bytes:
        content = codec.to_wire(stored)
        if self._cipher is not None:
            sealed_content = self._cipher.encrypt(json.dumps(content).encode())
            content = {"version": stored.version, "encrypted": sealed_content.decode()}
        return json.dumps({**self._owner, **content}).encode()

    def read(self, document: bytes) -> StoredCredentials:
        """Read a document; one that is empty or cut short counts as none, with a warning.

        Raises:
            CredentialStoreError: it is damaged, was not written by this package, or belongs to
                another service or another key.
        """
        try:
            content = self._owned(document)
            if content is None:
                _log.warning("ignoring corrupt data in %s: it is empty or truncated", self._where)
                return StoredCredentials()
            if "encrypted" in content:
                content = codec.as_object(codec.parse_json(self._decrypted(content["encrypted"])))
            stored = codec.from_wire(content, StoredCredentials)
            credentials = stored.credentials
            problem = credentials and url_problem(credentials.token_endpoint)
            if problem:
                raise codec.CodecError(f"its member 'tokenEndpoint' {problem}")
        except codec.CodecError as error:
            raise CredentialStoreError(
                f"{self._where} holds corrupt data: {error}; delete it, and a running instance "
                "will save its credentials again"
            ) from None
        return stored

    def check_owner(self, document: bytes) -> None:
        """Raise `CredentialStoreError` unless this service wrote it, perhaps not to its end."""
        self._owned(document)

    def _owned(self, document: bytes) -> dict[str, Any] | None:
        """Return the members of a document of this service; None if it was cut short."""
        try:
            content = codec.as_object(codec.parse_json(document))
        except codec.CodecError:
            if document.startswith(_START) or _START.startswith(document.strip(b"\0")):
                return None
            content = {}
        owner = {name: content.get(name) for name in self._owner}
        if None in owner.values():
            raise CredentialStoreError(
                f"{self._where} holds data that identity_client did not write; check "
                "IDENTITY_CREDENTIAL_STORE, or move that data away"
            )
        if owner != self._owner:
            raise CredentialStoreError(
                f"{self._where} holds the credentials of the service {owner['service']!r} at "
                f"{owner['identityApi']}; give each service a store of its own"
            )
        return content

    def _decrypted(self, text: object) -> bytes:
        from cryptography.fernet import InvalidToken  # was imported where the cipher was made

        if self._cipher is None:
            raise CredentialStoreError(
                f"the data in {self._where} is encrypted, but no key is set; set "
                "IDENTITY_CREDENTIAL_STORE_KEY to the key that the other replicas have"
            )
        try:
            return bytes(self._cipher.decrypt(str(text)))
        except InvalidToken:
            raise CredentialStoreError(
                f"the data in {self._where} cannot be decrypted with the configured key; set "
                "IDENTITY_CREDENTIAL_STORE_KEY to the key that the other replicas have"
            ) from None


def _cipher(key: str) -> Any:
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ModuleNotFoundError:
        raise ConfigurationError(
            "credential_store_key (IDENTITY_CREDENTIAL_STORE_KEY) needs the package "
            "'cryptography'; pip install 'xemahq-identity-client[encryption]'"
        ) from None
    try:
        return MultiFernet([Fernet(part.strip()) for part in key.split(",")])
    except ValueError:
        raise ConfigurationError(
            "credential_store_key (IDENTITY_CREDENTIAL_STORE_KEY) must be a Fernet key, 32 bytes "
            "in URL-safe base64, or several with commas between; make one with "
            "cryptography.fernet.Fernet.generate_key()"
        ) from None
