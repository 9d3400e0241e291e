"""Credentials by registration with identity-api, once for all replicas that share a store.

The credentials are in one of four states::

              register or load                 token issued
      NONE ───────────────────────► UNTESTED ───────────────► ACCEPTED
                                       │ ▲                       │
                          invalid_client │ newer ones            │ invalid_client
                                       ▼ │ (store, registration) ▼
                                     REJECTED ◄──────────────────┘
                                       │  token issued after all
                                       └──────────────────────────► ACCEPTED

Rejected credentials are the last resort, not rubbish: a client that was disabled for a moment works
again with the same secret. Each attempt begins with the known credentials, whatever their state,
and asks them once more before a secret is regenerated, which cuts off every other replica.

While the token endpoint fails, the store and identity-api are asked for another one. A candidate
from there replaces the known credentials once it has issued a token.
"""

from __future__ import annotations

import logging
import math
import threading
from enum import Enum, auto

import backoff
from attrs import evolve

from .._http.retry import Backoff, equal_jitter, retry_after_with_jitter
from .._http.transport import shown_url
from ..api_client import IdentityApiClient, extract_credentials
from ..config import IdentityBootstrapConfig
from ..errors import (
    CredentialStoreError,
    IdentityApiError,
    IdentityError,
    InvalidClientError,
    RemoteError,
    SecretNotReturnedError,
    TokenEndpointError,
    copy_for_raise,
)
from ..events import EventEmitter, EventKind
from ..models import AccessToken, RegisterServiceResponse, ServiceCredentials, StoredCredentials
from ..stores import open_store
from .clock import Clock
from .sources import Step, _TokenSourceBase

ENDPOINT_CHECK_PAUSE = 300.0
"""The longest time in seconds until identity-api is asked whether a failing endpoint has moved."""


class CredentialState(Enum):
    """What the token endpoint said of the credentials; the module has the drawing."""

    NONE = auto()
    UNTESTED = auto()
    ACCEPTED = auto()
    REJECTED = auto()


