"""Celery: a service that starts with the worker, and not when its module is imported.

An app's module is imported by producers, by ``beat``, by each ``inspect ping`` of a probe. None of
them starts the service. A worker does, before its pool starts, so that forked children inherit the
credentials and the token.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import requests
from celery import Celery, current_app, signals
from celery.exceptions import WorkerShutdown

from .. import _fork
from .._http.hosts import AcceptedTokens
from ..auth import TokenAuth
from ..errors import ConfigurationError, IdentityError
from ..service import IdentityBootstrapService
from ._shared import config_from_settings, shared_service

__all__ = ["CeleryIdentity"]

_log = logging.getLogger("identity_client")

# Children that are forked before the service has credentials would each register, so the worker
# waits this many seconds for a first token. In an outage it starts without one.
_GRACE = 2.0


class CeleryIdentity:
    """The access tokens of a Celery app; its service starts when a worker of the app does.

    Creating it makes no request, starts no thread, and reads neither ``app.conf`` nor the
    environment. Settings are the keys of ``app.conf.identity_client``, such as ``SERVICE_NAME``,
    and the environment. A ready service under its key ``SERVICE``, such as a fake in tests, comes
    before all others.

    A worker whose settings cannot be used does not start.

    Args:
        app: the Celery app.
        service: the service, or a callable that returns it; called when it is needed first. None
            for the one of the settings, which all integrations in the process share.
        wait: seconds that a starting worker waits for its first token, 0 or more; without a token
            the worker ends with an error. None for a worker that starts in any case.
    """

    def __init__(
        self,
        app: Celery,
        *,
        service: IdentityBootstrapService | Callable[[], IdentityBootstrapService] | None = None,
        wait: float | None = None,
    ) -> None:
        self._app = app
        self._given = service
        self._wait = wait
        self._made: IdentityBootstrapService | None = None
        self._lock = _fork.ForkSafeLock()
        self._accepted_tokens = AcceptedTokens()
        uid = f"identity_client.{id(self)}"
        signals.worker_init.connect(self._on_worker_init, weak=False, dispatch_uid=uid)
        signals.worker_process_init.connect(self._on_process_init, weak=False, dispatch_uid=uid)

    @property
    def service(self) -> IdentityBootstrapService:
        """The service of this process; reading it makes it, and starts nothing.

        Raises:
            ConfigurationError: settings cannot be used, or required ones are missing.
        """
        ready: IdentityBootstrapService | None = self._settings.get("SERVICE")
        return ready or self._service

    def get_access_token(self, timeout: float | None = None) -> str:
        """Return a valid access token, as `IdentityBootstrapService.get_access_token` does.

        Args:
            timeout: seconds to wait at most, 0 or more; None for ``token_timeout``.
        """
        return self.service.get_access_token(timeout)

    def auth(self, hosts: Iterable[str] | None = None) -> TokenAuth:
        """Return an auth object for requests; a module may create it when it is imported.

        Args:
            hosts: where the token may be sent, as for `IdentityBootstrapService.auth`.
        """
        return TokenAuth(
            self.get_access_token,
            self._invalidate_token,
            hosts,
            accepted_tokens=self._accepted_tokens,
        )

    def session(self, hosts: Iterable[str] | None = None) -> requests.Session:
        """Return a new `requests.Session` that sends the token.

        Args:
            hosts: as for `auth`.
        """
        session = requests.Session()
        session.auth = self.auth(hosts)
        return session

    def _invalidate_token(
        self, token: str, host: str | None = None, *, was_accepted: bool = False
    ) -> None:
        self.service.invalidate_token(token, host, was_accepted=was_accepted)

    @property
    def _settings(self) -> Mapping[str, Any]:
        given: object = self._app.conf.get("identity_client") or {}
        if not isinstance(given, Mapping):
            raise ConfigurationError("app.conf.identity_client must be a dictionary")
        return cast("Mapping[str, Any]", given)

    @property
    def _service(self) -> IdentityBootstrapService:
        if self._made is None:
            # Two services would each register, and the second with a new secret.
            with self._lock.of_this_process():
                self._made = self._made or self._make()
        return self._made

    def _make(self) -> IdentityBootstrapService:
        if callable(self._given):
            return self._given()
        if self._given is not None:
            return self._given
        where = "app.conf.identity_client"
        config = config_from_settings(self._settings, where=where, short=True)
        return shared_service(config, self)

    # Celery logs and swallows what a receiver raises, except for `WorkerShutdown`.

    def _on_worker_init(self, sender: Any, **_: object) -> None:
        if sender.app is not self._app:
            return
        try:
            service = self.service
            service.start(validate=False)
        except IdentityError as error:
            raise WorkerShutdown(f"the worker does not start: {error}") from None
        except Exception as error:  # of the callable that makes the service
            cause = f"{type(error).__name__}: {error}"
            raise WorkerShutdown(f"the worker does not start: {cause}") from error
        is_ready = service.wait_for_ready(_GRACE if self._wait is None else self._wait)
        if not is_ready and self._wait is not None:
            cause = service.status().last_error or "an attempt is under way"
            raise WorkerShutdown(
                f"the worker does not start: no access token within {self._wait:g} s: {cause}"
            )

    def _on_process_init(self, **_: object) -> None:
        """Start in a child of the pool, which is killed unless it is up within 4 s."""
        if current_app != self._app:
            return
        try:
            self.service.start(validate=False)
        except IdentityError as error:
            _log.error("cannot start the identity service in this process: %s", error)
