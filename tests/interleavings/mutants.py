"""The cache with a defect sown into it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import NamedTuple

from identity_client import token_cache
from identity_client.token_cache import TokenCache


class Defect(NamedTuple):
    """A piece of the source and what replaces it."""

    name: str
    original: str
    replacement: str


DEFECTS = [
    Defect(
        "the lock is dropped where an attempt begins",
        'due and none is under way."""\n        with self._work:',
        'due and none is under way."""\n        if True:',
    ),
    Defect(
        "those who wait are not notified of a token",
        "            self._usable_token(self._clock.monotonic())\n"
        "            self._outcome.notify_all()",
        "            self._usable_token(self._clock.monotonic())",
    ),
    Defect(
        "those who wait are not notified of a failure",
        "                self.failure = failure\n            self._outcome.notify_all()",
        "                self.failure = failure",
    ),
    Defect(
        "expiry is checked after the throttle",
        "        if age >= snapshot.usable_for:",
        "        if age >= snapshot.usable_for and self._failure_in_force(now) is None:",
    ),
    Defect(
        "the generation is not checked",
        "            if flight.generation != self._generation:",
        "            if flight.generation > self._generation:",
    ),
]


def sow(defect: Defect, folder: Path) -> tuple[type[TokenCache], str]:
    """Return a cache with a defect, and the file that it is in."""
    source = Path(token_cache.__file__).read_text(encoding="utf-8")
    assert source.count(defect.original) == 1, f"the source has changed: {defect.name}"
    file = folder / "token_cache.py"
    file.write_text(source.replace(defect.original, defect.replacement), encoding="utf-8")
    name = f"{token_cache.__package__}.mutant"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    mutant: type[TokenCache] = module.TokenCache
    # The worker and the checks know the classes of the original.
    module.Failure = token_cache.Failure  # type: ignore[attr-defined]  # as above
    return mutant, str(file)
