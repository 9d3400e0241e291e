"""What is installed, and what it exports."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import identity_client
from identity_client import errors

ROOT = Path(__file__).parent.parent

DOCUMENTED = """
    IdentityApiClient IdentityBootstrapService IdentityBootstrapConfig IdentityApiClientOptions
    RegisterServiceRequest RegisterServiceResponse ServiceCredentials ServiceType
    VerifyMembershipParams VerifyMembershipResponse EnsureSystemOrgRequest Organization ApiEnvelope
    AccessToken Endpoints EventKind ServiceEvent ServiceState ServiceStatus TokenAuth RemoteError
    IdentityError ConfigurationError IdentityApiError IdentityApiConnectionError IdentityApiTimeout
    InvalidResponseError SecretNotReturnedError TokenEndpointError InvalidClientError
    RegistrationError NotReadyError ServiceClosedError CredentialStore CredentialStoreError
    StoredCredentials open_store __version__
"""


def test_the_wheel_is_what_is_tested() -> None:
    assert "site-packages" in Path(identity_client.__file__).parts


def test_the_exports_are_what_is_documented() -> None:
    assert sorted(identity_client.__all__) == sorted(DOCUMENTED.split())
    for name in identity_client.__all__:
        assert getattr(identity_client, name) is not None


def test_every_public_exception_is_exported() -> None:
    public = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception) and not name.startswith("_")
    }
    assert public <= set(identity_client.__all__)


def test_the_version_is_the_packages() -> None:
    assert identity_client.__version__ == importlib.metadata.version("identity-client")


def test_type_information_is_shipped() -> None:
    assert (Path(identity_client.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("module", ["flask", "click", "rich", "redis", "authlib", "waitress"])
def test_importing_the_package_imports_no_extra(module: str) -> None:
    code = f"import sys, identity_client; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_readme_has_the_two_commands() -> None:
    readme = (ROOT / "README.rst").read_text(encoding="utf-8")
    assert (
        'python3 -m venv .venv && .venv/bin/pip install ".[cli,server]" '
        "&& .venv/bin/identity-client demo\n"
    ) in readme
    assert "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox\n" in readme


def test_the_changelog_knows_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.rst").read_text(encoding="utf-8")
    assert re.search(rf"^{re.escape(identity_client.__version__)} ", changelog, re.MULTILINE)
