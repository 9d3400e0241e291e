"""What is particular about uWSGI: it forks by itself, and may run without threads.

It forks without Python's hooks, unless told to call them, and at any time. A worker process that is
forked while a thread of the master holds the interpreter's lock waits for that lock for ever.
"""

from __future__ import annotations

import logging
import os
import sys
from functools import cache

_log = logging.getLogger("identity_client")


def is_master() -> bool:
    """Whether this is uWSGI's master process, in which no thread may be left running."""
    uwsgi = sys.modules.get("uwsgi")  # there is no such module elsewhere
    return uwsgi is not None and uwsgi.masterpid() == os.getpid()


@cache
def warn_without_threads() -> None:
    """Warn, once in a process, when threads stand still between requests."""
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is not None and not uwsgi.has_threads:
        _log.warning(
            "uWSGI runs without threads, so tokens cannot be replaced ahead of their end, and "
            "requests wait for new ones; set 'enable-threads = true' in uWSGI's configuration"
        )
