"""The contract against what a generator of requests makes of it: schemathesis, on both servers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.environments import EmbeddedEnvironment, IdentityEnvironment
from support.services import INTERNAL_TOKEN

CONTRACT = Path(__file__).parents[2] / "docs" / "identity-api.openapi.yaml"

# The same texts in one pattern: schemathesis makes none where `not` has one with surrogates.
_MARKS = r"\u0000-\u001f\u007f-\u009f"
TEXT = rf"^[^{_MARKS}]*[^\s{_MARKS}][^{_MARKS}]*$"


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    """The contract as schemathesis can read it."""
    document = yaml.safe_load(CONTRACT.read_text("utf-8"))
    text = document["components"]["schemas"]["Text"]
    del text["not"]
    text["pattern"] = TEXT
    path = tmp_path / "contract.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("token", [INTERNAL_TOKEN, "wrong"], ids=["token", "wrong token"])
def test_no_request_makes_the_server_fail_or_break_the_contract(
    environment: IdentityEnvironment, contract: Path, token: str, tmp_path: Path
) -> None:
    checks = [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "unsupported_method",
        "ignored_auth",
    ]
    if token == INTERNAL_TOKEN:
        checks.append("negative_data_rejection")
        if isinstance(environment, EmbeddedEnvironment):
            # Keycloak takes shorter names than the contract does.
            checks.append("positive_data_acceptance")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", str(contract)),
            *("--url", environment.url, "--header", f"Authorization: Bearer {token}"),
            *("--checks", ",".join(checks), "--phases", "examples,coverage,fuzzing"),
            *("--max-examples", "50", "--generation-deterministic", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
