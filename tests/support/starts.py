"""A start that fails."""

from __future__ import annotations

from identity_client import IdentityBootstrapService, NotReadyError, TokenEndpointError


def failure_of_start(service: IdentityBootstrapService) -> TokenEndpointError:
    """Return why pre-configured credentials bring no token.

    Tried again where a stall of a second ended the caller's time before the request's.
    """
    for _ in range(3):
        try:
            service.start()
        except TokenEndpointError as error:
            return error
        except NotReadyError:
            continue
        raise AssertionError("it has started")
    raise AssertionError("the request did not end in time, three times")
