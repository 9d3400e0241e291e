"""The tests that each shared credential store must pass, for the authors of one."""

from __future__ import annotations

import base64
import multiprocessing
import os
import threading
import unittest
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from attrs import evolve

from ..errors import CredentialStoreError
from ..models import ServiceCredentials, StoredCredentials
from ..stores import CredentialStore

_raises = unittest.TestCase().assertRaises

_FORKS = 20

_KEY, _OTHER_KEY = (base64.urlsafe_b64encode(byte * 32).decode() for byte in (b"1", b"2"))


class CredentialStoreContract:
    """The tests of a `CredentialStore` that processes share; subclass it in your test suite.

    It works with pytest, and with unittest as the first base of a ``unittest.TestCase``::

        class TestVaultStore(CredentialStoreContract):
            @pytest.fixture(autouse=True)
            def place(self, vault):
                self.url = vault.new_url()

            def make_store(self):
                return VaultStore(self.url, service_name="orders", identity_api_url="http://api")
    """

    def make_store(self) -> CredentialStore:
        """Make a new object for the same place, as each process does; each test begins empty."""
        raise NotImplementedError

    def test_nothing_is_stored_at_first(self) -> None:
        assert self.make_store().load() == StoredCredentials()

    def test_what_is_saved_is_found_by_others(self) -> None:
        stored = StoredCredentials(
            credentials=_credentials("s"), regenerations=2, no_regeneration_before=1234.5
        )
        store = self.make_store()
        with store.lock(1):
            saved = store.save(stored)
        assert saved == evolve(stored, version=1)
        assert self.make_store().load() == saved

    def test_a_record_without_credentials_is_kept_too(self) -> None:
        store = self.make_store()
        with store.lock(1):
            store.save(StoredCredentials(regenerations=1))
        assert self.make_store().load() == StoredCredentials(version=1, regenerations=1)

    def test_only_the_version_that_was_seen_is_replaced(self) -> None:
        store = self.make_store()
        before = _save(store, "older")
        newer = _save(self.make_store(), "newer")
        with store.lock(1), _raises(CredentialStoreError):
            store.save(before)
        assert store.load() == newer

    def test_nothing_is_written_without_the_lock(self) -> None:
        store = self.make_store()
        with store.lock(1):
            pass
        unlocked = StoredCredentials(credentials=_credentials("s"))
        with _raises(CredentialStoreError):
            store.save(unlocked)
        with self.make_store().lock(1), _raises(CredentialStoreError):
            store.save(unlocked)
        assert store.load() == StoredCredentials()

    def test_one_holds_the_lock_and_the_others_wait(self) -> None:
        order: list[str] = []

        def wait_for_lock() -> None:
            with self.make_store().lock(10):
                order.append("second")

        with ThreadPoolExecutor(1) as threads:
            with self.make_store().lock(1):
                waiting = threads.submit(wait_for_lock)
                with _raises(CredentialStoreError), ExitStack() as entered:
                    entered.enter_context(self.make_store().lock(0.2))
                order.append("first")
            waiting.result()
        assert order == ["first", "second"]

    def test_the_lock_is_free_after_an_error(self) -> None:
        with _raises(ZeroDivisionError), self.make_store().lock(1):
            raise ZeroDivisionError
        with self.make_store().lock(0):
            pass

    def test_what_is_cleared_is_gone(self) -> None:
        store = self.make_store()
        _save(store, "cleared")
        store.clear()
        assert self.make_store().load() == StoredCredentials()
        store.clear()
        assert _save(store, "again").version == 1

    def test_it_works_on_after_it_was_closed(self) -> None:
        store = self.make_store()
        saved = _save(store, "s")
        store.close()
        store.close()
        assert store.load() == saved

    @unittest.skipUnless(hasattr(os, "fork"), "processes do not fork here")
    def test_a_forked_child_uses_the_store_of_its_parent(self) -> None:
        store = self.make_store()
        stopping = threading.Event()

        def hold() -> None:
            while not stopping.is_set():
                with store.lock(10):
                    store.load()

        holding = threading.Thread(target=hold, daemon=True)
        holding.start()
        try:
            statuses = [_exit_status_of_child(store) for _ in range(_FORKS)]
        finally:
            stopping.set()
            holding.join()
        assert statuses == [0] * _FORKS
        assert self.make_store().load().version == _FORKS

    def test_where_it_is_kept_is_said_without_the_secret(self) -> None:
        store = self.make_store()
        _save(store, "a-client-secret")
        assert "a-client-secret" not in str(store)
        assert "a-client-secret" not in repr(store)


class EncryptedStoreContract:
    """The tests of a store that encrypts; ``identity_client.stores.document`` helps.

    A store gets the key from ``credential_store_key`` (IDENTITY_CREDENTIAL_STORE_KEY). One that
    ignored it would keep secrets as plain text. Subclass this beside `CredentialStoreContract`.
    """

    def make_store(self, key: str | None) -> CredentialStore:
        """Make a new object for the same place with these keys; each test begins empty."""
        raise NotImplementedError

    def read_raw(self) -> bytes:
        """Return what is kept there, as it is read without the key."""
        raise NotImplementedError

    def test_what_is_kept_cannot_be_read_without_the_key(self) -> None:
        saved = _save(self.make_store(_KEY), "a-client-secret")
        assert b"a-client-secret" not in self.read_raw()
        assert self.make_store(_KEY).load() == saved

    def test_a_wrong_key_and_a_missing_one_are_errors(self) -> None:
        _save(self.make_store(_KEY), "a-client-secret")
        for key in (_OTHER_KEY, None):
            with _raises(CredentialStoreError):
                self.make_store(key).load()

    def test_keys_can_be_rotated(self) -> None:
        saved = _save(self.make_store(_KEY), "a-client-secret")
        both = self.make_store(f"{_OTHER_KEY},{_KEY}")
        assert both.load() == saved
        newer = _save(both, "newer")
        assert self.make_store(_OTHER_KEY).load() == newer


def _exit_status_of_child(store: CredentialStore) -> int | None:
    """Save in a forked child, and return 0 if that worked."""
    child = multiprocessing.get_context("fork").Process(target=_save, args=(store, "child"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child.start()
    child.join()
    return child.exitcode


def _credentials(secret: str) -> ServiceCredentials:
    return ServiceCredentials(
        client_id="orders",
        client_secret=secret,
        token_endpoint="http://keycloak.invalid/token",  # noqa: S106  # an address
        roles=("micro-service",),
    )


def _save(store: CredentialStore, secret: str) -> StoredCredentials:
    with store.lock(10):
        return store.save(evolve(store.load(), credentials=_credentials(secret)))
