"""The external programs that tests run: Prometheus, promtool, Alertmanager, amtool; and a webhook receiver.

They are looked for in the cache that `tests/fetch_programs.sh` fills, then on PATH.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ollama-throughput-exporter/programs"
START_SECONDS = 30
PLAIN: dict[str, Any] = {"trust_env": False, "verify": False}
"""Options of httpx for loopback: no proxy, and no loading of certificates, which takes 50 ms per call."""
DEBIAN_TEMPLATES = b"/usr/share/prometheus/alertmanager"
"""The folder that Debian compiles into Alertmanager for its default templates; upstream embeds them."""


@dataclass(frozen=True, slots=True)
class Release:
    """One release of Prometheus, with the Alertmanager from the same source."""

    version: str
    prometheus: Path
    promtool: Path
    alertmanager: Path
    amtool: Path

    @property
    def major(self) -> int:
        """The major version: 2 or 3."""
        return int(self.version.partition(".")[0])


@cache
def releases() -> tuple[Release, ...]:
    """Return the complete releases on this machine, one per major version, oldest first."""
    found: dict[int, Release] = {}
    for folder in [*sorted(CACHE.glob("*/usr/bin")), *map(Path, os.get_exec_path())]:
        # The name in Debian is prometheus-alertmanager.
        alertmanager = folder / "prometheus-alertmanager"
        files = [
            folder / "prometheus",
            folder / "promtool",
            alertmanager if alertmanager.exists() else folder / "alertmanager",
            folder / "amtool",
        ]
        if all(file.exists() for file in files):
            answer = subprocess.run([files[0], "--version"], capture_output=True, text=True, check=True, timeout=60)
            version = re.search(r"version (\d+\.\d+\.\d+)", answer.stdout + answer.stderr)
            assert version, f"{files[0]} --version says {answer.stdout!r}"
            release = Release(version[1], *files)
            found.setdefault(release.major, release)
    return tuple(release for _, release in sorted(found.items()))


def find_program(name: str) -> Path | None:
    """Return the path of a program, from PATH or the cache, or None."""
    plugins = sorted(CACHE.glob(f"*/usr/libexec/docker/cli-plugins/{name}"))
    found = shutil.which(name) or next(iter([*plugins, *sorted(CACHE.glob(f"*/usr/bin/{name}"))]), None)
    return Path(found) if found else None


def free_port() -> int:
    """Return a free loopback port, for programs that do not accept port 0. Another program may take it first."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the URL answers 200.

    Raises:
        AssertionError: The process ended, or 30 s passed. The message contains the end of its log.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, **PLAIN, timeout=2).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{process.args!r} does not answer at {url}:\n{log.read_text()[-3000:]}")


@contextmanager
def running(command: Sequence[str | Path], ready_url: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the context ends, and yield its process once it is ready. Its output goes to `folder/log`."""
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command], cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        wait_for(ready_url, process, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    url: str
    release: Release
    process: subprocess.Popen[bytes]
    folder: Path

    def get(self, path: str, **parameters: str | float) -> Any:
        """Return `data` of a response of the HTTP API, for example of `alerts`."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, **PLAIN, timeout=30)
        assert answer.is_success, answer.text
        return answer.json()["data"]

    def query(self, expression: str, **parameters: str | float) -> list[tuple[dict[str, str], float]]:
        """Return the samples of an instant query as labels and value."""
        result = self.get("query", query=expression, **parameters)["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in result]

    def wait_for(self, expression: str, seconds: float = 30) -> list[tuple[dict[str, str], float]]:
        """Repeat a query until its result is not empty, and return it.

        Raises:
            AssertionError: It was still empty after `seconds`. The message contains the errors of the scrape targets.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if samples := self.query(expression):
                return samples
            time.sleep(0.1)
        targets = [(t["scrapeUrl"], t["lastError"]) for t in self.get("targets")["activeTargets"]]
        raise AssertionError(f"{expression} was empty for {seconds} s. Targets: {targets}")


@contextmanager
def run_prometheus(release: Release, config: str, folder: Path, *flags: str) -> Iterator[Prometheus]:
    """Run Prometheus with a configuration; its data is in `folder/data`, which may contain blocks already.

    The first scrape and the discovery of Alertmanager come about 5 s after the start. Alerts are resent every second;
    by default, an alert that fired before the discovery would be sent a minute later.
    """
    (folder / "prometheus.yml").write_text(config)
    url = f"http://127.0.0.1:{free_port()}"
    command: list[str | Path] = [
        release.prometheus,
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        "--rules.alert.resend-delay=1s",
        f"--web.listen-address={url.removeprefix('http://')}",
        *flags,
    ]
    with running(command, f"{url}/-/ready", folder) as process:
        yield Prometheus(url, release, process, folder)


@contextmanager
def run_alertmanager(release: Release, config: str, folder: Path) -> Iterator[str]:
    """Run Alertmanager with a configuration, without clustering, and yield its URL."""
    (folder / "alertmanager.yml").write_text(config)
    url = f"http://127.0.0.1:{free_port()}"
    command: list[str | Path] = [
        alertmanager_program(release, folder),
        "--config.file=alertmanager.yml",
        "--storage.path=data",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",
    ]
    with running(command, f"{url}/-/ready", folder):
        yield url


def alertmanager_program(release: Release, folder: Path) -> Path:
    """Return an Alertmanager that starts with `folder` as its working directory.

    Debian's program reads its default templates from an absolute path, which does not exist where the package was only
    unpacked. In that case the program is copied, with a relative path of the same length in place of that path.
    """
    templates = release.alertmanager.parents[1] / "share/prometheus/alertmanager"
    if not templates.is_dir() or templates == Path(os.fsdecode(DEBIAN_TEMPLATES)):
        return release.alertmanager
    shutil.copytree(templates, folder / "templates")
    program = folder / "alertmanager"
    relative = b"templates".ljust(len(DEBIAN_TEMPLATES), b"/")
    program.write_bytes(release.alertmanager.read_bytes().replace(DEBIAN_TEMPLATES, relative))
    program.chmod(0o700)
    return program


class Webhook:
    """A receiver of Alertmanager's webhook that keeps the posted documents."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._posted: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def put(self, body: bytes) -> None:
        """Keep a posted JSON document."""
        self._posted.put(json.loads(body))

    def receive(self, seconds: float = 60) -> Any:
        """Return the next posted document. Raises `queue.Empty` if none arrives within `seconds`."""
        return self._posted.get(timeout=seconds)


@contextmanager
def run_webhook() -> Iterator[Webhook]:
    """Run a webhook receiver on a free loopback port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            webhook.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Do not log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        webhook = Webhook(f"http://127.0.0.1:{server.server_address[1]}/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield webhook
        finally:
            server.shutdown()
            thread.join()
