"""The ``identity-client`` command; needs the extra ``cli``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command, or say what to install."""
    try:
        from .commands import cli  # the extra may be absent, and so may what it imports
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"identity-client: {error.name} is missing; pip install 'xemahq-identity-client[cli]'\n"
        )
        sys.exit(2)
    cli()
