"""Access tokens for httpx: ``httpx.Client(auth=IdentityAuth(service))``, sync or async.

Needs the extra ``httpx``: ``pip install "xemahq-identity-client[httpx]"``.
"""

from __future__ import annotations

import httpx

from ._httpx import IdentityAuthFlows

__all__ = ["IdentityAuth"]


class IdentityAuth(IdentityAuthFlows, httpx.Auth):
    __doc__ = IdentityAuthFlows.__doc__
