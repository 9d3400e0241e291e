"""The cache and the worker, each with a defect sown into it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from identity_client._tokens import cache as token_cache
from identity_client._tokens import worker


class Defect(NamedTuple):
    """A piece of the source and what replaces it."""

    name: str
    original: str
    replacement: str
    module: ModuleType = token_cache


DEFECTS = [
    Defect(
        "the lock is dropped where an attempt begins",
        'due and none is under way."""\n        with self._lock:',
        'due and none is under way."""\n        if True:',
    ),
    Defect(
        "waiters are not notified of a token",
        "            self._renew_fast_path(self._clock.monotonic())\n"
        "            self._outcome.notify_all()",
        "            self._renew_fast_path(self._clock.monotonic())",
    ),
    Defect(
        "waiters are not notified of a failure",
        "                self.snapshot, self._rejected = self._rejected, NO_TOKEN\n"
        "            self._outcome.notify_all()",
        "                self.snapshot, self._rejected = self._rejected, NO_TOKEN",
    ),
    Defect(
        "expiry is checked after the throttle",
        "        if snapshot.usable_seconds(self._clock) <= 0:\n            return None",
        "        if snapshot.usable_seconds(self._clock) <= 0"
        " and self._active_failure(now) is None:\n            return None",
    ),
    Defect(
        "the generation is not checked",
        "            if attempt.generation != self._generation:",
        "            if attempt.generation > self._generation:",
    ),
    Defect(
        "rejections have no brake",
        "            if not was_revoked and now < self._next_rejection_at:",
        "            if now < -1:",
    ),
    Defect(
        "a rejected token does not come back",
        "                self.snapshot, self._rejected = self._rejected, NO_TOKEN\n",
        "                self._rejected = NO_TOKEN\n",
    ),
    Defect(
        "waiters are left behind by a worker that ends",
        "            self.worker_exits += 1\n",
        "            pass\n",
    ),
    Defect(
        "there is no pause after a failure",
        "self.failure.retry_at - now\n",
        "-1.0\n",
    ),
    Defect(
        "callers within a pause do not get the failure",
        "        if failure is None or failure.final or now < failure.retry_at:",
        "        if failure is None or failure.final:",
    ),
    Defect(
        "a worker that dies leaves its attempt open",
        "        except BaseException as error:\n",
        "        except Exception as error:\n",
        worker,
    ),
    Defect(
        "listeners are called before the token is published",
        "            if self._cache.publish(attempt, snapshot):\n",
        "            self._events.deliver()\n"
        "            if self._cache.publish(attempt, snapshot):\n",
        worker,
    ),
]

# Not among the others: no schedule shows it, but an exception between two instructions.
PYTHON_LOCK = Defect(
    "the lock is taken by Python code",
    "        with self._lock:\n            self._refresh_at = min(",
    "        with self._work:\n            self._refresh_at = min(",
)


def sow(defect: Defect, folder: Path) -> tuple[Any, str]:
    """Return a module with a defect, and the file that it is in."""
    source = Path(str(defect.module.__file__)).read_text(encoding="utf-8")
    assert source.count(defect.original) == 1, f"the source has changed: {defect.name}"
    file = folder / "mutant.py"
    file.write_text(source.replace(defect.original, defect.replacement), encoding="utf-8")
    name = f"{defect.module.__package__}.mutant"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    # The worker and the checks know the classes of the original.
    for name in ("Failure", "Invalidation", "WorkerGone"):
        setattr(module, name, getattr(token_cache, name))
    return module, str(file)
