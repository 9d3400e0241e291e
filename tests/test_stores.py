"""Where credentials are kept: how a store is opened, and the stores without a server."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import multiprocessing
import os
import random
import resource
import signal
import stat
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from contracts.stores import StoreContract
from cryptography.fernet import Fernet
from support.credentials import API, credentials, save, store_at
from support.processes import run

from identity_client import ConfigurationError, CredentialStoreError, StoredCredentials, open_store
from identity_client.stores import ENTRY_POINTS

# --- opening ---


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        pytest.param("ftp://host/x", "names a store that is not known, ftp:", id="unknown"),
        pytest.param("file:relative", "must name a file by its absolute path", id="no path"),
        pytest.param("file://host/path", "must name a file by its absolute path", id="a host"),
        pytest.param("file:///folder/", "must name a file by its absolute path", id="a folder"),
        pytest.param("file:///a%00b", "must name a file by its absolute path", id="a null"),
        pytest.param("file:///run/a#b", "must write # as %23 and ? as %3F", id="a hash"),
        pytest.param("file:///run/a?b", "must write # as %23 and ? as %3F", id="a question mark"),
        pytest.param("file:///run/a#", "must write # as %23 and ? as %3F", id="a bare hash"),
        pytest.param("file:///run/a?", "must write # as %23 and ? as %3F", id="a bare question"),
        pytest.param("redis+sentinel://a/b", "Redis Sentinel is not supported", id="sentinel"),
    ],
)
def test_a_store_that_cannot_be_opened_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match="IDENTITY_CREDENTIAL_STORE") as caught:
        store_at(url)
    assert problem in caught.value.message


@pytest.mark.parametrize(
    ("url", "missing", "extra"),
    [
        ("file:///a", "filelock", "file"),
        ("redis://a", "redis", "redis"),
        ("rediss://a", "redis", "redis"),
    ],
)
def test_a_missing_package_is_named(
    url: str, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "identity_client.stores.file", raising=False)
    monkeypatch.delitem(sys.modules, "identity_client.stores.redis", raising=False)
    with pytest.raises(ConfigurationError, match=rf"'{missing}'; pip install .*\[{extra}\]"):
        store_at(url)


def test_another_package_can_bring_a_scheme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "vault-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: vault\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\nvault = vault_store:Store\n")
    (tmp_path / "vault_store.py").write_text(
        "from identity_client.stores.memory import MemoryStore\n"
        "class Store(MemoryStore):\n"
        "    def __init__(self, url, **arguments):\n"
        "        super().__init__()\n"
        "        self.given = (url, arguments)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    store: Any = open_store(
        "vault://host", service_name="orders", identity_api_url=API, key="k", timeout=3.0
    )
    assert store.given == (
        "vault://host",
        {"service_name": "orders", "identity_api_url": API, "key": "k", "timeout": 3.0},
    )


def test_memory_is_shared_with_nobody() -> None:
    store = store_at("memory:")
    saved = save(store)
    assert store.load() == saved == StoredCredentials(version=1, credentials=credentials())
    assert store_at("memory:").load() == StoredCredentials()
    store.clear()
    store.close()
    assert store.load() == StoredCredentials()
    assert str(store) == "memory:"


# --- file ---


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "with a blank" / "credentials.json"


@pytest.fixture
def url(path: Path) -> str:
    path.parent.mkdir()
    return f"file://{path.as_posix().replace(' ', '%20')}"


class TestFileStore(StoreContract):
    """What is true of all shared stores."""


def test_the_file_is_for_its_owner_only(url: str, path: Path) -> None:
    before = os.umask(0)
    try:
        save(store_at(url))
    finally:
        os.umask(before)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_file_that_others_can_read_is_closed_to_them(url: str, path: Path) -> None:
    save(store_at(url))
    path.chmod(0o644)
    store_at(url).load()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_where_files_have_no_modes_the_store_works_and_warns(
    url: str, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(os, "geteuid")
    store = store_at(url)
    save(store)
    path.chmod(0o644)
    assert store.load().credentials == credentials()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"the file {path}: this system has no file modes, so only")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("content", [b"", b'{"ser', b'{"service": "orders", "id', b"\x00" * 100])
def test_a_truncated_file_counts_as_none_and_is_replaced(
    url: str, path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(content)
    store = store_at(url)
    assert store.load() == StoredCredentials()
    assert caplog.messages == [
        f"ignoring corrupt data in the file {path}: it is empty or truncated"
    ]
    save(store)
    assert store.load() == StoredCredentials(version=1, credentials=credentials())


def test_a_log_handler_that_fails_does_not_make_a_truncated_file_an_error(
    url: str, path: Path
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the log server is down")

    path.write_bytes(b"")
    handler, logger = Broken(), logging.getLogger("identity_client")
    logger.addHandler(handler)
    try:
        assert store_at(url).load() == StoredCredentials()
    finally:
        logger.removeHandler(handler)


def test_a_name_with_any_character_is_taken_literally(tmp_path: Path) -> None:
    save(store_at(f"file://{tmp_path.as_posix()}/a%23b%3Fc%25d"))
    assert (tmp_path / "a#b?c%d").is_file()


@pytest.mark.parametrize("content", [b"root:x:0:0", b"[]", b'{"version": 1}', b"\xff"])
def test_a_file_of_another_program_is_left_as_it_is(url: str, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o644)
    store = store_at(url)
    for call in (store.load, lambda: save(store), store.clear):
        with pytest.raises(CredentialStoreError, match="did not write; check IDENTITY_") as caught:
            call()
        assert str(path) in caught.value.message
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"root:x:0:0", b'{"service": "billing", "identityApi": "x"}'])
def test_a_foreign_file_where_the_new_content_is_written_is_left_as_it_is(
    url: str, path: Path, content: bytes
) -> None:
    other = path.with_name(f"{path.name}.tmp")
    other.write_bytes(content)
    store = store_at(url)
    for call in (lambda: save(store), store.clear):
        with pytest.raises(CredentialStoreError, match=f"the file {other} holds "):
            call()
    assert other.read_bytes() == content
    assert not path.exists()


def test_a_link_where_the_new_content_is_written_is_left_as_it_is(url: str, path: Path) -> None:
    other = path.with_name(f"{path.name}.tmp")
    other.symlink_to(path)
    with pytest.raises(CredentialStoreError, match=f"the file {other} is a symbolic link"):
        save(store_at(url))
    assert other.is_symlink()


def test_a_link_is_not_followed(url: str, path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"")
    target.chmod(0o644)
    path.symlink_to(target)
    store = store_at(url)
    for call in (store.load, lambda: save(store), store.clear):
        with pytest.raises(CredentialStoreError, match="is a symbolic link; set IDENTITY_"):
            call()
    assert path.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_a_fifo_does_not_block(url: str, path: Path) -> None:
    os.mkfifo(path, 0o644)
    store = store_at(url)
    for call in (store.load, lambda: save(store), store.clear):
        with pytest.raises(CredentialStoreError, match="is not a regular file; set IDENTITY_"):
            call()
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_large_file_is_not_read_to_its_end(url: str, path: Path) -> None:
    path.write_bytes(b"")
    os.truncate(path, 2**40)
    with pytest.raises(CredentialStoreError, match="is larger than 1 MiB"):
        store_at(url).load()


def test_a_token_endpoint_that_is_not_a_url_is_an_error(url: str) -> None:
    store = store_at(url)
    with store.lock(1):
        broken = evolve(credentials(), token_endpoint="file:///etc/passwd")
        store.save(StoredCredentials(credentials=broken))
    with pytest.raises(CredentialStoreError, match="its member 'tokenEndpoint'"):
        store.load()


@pytest.mark.parametrize("member", ["clientId", "clientSecret", "tokenEndpoint"])
def test_a_credential_that_no_encoding_can_write_is_an_error_that_does_not_show_it(
    url: str, path: Path, member: str
) -> None:
    save(store_at(url))
    document = json.loads(path.read_text())
    document["credentials"][member] = "\ud800hunter2"
    path.write_text(json.dumps(document))
    with pytest.raises(CredentialStoreError, match=f"'{member}' is not Unicode text") as caught:
        store_at(url).load()
    assert "hunter2" not in caught.value.message


def test_a_damaged_file_is_an_error_that_names_the_member(url: str, path: Path) -> None:
    save(store_at(url))
    document = json.loads(path.read_text())
    document["credentials"]["clientSecret"] = 17
    path.write_text(json.dumps(document))
    with pytest.raises(CredentialStoreError) as caught:
        store_at(url).load()
    assert caught.value.message == (
        f"the file {path} holds corrupt data: its member 'clientSecret' must be a string; "
        "delete it, and a running instance will save its credentials again"
    )
    store_at(url).clear()
    assert store_at(url).load() == StoredCredentials()


def test_the_file_of_another_service_is_left_alone(url: str) -> None:
    save(store_at(url))
    for other, advice in (
        ({"service_name": "billing"}, "give each service a store of its own"),
        ({"identity_api_url": "http://other"}, "set IDENTITY_API_URL to that, or delete"),
    ):
        with pytest.raises(CredentialStoreError, match=advice):
            store_at(url, **other).load()
    assert store_at(url, identity_api_url=f"{API}/").load().version == 1


def test_a_first_attempt_at_a_wrong_address_leaves_nothing_in_the_way(url: str) -> None:
    wrong, store = store_at(url, identity_api_url="http://other"), store_at(url)
    with wrong.lock(1):
        wrong.save(StoredCredentials())  # as before each registration
    with pytest.raises(CredentialStoreError, match="give each service a store of its own"):
        store_at(url, service_name="billing").load()
    saved = save(store)
    assert store.load() == saved
    with pytest.raises(CredentialStoreError, match="holds the credentials of the service"):
        wrong.load()


def _faults(path: Path) -> dict[str, Callable[[], object]]:
    def replace_folder() -> None:
        path.parent.rmdir()
        path.parent.write_text("")

    return {
        "it is a folder": path.mkdir,
        "its folder is a file": replace_folder,
    }


@pytest.mark.parametrize("fault", _faults(Path("x")))
def test_a_file_that_cannot_be_used_is_a_clear_error(url: str, path: Path, fault: str) -> None:
    _faults(path)[fault]()
    with pytest.raises(CredentialStoreError, match=r"cannot be (read|locked)") as caught:
        save(store_at(url))
    assert str(path) in caught.value.message
    assert caught.value.__cause__ is None


def test_a_file_that_cannot_be_read_or_removed_is_a_clear_error(url: str, path: Path) -> None:
    save(store_at(url))
    done = (
        run(
            """
        store = open_store(sys.argv[1], service_name="orders", identity_api_url=sys.argv[2])
        os.setuid(65534)  # nobody
        for call in (store.load, store.clear, lambda: store.lock(0).__enter__()):
            try:
                call()
            except CredentialStoreError as error:
                print(error)
        """,
            url,
            API,
        )
        if os.getuid() == 0
        else None
    )
    if done is None:
        path.chmod(0)
        with pytest.raises(CredentialStoreError, match="cannot be read: permission denied"):
            store_at(url).load()
        return
    assert done.err == ""
    assert done.out.splitlines() == [
        f"the file {path} cannot be {what}: permission denied; check directory permissions and "
        "free disk space"
        for what in ("read", "removed", "locked")
    ]


def test_a_folder_that_is_missing_is_made(url: str, path: Path) -> None:
    path.parent.rmdir()
    saved = save(store_at(url))
    assert store_at(url).load() == saved


def test_a_full_disk_leaves_what_was_stored(url: str, path: Path) -> None:
    store = store_at(url)
    before = save(store)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(CredentialStoreError, match="cannot be written: file too large"):
            save(store, "newer")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert store_at(url).load() == before
    assert save(store, "newer").version == 2


def test_a_file_system_without_locks_is_a_clear_error(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_lock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_lock)
    with pytest.raises(CredentialStoreError, match="cannot be locked: function not implemented"):
        save(store_at(url))


def test_what_a_killed_writer_left_behind_is_replaced(url: str, path: Path) -> None:
    path.with_name(f"{path.name}.tmp").write_text("{")
    saved = save(store_at(url))
    assert store_at(url).load() == saved
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "credentials.json",
        "credentials.json.lock",
    ]


def _save_for_ever(url: str) -> None:
    store = store_at(url)
    for number in range(10**9):
        save(store, f"secret {number}" + "x" * 5000)


@pytest.mark.slow
def test_a_writer_that_is_killed_at_any_instant_leaves_a_whole_record_and_a_free_lock(
    url: str,
) -> None:
    versions = []
    reader = store_at(url)
    for round_ in range(50):
        writer = multiprocessing.get_context("fork").Process(target=_save_for_ever, args=(url,))
        writer.start()
        before = reader.load().version
        while reader.load().version < before + 1 + round_ % 3:  # whole at every look
            pass
        writer.kill()
        writer.join()
        with reader.lock(0):  # the system has freed it
            stored = reader.load()
            assert stored.credentials is not None
            assert stored.credentials.client_secret.endswith("x" * 5000)
            versions.append(stored.version)
    assert versions == sorted(versions)


def _count_for_ever(url: str, folder: Path) -> None:
    store, holder = store_at(url), folder / "holder"
    with (folder / "saves").open("ab", buffering=0) as saves:
        while True:
            with store.lock(30):
                if holder.is_symlink() and (folder / f"killed {holder.readlink()}").exists():
                    holder.unlink()
                holder.symlink_to(str(os.getpid()))  # fails where somebody else has the lock
                store.save(evolve(store.load(), credentials=credentials()))
                saves.write(b".")
                holder.unlink()


@pytest.mark.slow
def test_holders_that_are_killed_at_any_instant_neither_keep_the_lock_nor_share_it(
    url: str, tmp_path: Path
) -> None:
    kills, limit = 50, 2.0  # one that waits for a lock that was kept gives up after 30 s
    folder = tmp_path / "witnesses"
    folder.mkdir()
    context = multiprocessing.get_context("fork")
    reader = store_at(url)

    def start() -> BaseProcess:
        process = context.Process(target=_count_for_ever, args=(url, folder))
        process.start()
        return process

    def wait_until(condition: Callable[[], bool]) -> float:
        began = time.monotonic()
        while not condition():
            assert all(each.is_alive() for each in contenders), "two have held the lock"
        return time.monotonic() - began

    def kill(process: BaseProcess) -> None:
        (folder / f"killed {process.pid}").touch()
        process.kill()
        process.join()
        contenders.remove(process)

    def holder() -> BaseProcess | None:
        try:
            pid = (folder / "holder").readlink().name
        except FileNotFoundError:
            return None
        return next((each for each in contenders if str(each.pid) == pid), None)

    def newer_than(version: int) -> bool:
        return reader.load().version > version

    contenders = [start() for _ in range(4)]
    waits = []
    try:
        for _ in range(kills):
            instant = time.monotonic() + random.uniform(0, 0.03)
            victim = None
            while victim is None or time.monotonic() < instant:
                wait_until(lambda: holder() is not None)
                victim = holder()
            kill(victim)
            waits.append(wait_until(partial(newer_than, reader.load().version)))
            contenders.append(start())
    finally:
        for process in list(contenders):
            kill(process)
    unreported = reader.load().version - (folder / "saves").stat().st_size
    assert 0 <= unreported <= kills + 4
    assert sorted(waits)[-5] < limit, sorted(waits)  # a busy machine may be slow now and then
    with reader.lock(0):
        pass


def test_a_child_does_not_keep_the_lock_of_a_holder_that_was_killed(url: str) -> None:
    reading, writing = os.pipe()
    holder = os.fork()
    if holder == 0:
        with store_at(url).lock(1):
            child = os.fork()
            if child:
                os.write(writing, str(child).encode())
            signal.pause()
    child = int(os.read(reading, 20))
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    try:
        with store_at(url).lock(10):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(reading)
        os.close(writing)


# --- encryption ---

KEY = Fernet.generate_key().decode()


def test_with_a_key_nothing_is_readable(url: str, path: Path) -> None:
    store = store_at(url, key=KEY)
    saved = save(store)
    assert store_at(url, key=KEY).load() == saved
    content = path.read_text()
    assert json.loads(content)["service"] == "orders"
    assert "a-client-secret" not in content
    assert "clientId" not in content


def test_keys_can_be_replaced_one_after_the_other(url: str) -> None:
    old, new = KEY, Fernet.generate_key().decode()
    save(store_at(url, key=old))
    both = store_at(url, key=f"{new}, {old}")
    assert both.load().credentials == credentials()
    saved = save(both)
    assert store_at(url, key=new).load() == saved


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        pytest.param(None, "is encrypted, but no key is set; set", id="none"),
        pytest.param(
            Fernet.generate_key().decode(),
            "cannot be decrypted with the configured key; set",
            id="another",
        ),
    ],
)
def test_without_the_key_nothing_is_overwritten(
    url: str, path: Path, key: str | None, problem: str
) -> None:
    save(store_at(url, key=KEY))
    content = path.read_bytes()
    with pytest.raises(CredentialStoreError, match=f"{problem} IDENTITY_CREDENTIAL_STORE_KEY"):
        save(store_at(url, key=key))
    assert path.read_bytes() == content


def test_with_a_key_nothing_is_accepted_that_is_not_encrypted(url: str, path: Path) -> None:
    save(store_at(url))
    content = path.read_bytes()
    store = store_at(url, key=KEY)
    with pytest.raises(CredentialStoreError) as caught:
        save(store)
    assert caught.value.message == (
        f"the data in the file {path} is not encrypted, but IDENTITY_CREDENTIAL_STORE_KEY is set; "
        "stop all instances, run 'identity-client credentials clear', and start them with the key: "
        "the first one registers again"
    )
    assert path.read_bytes() == content
    store.clear()
    assert save(store).version == 1


@pytest.mark.parametrize("member", ["service", "identityApi"])
def test_what_is_encrypted_names_its_owner_inside(url: str, path: Path, member: str) -> None:
    owner = {
        "service": {"service_name": "billing"},
        "identityApi": {"identity_api_url": "http://b"},
    }
    other = store_at(url, key=KEY, **owner[member])
    save(other)
    stolen = json.loads(path.read_text())
    path.write_text(json.dumps({**stolen, "service": "orders", "identityApi": API}))
    with pytest.raises(
        CredentialStoreError, match="holds the credentials of the service"
    ) as caught:
        store_at(url, key=KEY).load()
    assert next(iter(owner[member].values())) in caught.value.message


@pytest.mark.parametrize("text", ["\u00e9", "", None, "gAAAA"], ids=range(4))
def test_what_cannot_be_decrypted_is_a_clear_error(url: str, path: Path, text: str | None) -> None:
    owner = {"service": "orders", "identityApi": API}
    path.write_text(json.dumps({**owner, "version": 1, "encrypted": text}))
    with pytest.raises(CredentialStoreError, match="cannot be decrypted with the configured key"):
        store_at(url, key=KEY).load()


def test_what_was_encrypted_without_an_owner_is_refused(url: str, path: Path) -> None:
    inside = Fernet(KEY).encrypt(json.dumps({"version": 1}).encode()).decode()
    owner = {"service": "orders", "identityApi": API}
    path.write_text(json.dumps({**owner, "version": 1, "encrypted": inside}))
    with pytest.raises(CredentialStoreError, match="its member 'service' is missing; delete it"):
        store_at(url, key=KEY).load()


@pytest.mark.parametrize("key", ["hunter2", "", "ü", f"{KEY},"])
def test_a_key_that_is_none_is_refused_without_showing_it(url: str, key: str) -> None:
    with pytest.raises(ConfigurationError, match="must be a Fernet key") as caught:
        store_at(url, key=key)
    assert "hunter2" not in str(caught.value)


def test_a_key_needs_its_package(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(
        ConfigurationError, match=r"pip install 'xemahq-identity-client\[encryption\]'"
    ):
        store_at(url, key=KEY)


def test_no_secret_is_logged(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = store_at(url, key=KEY)
    save(store)
    store.load()
    assert "a-client-secret" not in caplog.text
    assert KEY not in caplog.text
