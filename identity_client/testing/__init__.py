"""For the tests of applications: a service without network and threads, and a server in-process.

`FakeIdentityService` and `EventRecorder` need no extra. `IdentityServer` needs ``testing``::

    pip install "xemahq-identity-client[testing]"

With pytest, the fixtures ``fake_identity``, ``identity_server``, ``identity_service`` and
``identity_environment`` are there without an import; see ``pytest --fixtures``. Nothing in here
but that plugin needs pytest. The names are loaded when they are first used, because pytest loads
the plugin in every run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._public import load_lazily

if TYPE_CHECKING:
    from ._engine import SIGNING_KEY
    from .clock import FakeClock
    from .fake import FakeIdentityService
    from .recorder import EventRecorder
    from .server import IdentityServer
    from .stores import CredentialStoreContract, EncryptedStoreContract

_MODULES = {
    "CredentialStoreContract": "stores",
    "EncryptedStoreContract": "stores",
    "EventRecorder": "recorder",
    "FakeClock": "clock",
    "FakeIdentityService": "fake",
    "IdentityServer": "server",
    "SIGNING_KEY": "_engine",
}

__all__ = [
    "SIGNING_KEY",
    "CredentialStoreContract",
    "EncryptedStoreContract",
    "EventRecorder",
    "FakeClock",
    "FakeIdentityService",
    "IdentityServer",
]


def __getattr__(name: str) -> object:
    return load_lazily(__name__, _MODULES, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
