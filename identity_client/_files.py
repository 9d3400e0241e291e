"""Files that are replaced as a whole, and that only their owner may read."""

from __future__ import annotations

import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

FileId = tuple[int, int, int]
"""Device, inode and moment of a file: an inode alone may be given out again."""


def replace_file(path: Path, content: bytes) -> FileId:
    """Replace a file by one with mode 0600; a reader sees the old content or the new.

    It is written beside its place first, in a file that must not exist: one that another user has
    planted there, such as a link, is removed and not followed.

    Returns:
        What the file is known by, for `remove_file`.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with suppress(FileNotFoundError):
        unfinished.unlink()
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            written = _id_of(os.fstat(descriptor))
        unfinished.replace(path)
        return written
    finally:
        with suppress(OSError):
            unfinished.unlink()


def read_file(path: str) -> bytes:
    """Return what is in a regular file; a FIFO, of which a reader may wait for ever, is refused.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:  # Path.open has no opener
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is not a regular file")
        return file.read()


def remove_file(path: Path, written: FileId | None) -> None:
    """Remove a file if it is the one that `replace_file` wrote; another one is left alone."""
    with suppress(OSError):
        if written is not None and _id_of(path.lstat()) == written:
            path.unlink()


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # Windows has no FIFOs


def _id_of(status: os.stat_result) -> FileId:
    return status.st_dev, status.st_ino, status.st_mtime_ns
