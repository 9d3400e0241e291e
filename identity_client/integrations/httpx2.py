"""Access tokens for httpx2: ``httpx2.Client(auth=IdentityAuth(service))``, sync or async.

Needs the extra ``httpx2``: ``pip install "xemahq-identity-client[httpx2]"``.
"""

from __future__ import annotations

import httpx2

from ._httpx import IdentityAuthFlows

__all__ = ["IdentityAuth"]


class IdentityAuth(IdentityAuthFlows, httpx2.Auth):
    __doc__ = IdentityAuthFlows.__doc__
