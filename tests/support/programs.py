"""Other people's programs that the tests run: Prometheus, promtool, Alertmanager; and what they need around them.

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
"""Loopback HTTP: no proxy, and no certificates to be loaded, which takes 50 ms of every call."""


@dataclass(frozen=True, slots=True)
class Release:
    """One release of Prometheus, with the Alertmanager that was packaged beside it."""

    version: str
    prometheus: Path
    promtool: Path
    alertmanager: Path
    amtool: Path

    @property
    def major(self) -> int:
        """2 or 3."""
        return int(self.version.partition(".")[0])


@cache
def releases() -> tuple[Release, ...]:
    """Return every complete release on this machine, oldest first, one per major version."""
    found: dict[int, Release] = {}
    for folder in [*sorted(CACHE.glob("*/usr/bin")), *map(Path, os.get_exec_path())]:
        # Debian calls it prometheus-alertmanager.
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
    """Return a single program by its name, from PATH or the cache, or None."""
    plugins = sorted(CACHE.glob(f"*/usr/libexec/docker/cli-plugins/{name}"))
    found = shutil.which(name) or next(iter([*plugins, *sorted(CACHE.glob(f"*/usr/bin/{name}"))]), None)
    return Path(found) if found else None


def free_port() -> int:
    """Return a loopback port that was free a moment ago, for programs that do not take port 0."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the URL answers 200.

    Raises:
        AssertionError: The process ended, or 30 s went by; the message holds the end of its log.
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
    """Run a program until the context ends, its output in `folder/log`, and yield its process once it is ready."""
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
        """Return the `data` of an answer of its HTTP API, for example of `alerts`."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, **PLAIN, timeout=30)
        assert answer.is_success, answer.text
        return answer.json()["data"]

    def query(self, expression: str, **parameters: str | float) -> list[tuple[dict[str, str], float]]:
        """Return an instant query's samples, each as its labels and its value."""
        result = self.get("query", query=expression, **parameters)["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in result]

    def wait_for(self, expression: str, seconds: float = 30) -> list[tuple[dict[str, str], float]]:
        """Return the first non-empty result of a query, asked again until then.

        Raises:
            AssertionError: It stayed empty; the message holds what its targets said.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if samples := self.query(expression):
                return samples
            time.sleep(0.1)
        targets = [(t["scrapeUrl"], t["lastError"]) for t in self.get("targets")["activeTargets"]]
        raise AssertionError(f"{expression} stayed empty for {seconds} s; targets: {targets}")


@contextmanager
def run_prometheus(release: Release, config: str, folder: Path, *flags: str) -> Iterator[Prometheus]:
    """Run Prometheus on a configuration, its data below `folder/data` (which may hold blocks already).

    The first scrape comes some 5 s after the start, so one server should serve many tests. So does the discovery of
    Alertmanager: alerts are sent again each second, else one that fired before would be next sent a minute later.
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
    """Run Alertmanager on a configuration and yield its URL; it joins no cluster."""
    (folder / "alertmanager.yml").write_text(config)
    url = f"http://127.0.0.1:{free_port()}"
    command: list[str | Path] = [
        release.alertmanager,
        "--config.file=alertmanager.yml",
        "--storage.path=data",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",
    ]
    with running(command, f"{url}/-/ready", folder):
        yield url


class Webhook:
    """A receiver for Alertmanager's webhook: keeps what was posted to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._posted: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def put(self, body: bytes) -> None:
        """Keep one posted JSON document."""
        self._posted.put(json.loads(body))

    def receive(self, seconds: float = 60) -> Any:
        """Return the next posted document, as JSON; raises `queue.Empty` when none comes in time."""
        return self._posted.get(timeout=seconds)


@contextmanager
def run_webhook() -> Iterator[Webhook]:
    """Run a webhook receiver on a loopback port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            webhook.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        webhook = Webhook(f"http://127.0.0.1:{server.server_address[1]}/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield webhook
        finally:
            server.shutdown()
            thread.join()