class RegistrationSource(_TokenSourceBase):
    """Registers the service with identity-api, and again when its credentials are rejected.

    The store is read first. On a miss, or when what it holds was just rejected, one process
    registers under the store's lock and the others reuse its result.

    A secret is regenerated only when identity-api has the service and returns no secret, or the
    rejected one; and not again before a pause that grows while secrets keep being rejected, so that
    replicas that rotate each other's secret do not do it in a loop.
    """

    def __init__(self, config: IdentityBootstrapConfig, clock: Clock, events: EventEmitter) -> None:
        super().__init__(config, clock, events)
        self._base_url = config.identity_api_url or ""
        self._store = open_store(
            config.credential_store,
            service_name=config.service_name,
            identity_api_url=self._base_url,
            key=config.credential_store_key,
            timeout=config.request_timeout,
        )
        self._known: ServiceCredentials | None = None
        self._state = CredentialState.NONE
        self._is_forced = False
        self._registration_backoff: Backoff | None = None
        self._register_at = -math.inf
        self._registration_error: IdentityError | None = None
        self._candidate: ServiceCredentials | None = None
        self._is_candidate_stored = False
        self._has_endpoint_failed = False
        self._is_dirty = False
        self._sync_failed = False
        self._lost_rotations = 0
        self._claim_seen: tuple[float, float] | None = None
        self.at_fork_reinit()

    def at_fork_reinit(self) -> None:
        # A worker that writes back to a store that hangs may be replaced meanwhile.
        self._store_lock = threading.Lock()
        self._endpoint_check_at: float | None = None  # children draw moments of their own

    @property
    def credentials(self) -> ServiceCredentials | None:
        accepted = self._state is CredentialState.ACCEPTED
        return self._known if accepted else None

    @property
    def has_known_credentials(self) -> bool:
        return self._known is not None

    # --- obtaining a token ---

    def obtain(self, deadline: float = math.inf) -> AccessToken:
        if self._is_forced and self._clock.monotonic() >= self._register_at:
            return self._register_or_fall_back(deadline)
        try:
            token = self._token_with_known(deadline)
        except TokenEndpointError:
            token = self._token_with_candidate(deadline)
            if token is None:
                raise
        if token is not None:
            return token
        self.step = Step.REGISTRATION if self._known is None else Step.TOKEN
        with self._store_lock:
            stored = self._store.load()
        if self._take_newer(stored):
            token = self._token_with_known(deadline)
            if token is not None:
                return token
        return self._register(deadline)

    def register_again(self) -> None:
        self._is_forced = True

    def next_registration_in(self) -> float | None:
        return max(self._register_at - self._clock.monotonic(), 0.0) if self._is_forced else None

    def close(self) -> None:
        super().close()
        # Where a replaced worker still hangs in the store, the next close does it.
        if self._store_lock.acquire(blocking=False):
            try:
                self._store.close()
            finally:
                self._store_lock.release()

    def _take_newer(self, stored: StoredCredentials) -> bool:
        """Use what the store holds if it is something else; return whether it is."""
        newer = self._newer_credentials(stored)
        if newer is not None:
            self._use(newer, CredentialState.UNTESTED)
            # They may be older than the endpoint, and a process that ends soon has to find out.
            pause = backoff.full_jitter(self._config.base_retry_delay)
            self._endpoint_check_at = self._clock.monotonic() + pause
        return newer is not None

    def _token_with_candidate(self, deadline: float) -> AccessToken | None:
        """Return a token of an endpoint that was found elsewhere, now that the known one fails.

        What works replaces the known credentials; what does not leaves them as they are.
        """
        candidate, self._candidate = self._candidate, None
        if candidate is None:
            return None
        try:
            token = self._fetch(candidate, deadline)
        except TokenEndpointError:
            return None
        self._use(candidate, CredentialState.ACCEPTED)
        self._is_dirty = not self._is_candidate_stored
        self._events.log(
            logging.WARNING,
            "the token endpoint has moved to %s",
            shown_url(candidate.token_endpoint),
        )
        return token

    def _use(self, credentials: ServiceCredentials, state: CredentialState) -> None:
        self._known, self._state = credentials, state
        self._candidate = self._endpoint_check_at = None

    def _token_with_known(self, deadline: float) -> AccessToken | None:
        """Return a token, or None when there are no credentials or they are rejected."""
        if self._known is None:
            return None
        try:
            return self._fetch_with_known(deadline)
        except InvalidClientError:
            return None

    def _fetch_with_known(self, deadline: float) -> AccessToken:
        assert self._known is not None  # noqa: S101  # its callers have looked
        try:
            token = self._fetch(self._known, deadline)
        except InvalidClientError as error:
            if self._state is not CredentialState.REJECTED:
                self._state = CredentialState.REJECTED
                self._events.emit_failure(
                    EventKind.CREDENTIALS_REJECTED,
                    "client credentials rejected: %s; looking for newer ones",
                    error.message,
                    error=error,
                    level=logging.WARNING,
                )
            raise
        except TokenEndpointError:
            self._has_endpoint_failed = True
            raise
        self._use(self._known, CredentialState.ACCEPTED)
        return token

    def _newer_credentials(self, stored: StoredCredentials) -> ServiceCredentials | None:
        """Return what the store holds, unless that is nothing, or what is known already."""
        found = stored.credentials
        if found is None or found == self._known:
            return None
        self._events.emit(
            EventKind.CREDENTIALS_LOADED,
            "loaded credentials of client %r from %s",
            found.client_id,
            str(self._store),
            level=logging.INFO,
        )
        return found

    # --- registering ---

    def _register_or_fall_back(self, deadline: float) -> AccessToken:
        """Register because `register_again` asked for it; keep what works if that fails."""
        try:
            return self._register(deadline)
        except IdentityError as error:
            step = self.step
            if not self._is_forced:
                raise
            token = self._token_with_known(deadline)
            if token is None:
                self.step = step
                raise
            delay = self.next_registration_in()
            self._events.emit_failure(
                EventKind.REGISTRATION_FAILED,
                "registration failed, the current credentials stay in use: %s; retrying in %.1f s",
                error.message,
                delay,
                error=error,
                level=logging.WARNING,
                next_attempt_in=delay,
            )
            return token

    def _register(self, deadline: float) -> AccessToken:
        """Register, on a schedule of its own while known credentials are tried more often."""
        config = self._config
        if self._known is None:
            self._register_at = -math.inf  # the worker's pauses are the schedule
        if self._clock.monotonic() < self._register_at and self._registration_error is not None:
            self.step = Step.TOKEN
            raise copy_for_raise(self._registration_error)
        self.step = Step.REGISTRATION
        try:
            token = self._register_under_lock(deadline)
        except IdentityError as error:
            if self.step is Step.REGISTRATION:  # else the new credentials wait for their token
                schedule = self._registration_backoff or Backoff(
                    config.base_retry_delay, config.max_retry_delay
                )
                self._registration_backoff = schedule
                retry_after = error.retry_after if isinstance(error, RemoteError) else None
                asked = retry_after_with_jitter(retry_after or 0.0, config.max_retry_delay)
                self._register_at = self._clock.monotonic() + max(schedule.next(), asked)
                self._registration_error = copy_for_raise(error)
            raise
        self._is_forced = False
        self._registration_backoff = self._registration_error = None
        self._register_at = -math.inf
        return token

    def _register_under_lock(self, deadline: float) -> AccessToken:
        with self._store_lock, self._store.lock(self._remaining(deadline)):
            stored = self._store.load()
            newer = self._newer_credentials(stored)
            if newer is None:
                # Saved before identity-api is asked: a store that cannot keep the secret has to be
                # found out while there is none to lose, and a holder whose lease has ended must
                # not go on.
                claim = self._store.save(stored)
                reply = self._register_call(deadline, regenerate_secret=False)
                if not self._has_new_secret(reply):
                    if not self._is_forced:
                        # Rejected by mistake, for a moment, or at an endpoint that has moved? Ask
                        # once more before a secret is rotated that other replicas may be using.
                        self._move_known(reply.token_endpoint)
                        token = self._token_with_known(deadline)
                        self.step = Step.REGISTRATION
                        if token is not None:
                            return token
                    claim = self._store.save(self._claim_regeneration(claim))
                    reply = self._register_call(deadline, regenerate_secret=True)
                newer = self._save_new(reply, claim)
            self._use(newer, CredentialState.UNTESTED)
            self._is_forced = False  # there are new ones, whatever becomes of their first token
        return self._fetch_with_known(deadline)

    def _move_known(self, token_endpoint: str) -> None:
        if self._known is not None and self._known.token_endpoint != token_endpoint:
            self._known = evolve(self._known, token_endpoint=token_endpoint)
            self._is_dirty = True

    def _save_new(
        self, reply: RegisterServiceResponse, claim: StoredCredentials
    ) -> ServiceCredentials:
        credentials = extract_credentials(reply, self._config.service_name, self._base_url)
        # Saved before they are validated: a secret that was not saved is lost with this process,
        # and the next one would have to rotate it.
        try:
            self._store.save(evolve(claim, credentials=credentials))
        except CredentialStoreError:
            self._is_dirty = True
        self._events.emit(
            EventKind.REGISTERED,
            "registered with identity-api: client %r (already registered)"
            if reply.already_existed
            else "registered with identity-api: client %r (created)",
            credentials.client_id,
            level=logging.INFO,
            url=self._base_url,
        )
        if reply.secret_regenerated:
            self._report_rotation()
        return credentials

    def _report_rotation(self) -> None:
        self._lost_rotations += self._state is CredentialState.REJECTED
        template = (
            "client secret regenerated; instances that hold the old secret will be rejected until "
            "they reload it"
        )
        arguments: tuple[object, ...] = ()
        if self._lost_rotations >= 2:
            template += (
                "; another instance has replaced it %d times: configure a shared credential store "
                "for all replicas (IDENTITY_CREDENTIAL_STORE, which is %s here), or pre-configured "
                "credentials"
            )
            arguments = (self._lost_rotations, str(self._store))
        self._events.emit(EventKind.SECRET_REGENERATED, template, *arguments, level=logging.WARNING)

    def _has_new_secret(self, reply: RegisterServiceResponse) -> bool:
        known = self._known
        return bool(reply.client_secret) and (
            known is None or reply.client_secret != known.client_secret
        )

    def _claim_regeneration(self, claim: StoredCredentials) -> StoredCredentials:
        """Return what to store before the secret is regenerated, if it may be now."""
        config = self._config
        wait = self._regeneration_wait(claim)
        if wait > 0:
            raise IdentityApiError(
                "the secret was regenerated a moment ago and is rejected again; not regenerating "
                f"for {wait:.1f} s, because another instance may be doing the same; configure a "
                "shared credential store for all replicas (IDENTITY_CREDENTIAL_STORE), or "
                "pre-configured credentials",
                retry_after=wait,
            )
        if not config.allow_secret_regeneration:
            raise SecretNotReturnedError(
                f"identity-api returned no secret: the service {config.service_name!r} is "
                "registered already, and its secret is not known here; configure a shared "
                "credential store (IDENTITY_CREDENTIAL_STORE) or pre-configured credentials, or "
                "allow its rotation (IDENTITY_ALLOW_SECRET_REGENERATION=true for a service, "
                "--allow-secret-regeneration for a command), which invalidates the old secret "
                "everywhere"
            )
        now = self._clock.time()
        is_quiet = now - claim.no_regeneration_before > config.max_retry_delay
        before = 0 if is_quiet else claim.regenerations
        return evolve(
            claim,
            regenerations=before + 1,
            no_regeneration_before=now + equal_jitter(self._regeneration_pause(before)),
        )

    def _regeneration_pause(self, regenerations: int) -> float:
        config = self._config
        return float(
            min(config.base_retry_delay * 2.0 ** min(regenerations, 30), config.max_retry_delay)
        )

    def _regeneration_wait(self, claim: StoredCredentials) -> float:
        """Return seconds until the secret may be regenerated again.

        The moment is stored by the wall clock, which may be wrong here or on the replica that
        wrote it. So it counts for no longer than the pause that it stands for, measured on this
        process's monotonic clock from when it was first seen.
        """
        if claim.no_regeneration_before <= self._clock.time():
            return 0.0
        now = self._clock.monotonic()
        if self._claim_seen is None or self._claim_seen[0] != claim.no_regeneration_before:
            self._claim_seen = claim.no_regeneration_before, now
        pause = self._regeneration_pause(max(claim.regenerations - 1, 0))
        by_wall = claim.no_regeneration_before - self._clock.time()
        return max(min(by_wall, self._claim_seen[1] + pause - now), 0.0)

    def _register_call(
        self, deadline: float, *, regenerate_secret: bool
    ) -> RegisterServiceResponse:
        config = self._config
        # A client for this one call: a mounted internal token rotates, and a connection that was
        # kept for the next registration would be closed by then.
        with IdentityApiClient(
            self._base_url,
            config.read_internal_token() or config.identity_api_internal_token or "",
            timeout=config.request_timeout,
            ca_bundle=config.ca_bundle,
            client_cert=config.client_cert,
        ) as api:
            return api.register_service_full(
                name=config.service_name,
                display_name=config.service_display_name or config.service_name,
                description=config.service_description,
                service_type=config.service_type,
                regenerate_secret=regenerate_secret,
                timeout=self._remaining(deadline),
            )

    # --- after each attempt, when its outcome is published ---

    def follow_up(self) -> None:
        """Write the credentials back to a store that has lost them, e.g. after a restart.

        Without this the next process to start would have to regenerate the secret. And while the
        token endpoint fails, find out whether it has moved.
        """
        if not self._store_lock.acquire(blocking=False):
            return
        try:
            if self.credentials is not None:
                self._sync_or_warn(self.credentials)
            if self._has_endpoint_failed:
                self._has_endpoint_failed = False
                self._find_candidate()
        finally:
            self._store_lock.release()

    def _find_candidate(self) -> None:
        """Look for the credentials that the next attempt tries if the token endpoint fails again.

        Another replica may have saved them. identity-api is asked seldom, since most endpoints that
        fail have not moved, and it may be down for the same reason.
        """
        now, known = self._clock.monotonic(), self._known
        if self._endpoint_check_at is None:
            self._endpoint_check_at = now + backoff.full_jitter(ENDPOINT_CHECK_PAUSE)
        try:
            if now >= self._endpoint_check_at:
                self._endpoint_check_at = now + equal_jitter(ENDPOINT_CHECK_PAUSE)
                self._is_candidate_stored = False
                self._candidate = self._ask_for_endpoint()
            elif not self._is_dirty:
                found = self._store.load().credentials
                if found and known and found.token_endpoint != known.token_endpoint:
                    self._is_candidate_stored = True
                    self._candidate = found
        except IdentityError as error:  # callers hear of the token endpoint
            self._events.log(
                logging.DEBUG,
                "could not find out whether the token endpoint has moved: %s",
                error.message,
            )

    def _ask_for_endpoint(self) -> ServiceCredentials | None:
        """Ask identity-api where the token endpoint is, by a registration without a new secret."""
        with self._store.lock(self._config.request_timeout):
            claim = self._store.save(self._store.load())
            reply = self._register_call(math.inf, regenerate_secret=False)
            if self._has_new_secret(reply):  # identity-api had lost the service
                return self._save_new(reply, claim)
        known = self._known
        latest = known if self._is_dirty else claim.credentials or known
        moved = latest and evolve(latest, token_endpoint=reply.token_endpoint)
        return None if moved == known else moved

    def _sync_or_warn(self, credentials: ServiceCredentials) -> None:
        try:
            self._sync(credentials)
        except CredentialStoreError as error:
            level = logging.DEBUG if self._sync_failed else logging.WARNING
            self._sync_failed = True
            self._events.log(
                level,
                "could not save the credentials to the store, so other processes will not find "
                "them: %s",
                error.message,
            )
        else:
            self._is_dirty = self._sync_failed = False

    def _sync(self, credentials: ServiceCredentials) -> None:
        if not self._needs_sync(self._store.load(), credentials):
            return
        with self._store.lock(self._config.request_timeout):
            stored = self._store.load()
            if self._needs_sync(stored, credentials):
                self._store.save(evolve(stored, credentials=credentials))

    def _needs_sync(self, stored: StoredCredentials, credentials: ServiceCredentials) -> bool:
        return stored.credentials is None or (self._is_dirty and stored.credentials != credentials)
