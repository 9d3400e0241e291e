"""All checks, in order: each comes after those that it needs."""

from __future__ import annotations

from . import network_checks, server_checks, settings_checks, tls_checks
from .model import API, ENDPOINT, STORE, Check

_SETTINGS = ("ID101", "ID102", "ID103")


def _way_to(subject: str, *needs: str) -> tuple[Check, ...]:
    """Return the checks of the way to a server."""
    return (
        Check("ID201", "the host name resolves", network_checks.check_name, subject, needs),
        Check("ID202", "the proxy can be used", network_checks.check_proxy, subject, needs),
        Check(
            "ID203",
            "the server accepts connections",
            network_checks.check_connection,
            subject,
            ("ID201", "ID202"),
        ),
        Check("ID204", "TLS works, as the URL says", tls_checks.check_tls, subject, ("ID203",)),
    )


CHECKS = (
    Check("ID101", "the settings can be used", settings_checks.check_settings),
    Check("ID102", "the files of the settings can be used", settings_checks.check_files),
    Check("ID103", "the credentials are complete", settings_checks.check_credentials_complete),
    Check("ID601", "processes share credentials", settings_checks.check_workers, "", _SETTINGS),
    Check("ID602", "threads run in this server", settings_checks.check_threads),
    *_way_to(API, *_SETTINGS),
    Check("ID301", "it is an identity-api", server_checks.check_api, API, ("ID204",)),
    Check("ID302", "the internal token", server_checks.check_internal_token, API, ("ID301",)),
    Check("ID303", "the clocks agree", server_checks.check_clock, API, ("ID301",)),
    *_way_to(STORE, *_SETTINGS),
    Check("ID401", "the credential store", server_checks.check_store, STORE, ("ID204",)),
    Check("ID402", "credentials", server_checks.check_credentials, "", (*_SETTINGS, "ID401")),
    *_way_to(ENDPOINT, "ID402"),
    Check("ID501", "a token is issued", server_checks.check_token, ENDPOINT, ("ID204",)),
    Check("ID303", "the clocks agree", server_checks.check_clock, ENDPOINT, ("ID204",)),
)
