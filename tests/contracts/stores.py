"""What every credential store has to do."""

from __future__ import annotations

import threading

import pytest
from attrs import evolve
from support.credentials import credentials, save, store_at
from support.processes import run

from identity_client import CredentialStoreError, StoredCredentials
from identity_client.server import IdentityServer

FORKS = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
store = open_store(sys.argv[1], service_name="orders", identity_api_url="http://a")
def hold():
    while True:
        with store.lock(10):
            store.load()
threading.Thread(target=hold, daemon=True).start()
for number in range(200):
    child = os.fork()
    if child == 0:
        with store.lock(5):
            store.save(store.load())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, number
print(store.load().version)
"""


IMPORTS = """
service = make(url, credential_store=sys.argv[2])
before = set(sys.modules)
service.invalidate_token(service.get_access_token())
service.get_access_token()
service.close()
print(sorted(set(sys.modules) - before))
"""


class StoreContract:
    """The tests of a store that is shared; subclasses have a fixture ``url``."""

    def test_nothing_is_stored_at_first(self, url: str) -> None:
        assert store_at(url).load() == StoredCredentials()

    def test_what_is_saved_is_found_by_others(self, url: str) -> None:
        stored = StoredCredentials(
            credentials=credentials(), regenerations=2, no_regeneration_before=1234.5
        )
        store = store_at(url)
        with store.lock(1):
            saved = store.save(stored)
        assert saved == evolve(stored, version=1)
        assert store_at(url).load() == saved

    def test_a_record_without_credentials_is_kept_too(self, url: str) -> None:
        store = store_at(url)
        with store.lock(1):
            store.save(StoredCredentials(regenerations=1))
        assert store_at(url).load() == StoredCredentials(version=1, regenerations=1)

    def test_only_the_version_that_was_seen_is_replaced(self, url: str) -> None:
        store, other = store_at(url), store_at(url)
        before = save(store)
        newer = save(other, "newer")
        with store.lock(1), pytest.raises(CredentialStoreError, match="could not save to"):
            store.save(before)
        assert store.load() == newer

    def test_nothing_is_written_without_the_lock(self, url: str) -> None:
        store = store_at(url)
        with store.lock(1):
            pass
        with pytest.raises(CredentialStoreError, match="could not save to"):
            store.save(StoredCredentials(credentials=credentials()))
        with store_at(url).lock(1), pytest.raises(CredentialStoreError, match="could not save to"):
            store.save(StoredCredentials(credentials=credentials()))
        assert store.load() == StoredCredentials()

    def test_one_holds_the_lock_and_the_others_wait(self, url: str) -> None:
        released = threading.Event()
        order: list[str] = []

        def wait_for_lock() -> None:
            with store_at(url).lock(10):
                assert released.is_set()
                order.append("second")

        with store_at(url).lock(1):
            waiting = threading.Thread(target=wait_for_lock)
            waiting.start()
            with (
                pytest.raises(
                    CredentialStoreError, match=r"timed out after 0\.2 s waiting for the lock on"
                ),
                store_at(url).lock(0.2),
            ):
                pass
            order.append("first")
            released.set()
        waiting.join()
        assert order == ["first", "second"]

    def test_the_lock_is_free_after_an_error(self, url: str) -> None:
        with pytest.raises(ZeroDivisionError), store_at(url).lock(1):
            raise ZeroDivisionError
        with store_at(url).lock(0):
            pass

    def test_what_is_cleared_is_gone(self, url: str) -> None:
        store = store_at(url)
        save(store)
        store.clear()
        assert store_at(url).load() == StoredCredentials()
        store.clear()
        save(store, "again")
        assert store.load().version == 1

    def test_it_works_on_after_it_was_closed(self, url: str) -> None:
        store = store_at(url)
        saved = save(store)
        store.close()
        store.close()
        assert store.load() == saved

    def test_a_child_that_was_forked_while_the_lock_was_held_can_have_it(self, url: str) -> None:
        done = run(FORKS, url)
        assert (done.err, done.out) == ("", "200\n")

    def test_the_worker_imports_nothing(self, url: str, api: IdentityServer) -> None:
        done = run(IMPORTS, api.url, url)
        assert (done.err, done.out) == ("", "[]\n")

    def test_a_message_that_tells_where_holds_no_secret(self, url: str) -> None:
        assert "password" not in str(store_at(url))
