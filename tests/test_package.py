"""What is installed, and what it exports."""

from __future__ import annotations

import importlib.metadata
import os
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


@pytest.mark.skipif(
    "IDENTITY_CLIENT_TEST_WHEEL" not in os.environ,
    reason="tox sets IDENTITY_CLIENT_TEST_WHEEL; without it an editable install may be tested",
)
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
    assert identity_client.__version__ == importlib.metadata.version("xemahq-identity-client")


def test_type_information_is_shipped() -> None:
    assert (Path(identity_client.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize(
    "module", ["flask", "click", "rich", "redis", "authlib", "cheroot", "yaml"]
)
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


def test_every_page_and_message_installs_the_distribution_by_its_own_name() -> None:
    # Another project has the name without the prefix.
    foreign = re.compile(r"(?<!xemahq-)identity-client\\?\[|pip install ['\"]?identity-client\b")
    places = [ROOT / "README.rst"]
    for folder, kind in (("identity_client", "py"), ("docs", "rst"), ("examples", "*")):
        places += (path for path in (ROOT / folder).rglob(f"*.{kind}") if path.is_file())
    places = [path for path in places if "__pycache__" not in path.parts]
    assert [path for path in places if foreign.search(path.read_text(encoding="utf-8"))] == []


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = getattr(identity_client, "nonsense")  # noqa: B009  # at run time


def test_the_import_loads_neither_requests_nor_cattrs_nor_typing() -> None:
    code = (
        "import sys, identity_client; "
        "print(sorted({'requests', 'cattrs', 'attrs', 'backoff', 'typing'} & set(sys.modules)))"
    )
    # Isolated, and without site, whose .pth files may import anything.
    path = f"import sys; sys.path[:0] = {[str(Path(identity_client.__file__).parents[1])]!r}; "
    command = [sys.executable, "-I", "-S", "-c", path + code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_exported_classes_say_where_users_import_them_from() -> None:
    exported = [getattr(identity_client, name) for name in identity_client.__all__]
    classes = [value for value in exported if isinstance(value, type)]
    assert {cls.__module__ for cls in classes} == {"identity_client"}


def test_the_package_lists_its_names_before_they_are_loaded() -> None:
    assert set(identity_client.__all__) <= set(dir(identity_client))
