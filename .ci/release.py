"""Build the sdist and the wheel of the last commit, twice, and compare: the same bytes each time.

Takes the folder for the two files. What is in the checkout but not committed is left out, and all
times are the commit's.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


def main(target: Path) -> None:
    epoch = int(_git("log", "-1", "--format=%ct", "HEAD"))
    with tempfile.TemporaryDirectory() as folder:
        first, second = (_build(Path(folder) / name, epoch) for name in ("first", "second"))
        for one, other in zip(first, second, strict=True):
            if one.name != other.name or one.read_bytes() != other.read_bytes():
                sys.exit(f"not reproducible: {one.name} differs between two builds of one commit")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for built in first:
            shutil.copy(built, target)
            print(target / built.name)


def _build(folder: Path, epoch: int) -> list[Path]:
    """Build from a fresh copy of the last commit; return the sdist and the wheel."""
    with tarfile.open(fileobj=io.BytesIO(_git("archive", "HEAD"))) as tar:
        tar.extractall(folder, filter="data")
    subprocess.run(
        [sys.executable, "-m", "build", "--quiet", "."],
        cwd=folder,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
        check=True,
    )
    sdist, wheel = sorted((folder / "dist").iterdir(), key=lambda path: path.suffix)
    _normalize(sdist, epoch)
    return [sdist, wheel]


def _normalize(sdist: Path, epoch: int) -> None:
    """Write an sdist anew: setuptools gives its members the time and the owner of the build."""
    packed = io.BytesIO()
    with tarfile.open(sdist) as old, tarfile.open(fileobj=packed, mode="w") as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid = epoch, 0, 0
            member.uname = member.gname = ""
            member.mode = 0o755 if member.isdir() else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    sdist.write_bytes(gzip.compress(packed.getvalue(), mtime=epoch))


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], check=True, capture_output=True).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
