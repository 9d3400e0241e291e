"""What a store keeps, as bytes: JSON, encrypted where there is a key."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import Any

from .._http import codec
from .._settings import url_problem
from ..errors import ConfigurationError, CredentialStoreError
from ..models import StoredCredentials

_log = logging.getLogger("identity_client")

# How each document begins, by which a truncated one is known.
_START = b'{"service": '


class RecordCodec:
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
        """Return the document to keep, encrypted if there is a key."""
        content = {**self._owner, **codec.to_wire(stored)}
        if self._cipher is not None:
            # The owner is inside, too: a document that is copied elsewhere is of no use there.
            encrypted = self._cipher.encrypt(json.dumps(content).encode()).decode()
            content = {**self._owner, "version": stored.version, "encrypted": encrypted}
        return json.dumps(content).encode()

    def read(self, document: bytes) -> StoredCredentials:
        """Read a document; one that is empty or cut short counts as none, with a warning.

        Raises:
            CredentialStoreError: it is damaged, was not written by this package, belongs to
                another service or another key, or is not encrypted though there is a key.
        """
        try:
            content = self._owned(document, self._where)
            if content is None:
                with suppress(Exception):  # a log handler that fails must not make the load fail
                    _log.warning(
                        "ignoring corrupt data in %s: it is empty or truncated", self._where
                    )
                return StoredCredentials()
            stored = codec.from_wire(self._decrypted(content), StoredCredentials)
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

    def check_owner(self, document: bytes, where: str) -> None:
        """Raise `CredentialStoreError` unless this service wrote it, perhaps not to its end."""
        self._owned(document, where)

    def _owned(self, document: bytes, where: str) -> dict[str, Any] | None:
        """Return the members of a document of this service; None if it was cut short."""
        try:
            content = codec.as_object(codec.parse_json(document))
        except codec.CodecError:
            if document.startswith(_START) or _START.startswith(document.strip(b"\0")):
                return None
            content = {}
        if not self._owner.keys() <= content.keys():
            raise CredentialStoreError(
                f"{where} holds data that identity_client did not write; check "
                "IDENTITY_CREDENTIAL_STORE, or move that data away"
            )
        is_ours = content["service"] == self._owner["service"]
        if is_ours and "encrypted" not in content and content.get("credentials") is None:
            return content  # of a first attempt with another URL: there is nothing to keep apart
        self._compare_owner(content, where)
        return content

    def _compare_owner(self, content: dict[str, Any], where: str) -> None:
        if any(content[name] != value for name, value in self._owner.items()):
            advice = "give each service a store of its own"
            if content["service"] == self._owner["service"]:
                advice = (
                    "set IDENTITY_API_URL to that, or delete what is there, so that the service "
                    "registers again, which replaces its client secret"
                )
            raise CredentialStoreError(
                f"{where} holds the credentials of the service {content['service']!r} at "
                f"{content['identityApi']}; {advice}"
            )

    def _decrypted(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return the members that a document keeps, encrypted where there is a key."""
        if "encrypted" not in content:
            if self._cipher is None:
                return content
            raise CredentialStoreError(
                f"the data in {self._where} is not encrypted, but IDENTITY_CREDENTIAL_STORE_KEY is "
                "set; stop all instances, run 'identity-client credentials clear', and start them "
                "with the key: the first one registers again"
            )
        inner = codec.as_object(codec.parse_json(self._decrypt(content["encrypted"])))
        for name in self._owner:
            if name not in inner:
                raise codec.CodecError(f"its member {name!r} is missing")
        self._compare_owner(inner, self._where)
        return inner

    def _decrypt(self, text: object) -> bytes:
        from cryptography.fernet import InvalidToken  # was imported where the cipher was made

        if self._cipher is None:
            raise CredentialStoreError(
                f"the data in {self._where} is encrypted, but no key is set; set "
                "IDENTITY_CREDENTIAL_STORE_KEY to the key that the other replicas have"
            )
        try:
            return bytes(self._cipher.decrypt(str(text)))
        except (InvalidToken, ValueError):  # ValueError: it is not ASCII
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
