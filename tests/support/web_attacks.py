"""Attacks on the daemon's HTTP server, and what they cost: memory, and time without an answer of `/metrics`."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import resource
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
import yaml

START_GUARD_SECONDS = 60
ANSWER_GUARD_SECONDS = 20
PAUSE_SECONDS = 0.02
MEBIBYTE = 2**20


class Watch:
    """Requests `/metrics` on new connections, in a thread, and keeps the longest time without an answer."""

    def __init__(self, port: int, path: str = "/metrics") -> None:
        self._port, self._path = port, path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.longest_seconds = 0.0
        self.answers = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(ANSWER_GUARD_SECONDS + 1)

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stop.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                if get(self._port, self._path, timeout=ANSWER_GUARD_SECONDS)[0] == 200:
                    now = time.monotonic()
                    self.longest_seconds = max(self.longest_seconds, now - last - PAUSE_SECONDS)
                    self.answers += 1
                    last = now
            self._stop.wait(PAUSE_SECONDS)
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - last - PAUSE_SECONDS)


def get(port: int, path: str, timeout: float = 5) -> tuple[int, bytes]:
    """Return status and body of one GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@dataclass
class Attacked:
    """A daemon in its own process, whose memory is watched."""

    process: subprocess.Popen[bytes]
    log_file: Path
    port: int = 0
    peak_bytes: int = 0
    _sampling: bool = True
    _sampler: threading.Thread | None = field(default=None, repr=False)

    def sample_memory(self) -> None:
        """Keep the largest resident memory, until the daemon ends."""
        process = psutil.Process(self.process.pid)

        def sample() -> None:
            with contextlib.suppress(psutil.Error):
                while self._sampling:
                    self.peak_bytes = max(self.peak_bytes, process.memory_info().rss)
                    time.sleep(0.01)

        self._sampler = threading.Thread(target=sample, daemon=True)
        self._sampler.start()

    @property
    def log(self) -> str:
        """What it has logged."""
        return self.log_file.read_text()

    def value(self, name: str) -> float:
        """Return the value of a metric without labels, 0 if it does not exist."""
        found = re.search(rf"^{name}(?:{{}})? (\S+)$", get(self.port, "/metrics")[1].decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def stop(self) -> float:
        """Send SIGTERM and return how many seconds the daemon took to end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        return time.monotonic() - began


@contextlib.contextmanager
def attacked_daemon(
    folder: Path,
    *,
    targets: int = 1,
    models: int = 1,
    nofile: int | None = None,
    environment: dict[str, str] | None = None,
    **settings: Any,
) -> Iterator[Attacked]:
    """Run the daemon with targets that refuse connections, and optionally few file descriptors."""
    servers = [
        {"name": f"gpu-{number}", "url": "http://127.0.0.1:1", "models": [f"model-{index}" for index in range(models)]}
        for number in range(targets)
    ]
    config = {"interval": "1h", "web": {"listen_address": ["127.0.0.1:0"]}, "targets": servers, **settings}
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    log_file = folder / "log"
    limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))) if nofile else None
    with log_file.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "exporter", "--config.file", str(folder / "config.yml")],
            stderr=stream,
            preexec_fn=limit,  # noqa: PLW1509 - no thread of the test holds a lock here
            env=os.environ | (environment or {}),
        )
    daemon = Attacked(process, log_file)
    try:
        wait_for(lambda: process.poll() is not None or re.search(r"127\.0\.0\.1:(\d+)", daemon.log))
        found = re.search(r"127\.0\.0\.1:(\d+)", daemon.log)
        assert found, daemon.log
        daemon.port = int(found[1])
        wait_for(lambda: get(daemon.port, "/-/ready")[0] == 200)
        daemon.sample_memory()
        yield daemon
    finally:
        daemon._sampling = False
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], object], seconds: float = START_GUARD_SECONDS) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gzip_bomb(mebibytes: int = 1024) -> bytes:
    """Return zeros of this size, compressed."""
    packer = zlib.compressobj(1, wbits=31)
    block = bytes(MEBIBYTE)
    return b"".join([packer.compress(block) for _ in range(mebibytes)]) + packer.flush()


def post_bombs(port: int, count: int, body: bytes) -> list[int]:
    """POST a compressed body at once on several connections; return the statuses, 0 where none came."""
    statuses = [0] * count

    def post(index: int) -> None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), ANSWER_GUARD_SECONDS) as client,
        ):
            head = f"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode())
            with contextlib.suppress(OSError):  # the server may close before it has everything
                client.sendall(body)
            statuses[index] = int(client.recv(100).split()[1])

    threads = [threading.Thread(target=post, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


@contextlib.contextmanager
def connections(port: int, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """Open connections, send the same on each and do not read."""
    opened = []
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            with contextlib.suppress(OSError):
                client = socket.create_connection(("127.0.0.1", port), 5)
                stack.callback(client.close)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                if sent:
                    client.sendall(sent)
                opened.append(client)
        yield opened


def drip(clients: list[socket.socket], seconds: float, byte: bytes = b"a") -> None:
    """Send one byte on each connection every 0.2 s."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for client in clients:
            with contextlib.suppress(OSError):
                client.send(byte)
        time.sleep(0.2)


def flood(port: int, count: int, paths: Callable[[int], str], seconds: float) -> int:
    """Send requests on keep-alive connections as fast as they are answered; return the number of answers."""
    selector = selectors.DefaultSelector()
    request = 0

    def send(client: socket.socket) -> None:
        nonlocal request
        request += 1
        client.sendall(f"GET {paths(request)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    answers = 0
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", port), 5)
            stack.callback(client.close)
            selector.register(client, selectors.EVENT_READ)
            send(client)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for key, _ in selector.select(0.1):
                client = key.fileobj  # type: ignore[assignment]
                data = client.recv(MEBIBYTE)
                answers += data.count(b"HTTP/1.1 ")
                if b"HTTP/1.1 " in data:  # the rest of a long answer is read with the next one
                    send(client)
    return answers
