"""What every credential store has to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.credentials import save, store_at
from support.processes import run

from identity_client import CredentialStore, CredentialStoreError
from identity_client.server import IdentityServer
from identity_client.testing import CredentialStoreContract

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


class StoreContract(CredentialStoreContract):
    """The tests of a store of this package; subclasses have a fixture ``url``."""

    @pytest.fixture(autouse=True)
    def _place(self, url: str) -> None:
        self._url = url

    def make_store(self) -> CredentialStore:
        return store_at(self._url)

    def test_a_child_that_was_forked_while_the_lock_was_held_can_have_it(self, url: str) -> None:
        done = run(FORKS, url)
        assert (done.err, done.out) == ("", "200\n")

    def test_the_worker_imports_nothing(self, url: str, api: IdentityServer) -> None:
        done = run(IMPORTS, api.url, url)
        assert (done.err, done.out) == ("", "[]\n")

    def test_a_message_that_tells_where_holds_no_secret(self, url: str) -> None:
        assert "password" not in str(store_at(url))

    def test_an_error_says_what_failed(self, url: str) -> None:
        store, other = store_at(url), store_at(url)
        before = save(store)
        save(other, "newer")
        with (
            store.lock(1),
            pytest.raises(CredentialStoreError, match="could not save to") as caught,
        ):
            store.save(before)
        # Those beneath hold what was to be saved.
        assert Path(caught.traceback[-1].path).name == "_frames.py"
        with (
            store.lock(1),
            pytest.raises(
                CredentialStoreError, match=r"timed out after 0\.2 s waiting for the lock on"
            ),
            other.lock(0.2),
        ):
            pass
