"""Credentials by registration with identity-api, once for all who share a credential store."""

from __future__ import annotations

import logging
import math

from attrs import evolve

from .api_client import IdentityApiClient, credentials_of
from .clock import Clock
from .config import IdentityBootstrapConfig
from .errors import (
    CredentialStoreError,
    IdentityApiError,
    InvalidClientError,
    SecretNotReturnedError,
)
from .events import EventKind, Reporter
from .models import AccessToken, RegisterServiceResponse, ServiceCredentials, StoredCredentials
from .retry import equal_jitter
from .stores import open_store
from .token_source import TokenRequests


class Registration(TokenRequests):
    """Registers the service with identity-api, and again when its credentials are rejected.

    Whoever needs credentials looks into the store first. Who finds none there, or those that were
    just rejected, registers under the store's lock, and those who waited for it find the result.

    A secret is regenerated only when identity-api has the service and tells no secret, or the one
    that was just rejected; and not again before a pause that grows while secrets keep being
    rejected, so that replicas that take each other's secret away do not do it in a loop.
    """

    def __init__(self, config: IdentityBootstrapConfig, clock: Clock, report: Reporter) -> None:
        super().__init__(config, clock, report)
        self._base_url = config.identity_api_url or ""
        self._api = IdentityApiClient(
            self._base_url,
            config.identity_api_internal_token or "",
            timeout=config.request_timeout,
            ca_bundle=config.ca_bundle,
            client_cert=config.client_cert,
        )
        self._store = open_store(
            config.credential_store,
            service_name=config.service_name,
            identity_api_url=self._base_url,
            key=config.credential_store_key,
            timeout=config.request_timeout,
        )
        self.credentials: ServiceCredentials | None = None
        self._unproven: ServiceCredentials | None = None
        self._rejected: ServiceCredentials | None = None
        self._taken_back = 0
        self._unsaved = False
        self._store_warned = False
        self._must_register = False

    def obtain(self, deadline: float = math.inf) -> AccessToken:
        if not self._must_register:
            token = self._token_with(self._unproven or self.credentials, deadline)
            token = token or self._token_with(self._news(self._store.load()), deadline)
            if token is not None:
                return token
        self._unproven = self._register_in_turn(deadline)
        self._must_register = False
        return self._prove(self._unproven, deadline)

    def share(self) -> None:
        """Put the credentials into a store that has lost them, such as one that restarted empty.

        Without this the next process to start would have to regenerate the secret.
        """
        if self.credentials is None:
            return
        try:
            if self._is_to_be_shared(self._store.load()):
                with self._store.lock(self._config.request_timeout):
                    stored = self._store.load()
                    if self._is_to_be_shared(stored):
                        self._store.save(evolve(stored, credentials=self.credentials))
        except CredentialStoreError as error:
            level = logging.DEBUG if self._store_warned else logging.WARNING
            self._store_warned = True
            self._report.log(
                level, f"the credentials may not be found by other processes: {error.message}"
            )
        else:
            self._unsaved = self._store_warned = False

    def reregister(self) -> None:
        self._must_register = True

    def close(self) -> None:
        super().close()
        self._api.close()
        self._store.close()

    def _token_with(
        self, credentials: ServiceCredentials | None, deadline: float
    ) -> AccessToken | None:
        """Return a token, or None when there are no credentials or they are rejected."""
        if credentials is None:
            return None
        try:
            return self._prove(credentials, deadline)
        except InvalidClientError as error:
            self._reject(credentials, error.message)
            return None

    def _prove(self, credentials: ServiceCredentials, deadline: float) -> AccessToken:
        token = self._fetch(credentials, deadline)
        self.credentials, self._unproven, self._rejected = credentials, None, None
        return token

    def _reject(self, credentials: ServiceCredentials, reason: str) -> None:
        self.credentials = self._unproven = None
        self._rejected = credentials
        self._report.emit(
            EventKind.CREDENTIALS_REJECTED,
            f"the credentials are not used any more: {reason}; looking for others",
            level=logging.WARNING,
        )

    def _news(self, stored: StoredCredentials) -> ServiceCredentials | None:
        """Return what the store holds, unless that is nothing or what is to be replaced."""
        found = stored.credentials
        if found is None or found in (self._rejected, self.credentials):
            return None
        self._report.emit(
            EventKind.CREDENTIALS_LOADED,
            f"the client {found.client_id!r} is known from {self._store}",
            level=logging.INFO,
        )
        return found

    def _is_to_be_shared(self, stored: StoredCredentials) -> bool:
        lost = stored.credentials is None
        return lost or (self._unsaved and stored.credentials != self.credentials)

    def _register_in_turn(self, deadline: float) -> ServiceCredentials:
        with self._store.lock(self._seconds_to(deadline)):
            stored = self._store.load()
            by_another = self._news(stored)
            if by_another is not None:
                return by_another
            # Before anything is asked for: a store that cannot keep the secret must be found out
            # while there is none to lose, and whose lease has ended must not go on.
            claim = self._store.save(stored)
            return self._register(claim, deadline)

    def _register(self, claim: StoredCredentials, deadline: float) -> ServiceCredentials:
        reply = self._ask(deadline, regenerate_secret=False)
        if not self._brings_a_secret(reply):
            claim = self._store.save(self._regeneration(claim))
            reply = self._ask(deadline, regenerate_secret=True)
        credentials = credentials_of(reply, self._config.service_name, self._base_url)
        # Saved before it is proven: a secret that nobody saved is lost with this process.
        try:
            self._store.save(evolve(claim, credentials=credentials))
        except CredentialStoreError:
            self._unsaved = True
        how = "found again" if reply.already_existed else "created"
        self._report.emit(
            EventKind.REGISTERED,
            f"registered with identity-api: the client {credentials.client_id!r} was {how}",
            level=logging.INFO,
        )
        if reply.secret_regenerated:
            self._report.emit(
                EventKind.SECRET_REGENERATED,
                f"the secret was regenerated; who holds the old one must follow{self._hint()}",
                level=logging.WARNING,
            )
        return credentials

    def _hint(self) -> str:
        self._taken_back += self._rejected is not None
        if self._taken_back < 2:
            return ""
        return (
            f"; somebody else has replaced it {self._taken_back} times by now: let all replicas of "
            f"{self._config.service_name!r} share one store (IDENTITY_CREDENTIAL_STORE, which is "
            f"{self._store} here), or configure the credentials"
        )

    def _brings_a_secret(self, reply: RegisterServiceResponse) -> bool:
        rejected = self._rejected
        return bool(reply.client_secret) and (
            rejected is None or reply.client_secret != rejected.client_secret
        )

    def _regeneration(self, claim: StoredCredentials) -> StoredCredentials:
        """Return what to store before the secret is regenerated, if it may be."""
        config, now = self._config, self._clock.time()
        wait = min(claim.no_regeneration_before - now, config.max_retry_delay)
        if wait > 0 and not self._must_register:
            raise (IdentityApiError if self._rejected is None else InvalidClientError)(
                f"a new secret was asked for a moment ago, and no secret works; it is left alone "
                f"for {wait:.1f} s, in case that somebody else replaces it, too; let all replicas "
                "share one store (IDENTITY_CREDENTIAL_STORE), or configure the credentials",
                retry_after=wait,
            )
        if not config.allow_secret_regeneration:
            raise SecretNotReturnedError(
                f"the service {config.service_name!r} exists, and its secret is not known "
                "here; configure the credentials, or allow it to be replaced "
                "(IDENTITY_ALLOW_SECRET_REGENERATION, or --allow-secret-regeneration)"
            )
        calm = now - claim.no_regeneration_before > config.max_retry_delay
        before = 0 if calm else claim.regenerations
        pause = min(config.base_retry_delay * 2.0 ** min(before, 30), config.max_retry_delay)
        return evolve(
            claim,
            regenerations=before + 1,
            no_regeneration_before=now + equal_jitter(pause),
        )

    def _ask(self, deadline: float, *, regenerate_secret: bool) -> RegisterServiceResponse:
        config = self._config
        return self._api.register_service_full(
            name=config.service_name,
            display_name=config.service_display_name or config.service_name,
            description=config.service_description,
            service_type=config.service_type,
            regenerate_secret=regenerate_secret,
            timeout=self._seconds_to(deadline),
        )
