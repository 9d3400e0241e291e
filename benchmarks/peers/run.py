"""Runs each measurement in a process of its own, against one endpoint, and collects the figures."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from .adapters import CLIENT, SECRET, Peer
from .rows import Figures, Row

BENCHMARKS = Path(__file__).parent.parent
AT_ONCE = 24
TIMEOUT = 60.0

_IMPORT = """
import time, os
def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
before, began = memory(), time.process_time()
{module}
imported = time.process_time() - began
{statement}
made = time.process_time() - began
from peers.adapters import PEERS
began = time.process_time()
peer = PEERS[{name!r}]({realm!r})
made += time.process_time() - began
print("{{", f'"import_ms": {{imported * 1e3}}, "made_ms": {{made * 1e3}},')
print(f'"mib": {{memory() - before}}', "}}", flush=True)
os._exit(0)
"""


class Runner:
    """Starts the processes that measure.

    Args:
        folder: where certificate and key are.
        ports: where the endpoint listens.
    """

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self._folder = folder
        self._ports = ports
        self._numbers = count()

    def measure(self, row: Row, peer: type[Peer]) -> dict[str, Figures]:
        """Return the figures of one run for each row that it measures."""
        # The name of the scenario is in the realm's, since some adapters are set up by it.
        realm = f"{row.scenario.replace('_', '-')}-{next(self._numbers)}"
        if row.scenario == "import":
            arguments = ["-c", self._import_code(peer, realm)]
        else:
            ports = json.dumps(self._ports)
            arguments = ["-m", "peers.scenarios", row.scenario, peer.name, realm, ports]
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=BENCHMARKS,
            env=self._environment(peer),
            capture_output=True,
            timeout=TIMEOUT + 2 * peer.due,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{row.id} of {peer.name} failed: {done.stderr.decode()[-2000:]}")
        figures = json.loads(done.stdout)
        return figures if row.scenario == "cost" else {row.id: figures}

    def _import_code(self, peer: type[Peer], realm: str) -> str:
        scheme = "https" if peer.tls else "http"
        return _IMPORT.format(
            module=peer.module or peer.statement,
            statement=peer.statement,
            name=peer.name,
            realm=f"{scheme}://127.0.0.1:{self._ports[scheme]}/{realm}",
        )

    def _environment(self, peer: type[Peer]) -> dict[str, str]:
        environment = {
            key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else an import would measure compiling
        environment["PEERS_KEY"] = str(self._folder / "key.pem")
        if peer.tls:
            bundle = str(self._folder / "bundle.pem")
            environment |= {"REQUESTS_CA_BUNDLE": bundle, "SSL_CERT_FILE": bundle}
        return environment


def run(rows: list[Row], peers: list[type[Peer]], note: str) -> dict[str, Any]:
    """Measure all rows for all libraries, those alone first, then the others side by side."""
    began, load = time.time(), os.getloadavg()[0]
    runs: dict[str, dict[str, list[Figures]]] = defaultdict(lambda: defaultdict(list))
    by_scenario: dict[str, Row] = {}
    for row in rows:
        by_scenario.setdefault(row.scenario, row)
    with endpoint() as runner:

        def job(row: Row, peer: type[Peer]) -> None:
            try:
                measured = runner.measure(row, peer)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(error, file=sys.stderr)
                return
            for row_id, figures in measured.items():
                runs[row_id][peer.name].append(figures)

        for alone in (True, False):
            jobs = [
                (row, peer)
                for row in by_scenario.values()
                if row.alone == alone
                for _ in range(row.repeats)
                for peer in peers
                if not row.not_for(peer)
            ]
            # The long ones first, so that none is left over at the end.
            jobs.sort(key=lambda job: 0 if alone else -job[1].due)
            print(f"{len(jobs)} measurements, {'one by one' if alone else 'side by side'} …")
            with ThreadPoolExecutor(1 if alone else AT_ONCE) as pool:
                list(pool.map(lambda arguments: job(*arguments), jobs))
    return {
        "command": "tox -e bench",
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began),
        "note": note,
        "machine": {
            **_machine(),
            "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
        },
        "versions": {peer.name: version(peer.package) for peer in peers if peer.name != "floor"},
        "notes": {peer.name: _note(peer) for peer in peers if _note(peer)},
        "rows": {row.id: _row(row, peers, runs[row.id]) for row in rows},
    }


def _row(row: Row, peers: list[type[Peer]], runs: dict[str, list[Figures]]) -> dict[str, Any]:
    dashes = {
        peer.name: row.not_for(peer) or "no measurement ended in time"
        for peer in peers
        if peer.name not in runs
    }
    # In the order of the libraries, whichever measurement ended first.
    ordered = {peer.name: runs[peer.name] for peer in peers if peer.name in runs}
    return {"title": row.title, "runs": ordered, "not_measured": dashes}


def _note(peer: type[Peer]) -> str:
    return "; ".join(filter(None, (peer.note, "over TLS, on which it insists" * peer.tls)))


def _machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
    }


@contextmanager
def endpoint() -> Iterator[Runner]:
    """Start the token endpoint, with a certificate of its own, and end it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_files(folder)
        process = subprocess.Popen(
            [sys.executable, "-m", "peers.endpoint", folder / "cert.pem", folder / "key.pem"],
            cwd=BENCHMARKS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert process.stdout is not None  # noqa: S101  # for the type checker
            yield Runner(folder, json.loads(process.stdout.readline()))
        finally:
            process.kill()
            process.wait()


def _write_files(folder: Path) -> None:
    from certifi import where
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    certificate = _certificate(key).public_bytes(serialization.Encoding.PEM)
    (folder / "cert.pem").write_bytes(certificate)
    # The usual bundle with ours, since it costs what the usual one costs.
    (folder / "bundle.pem").write_bytes(Path(where()).read_bytes() + certificate)
    user = {"application_username": CLIENT, "application_password": SECRET}
    (folder / "user.json").write_text(json.dumps(user))
    (folder / "client.json").write_text(json.dumps({"client_id": CLIENT, "client_secret": SECRET}))


def _certificate(key: Any) -> Any:
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
