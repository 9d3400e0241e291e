"""Checks that contact nothing: the settings, the files they name, and what does not go together."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from ...config import IdentityBootstrapConfig
from ..settings import read_settings, store_problem
from .model import Facts, Finding, fail, ok, warn

_OF_UWSGI = {
    f"UWSGI_{name}"
    for name in ("HTTP", "HTTP_SOCKET", "SOCKET", "MODULE", "WSGI_FILE", "PROCESSES", "WORKERS")
}

_SETTINGS = attrs.fields_dict(IdentityBootstrapConfig)


def check_settings(facts: Facts, _: str) -> Finding:
    """Read all settings; problems of files and of half-given credentials are other checks'."""
    settings = read_settings(facts.environ)
    facts.config, facts.problems = settings.config, settings.problems
    if settings.config is not None and (problem := store_problem(settings.config)):
        facts.problems = (problem,)
    problems = [problem for problem in facts.problems if _owner(problem, facts) == "ID101"]
    if problems:
        return fail("\n".join(problems), "set or correct these variables")
    if settings.warnings:
        return warn("\n".join(settings.warnings), "correct the variable, or remove it")
    return ok("all settings can be used")


def check_files(facts: Facts, _: str) -> Finding | None:
    """Look at the files that settings name."""
    problems = [problem for problem in facts.problems if _owner(problem, facts) == "ID102"]
    if problems:
        return fail("\n".join(problems), "check the mount, the file's mode and its content")
    files = list(_files(facts.environ))
    stale = [str(path) for path, _ in files if is_on_deleted_mount(path)]
    if stale:
        return fail(
            f"{', '.join(stale)}: what was mounted there is deleted, so the file never changes",
            "mount the whole volume, not a subPath of it, and restart the pod",
        )
    loose = [str(path) for path, is_secret in files if is_secret and _is_loose(path)]
    if loose:
        return warn(
            f"other users of this machine can read {', '.join(loose)}",
            f"chmod 600 {' '.join(loose)}",
        )
    return ok(f"{len(files)} files can be read") if files else None


def check_credentials_complete(facts: Facts, _: str) -> Finding | None:
    """Look for credentials of which one or two parts of three are missing."""
    problems = [problem for problem in facts.problems if _owner(problem, facts) == "ID103"]
    if problems:
        return fail(
            "\n".join(problems),
            "set SERVICE_CLIENT_ID, SERVICE_CLIENT_SECRET (or "
            "SERVICE_CLIENT_SECRET_FILE) and SERVICE_TOKEN_ENDPOINT, or none of them",
        )
    config = facts.config
    if config is None:
        return None
    if config.preconfigured_credentials is not None:
        return ok(f"client {config.client_id!r} is pre-configured; the service does not register")
    return ok(f"the service {config.service_name!r} registers with identity-api")


def check_workers(facts: Facts, _: str) -> Finding:
    """Look for several processes that share nothing."""
    config, workers = facts.settings, _workers(facts.environ)
    shares_nothing = config.credential_store.startswith("memory:")
    if config.preconfigured_credentials is not None or not shares_nothing:
        return ok("any number of processes can share the credentials")
    if workers is None:
        return ok("one process, as far as the environment says; memory: shares nothing")
    return fail(
        f"{workers} starts several processes, and with memory: each registers for itself and "
        "invalidates the secret of the others",
        "set IDENTITY_CREDENTIAL_STORE to a store that they share, such as file:///path",
    )


def check_threads(facts: Facts, _: str) -> Finding | None:
    """Look for a uWSGI that runs no threads, or lets them block the loop of gevent."""
    environ = facts.environ
    # A Service of this name in Kubernetes sets others; and what an ini file has is not known.
    if _OF_UWSGI.isdisjoint(environ) or "UWSGI_INI" in environ:
        return None
    threads = environ.get("UWSGI_THREADS", "")
    has_several = threads.isdigit() and int(threads) > 1
    if not has_several and not _is_on(environ, "UWSGI_ENABLE_THREADS"):
        return warn(
            "uWSGI runs without threads, as far as the environment says: nothing refreshes the "
            "token ahead, and callers wait for it",
            "set UWSGI_ENABLE_THREADS=true (enable-threads = true)",
        )
    if _is_on(environ, "UWSGI_GEVENT") and not _is_on(
        environ, "UWSGI_GEVENT_MONKEY_PATCH", "UWSGI_GEVENT_EARLY_MONKEY_PATCH"
    ):
        return warn(
            "gevent does not patch threads, as far as the environment says: a caller that waits "
            "for a token blocks all others of its process",
            "set UWSGI_GEVENT_MONKEY_PATCH=true (gevent-monkey-patch = true)",
        )
    return ok("uWSGI runs threads")


def _is_on(environ: Mapping[str, str], *variables: str) -> bool:
    return any(environ.get(name, "").lower() not in ("", "0", "false") for name in variables)


def _owner(problem: str, facts: Facts) -> str:
    """Return the id of the check that reports a problem."""
    if "which belong together" in problem:
        return "ID103"
    variable = problem.partition("(")[2].partition(")")[0]
    of_file = f"{variable}_FILE" in facts.environ or "names the file" in problem
    return "ID102" if of_file else "ID101"


def _files(environ: Mapping[str, str]) -> Iterator[tuple[Path, bool]]:
    """Yield the files that the settings name, and whether each is a secret."""
    for setting in _SETTINGS.values():
        variable = setting.metadata["env"]
        if setting.metadata["secret"] and f"{variable}_FILE" in environ:
            yield Path(environ[f"{variable}_FILE"]), True
    for variable, is_secret in (("IDENTITY_CLIENT_CERT", True), ("IDENTITY_CA_BUNDLE", False)):
        yield from (
            (Path(name), is_secret) for name in environ.get(variable, "").split(",") if name
        )


def _is_loose(path: Path) -> bool:
    """Whether others may read it; not those of Kubernetes, whose pods have one user."""
    if path.is_symlink() and "..data" in str(path.readlink()):
        return False
    mode = path.stat().st_mode
    return stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)


def is_on_deleted_mount(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether a file is mounted whose original is deleted, as a subPath is after an update."""
    try:
        lines = mounts.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    points = (line.split(" ")[3:5] for line in lines)
    return any(root.endswith("//deleted") and point == str(path) for root, point in points)


def _workers(environ: Mapping[str, str]) -> str | None:
    """Return the setting that starts more than one process, or None."""
    for variable in ("WEB_CONCURRENCY", "UWSGI_PROCESSES", "UWSGI_WORKERS"):
        count = environ.get(variable, "")
        if count.isdigit() and int(count) > 1:
            return f"{variable}={count}"
    found = re.search(r"(?:-w|--workers)[ =]*(\d+)", environ.get("GUNICORN_CMD_ARGS", ""))
    return f"GUNICORN_CMD_ARGS with {found[0]}" if found and int(found[1]) > 1 else None
