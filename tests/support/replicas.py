"""Replicas of one service: real processes that start together and do as they are told.

As a script this is their parent: it forks them from one that has imported everything and has no
other thread, hands them commands, kills some, and collects what they answer.
"""

from __future__ import annotations

import base64
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Self

from identity_client import IdentityBootstrapConfig, IdentityBootstrapService, IdentityError

Reply = dict[str, Any]


class Replicas:
    """Processes of one service; a context manager that ends them."""

    def __init__(self, count: int, **settings: Any) -> None:
        arguments = json.dumps({"count": count, "settings": settings})
        self._parent = subprocess.Popen(
            [sys.executable, "-W", "error", __file__, arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def send(self, do: str, *, kill: int = 0, within: float = 0.0, **arguments: Any) -> None:
        """Tell all replicas to do something, and kill some while they are at it."""
        command = {"do": do, "kill": kill, "within": within, **arguments}
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps(command).encode() + b"\n")
        self._parent.stdin.flush()

    def collect(self) -> list[Reply]:
        """Return what those who live answered."""
        assert self._parent.stdout is not None
        line = self._parent.stdout.readline()
        assert line, "the replicas' parent has died"
        replies: list[Reply] = json.loads(line)
        return replies

    def do(self, what: str, **arguments: Any) -> list[Reply]:
        self.send(what, **arguments)
        return self.collect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._parent.communicate(timeout=30)


# --- in a replica ---


def _expires_at(token: str) -> float:
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return float(claims["exp"])


def _call(service: IdentityBootstrapService, timeout: float) -> Reply:
    began, at = time.monotonic(), time.time()
    try:
        reply: Reply = {"token": service.get_access_token(timeout)}
    except IdentityError as error:
        reply = {"error": f"{type(error).__name__}: {error}"}
    return {**reply, "at": at, "seconds": time.monotonic() - began}


def _serve(service: IdentityBootstrapService, seconds: float) -> Reply:
    """Ask for a token all the time; count the calls that failed, and tokens that had expired."""
    calls, expired, longest, errors = 0, 0, 0.0, []
    end = time.monotonic() + seconds
    token, at = "", 0.0
    while time.monotonic() < end:
        reply = _call(service, 5.0)
        calls += 1
        token, at = reply.get("token", ""), reply["at"]
        longest = max(longest, reply["seconds"])
        if token:
            expired += _expires_at(token) <= at
        else:
            errors.append(reply["error"])
        time.sleep(0.005)
    return {
        "calls": calls,
        "expired": expired,
        "errors": errors,
        "longest": longest,
        "token": token,
        "at": at,
    }


def _replica(settings: Any, commands: socket.socket) -> None:
    service = IdentityBootstrapService(IdentityBootstrapConfig(**settings))
    with commands.makefile("rw") as stream:
        for line in stream:
            command = json.loads(line)
            if command["do"] == "token":
                reply = _call(service, command["timeout"])
            elif command["do"] == "refresh":
                service.invalidate_token(service.get_access_token(), was_accepted=True)
                reply = _call(service, command["timeout"])
            else:
                reply = _serve(service, command["seconds"])
            reply["state"] = service.status().state.value
            stream.write(json.dumps(reply) + "\n")
            stream.flush()
    service.close()


# --- in their parent ---


def _fork(settings: Any) -> tuple[int, socket.socket]:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        ours.close()
        try:
            _replica(settings, theirs)
        finally:
            os._exit(0)
    theirs.close()
    return pid, ours


def _main() -> None:
    given = json.loads(sys.argv[1])
    from identity_client.stores import file, redis  # noqa: F401  # once, and not in every replica

    replicas = dict(_fork(given["settings"]) for _ in range(given["count"]))
    for line in sys.stdin:
        command = json.loads(line)
        for replica in replicas.values():
            replica.sendall(line.encode())
        began = time.monotonic()
        victims = random.sample(sorted(replicas), command["kill"])
        kills = sorted((began + random.random() * command["within"], pid) for pid in victims)
        waiting = {replica: pid for pid, replica in replicas.items()}
        answers: dict[int, bytes] = dict.fromkeys(replicas, b"")
        while waiting or kills:
            pause = max(kills[0][0] - time.monotonic(), 0) if kills else None
            for replica in select.select(list(waiting), [], [], pause)[0]:
                pid = waiting[replica]
                answers[pid] += (part := replica.recv(65536))
                if not part or answers[pid].endswith(b"\n"):
                    del waiting[replica]
            while kills and kills[0][0] <= time.monotonic():
                pid = kills.pop(0)[1]
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                waiting.pop(replicas.pop(pid), None)
                answers[pid] = b""
        print(json.dumps([json.loads(answer) for answer in answers.values() if answer]), flush=True)
    for replica in replicas.values():
        replica.close()
    for pid in replicas:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    _main()
