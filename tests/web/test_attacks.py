"""Attacks on the HTTP server of a running daemon: memory stays bounded, and `/metrics` is answered to others.

Each prints what it cost; `pytest -s` shows it. The time that others wait is asserted generously, because the machine
that runs the tests may be busy.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.web_attacks import (
    MEBIBYTE,
    Attacked,
    Watch,
    attacked_daemon,
    connections,
    drip,
    flood,
    get,
    gzip_bomb,
    post_bombs,
)

LONGEST_SECONDS = 1.0
STOP_SECONDS = 2.0
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"

DESCRIPTORS = 1300
"""File descriptors that these tests need for their connections. The usual limit is 1,024, which a process may raise."""

SOFT_LIMIT, HARD_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)

pytestmark = pytest.mark.skipif(
    resource.RLIM_INFINITY != HARD_LIMIT < DESCRIPTORS, reason="needs 1,300 file descriptors; see ulimit -Hn"
)


@pytest.fixture(scope="module", autouse=True)
def descriptors() -> Iterator[None]:
    """Raise the limit on file descriptors of the clients, which run in this process."""
    if resource.RLIM_INFINITY != SOFT_LIMIT < DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, HARD_LIMIT))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT_LIMIT, HARD_LIMIT))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """Yield a daemon with 200 targets of 5 models and the file descriptors that systemd allows."""
    with attacked_daemon(tmp_path_factory.mktemp("daemon"), targets=200, models=5, nofile=1024) as daemon:
        assert len(get(daemon.port, "/metrics")[1]) > 2 * MEBIBYTE
        yield daemon


def attack(daemon: Attacked, name: str, run: Callable[[], object]) -> Watch:
    """Run an attack while `/metrics` is watched, print what it cost, and return the watch."""
    before = daemon.peak_bytes
    with Watch(daemon.port) as watch:
        time.sleep(0.2)
        run()
        time.sleep(0.2)
    print(  # noqa: T201 - the figure is a result
        f"\n{name}: longest time without an answer {watch.longest_seconds * 1000:.0f} ms, {watch.answers} answers,"
        f" peak RSS {daemon.peak_bytes / MEBIBYTE:.0f} MiB (before {before / MEBIBYTE:.0f} MiB)"
    )
    return watch


def test_compressed_request_bodies(daemon: Attacked) -> None:
    """Four gzip bombs of 256 MiB are refused with 405 and cost nothing."""
    statuses: list[int] = []
    bomb = gzip_bomb(256)
    watch = attack(daemon, "gzip bombs", lambda: statuses.extend(post_bombs(daemon.port, 4, bomb)))

    assert statuses == [405] * 4
    assert watch.longest_seconds < LONGEST_SECONDS


def test_idle_connections(daemon: Attacked) -> None:
    """1,100 connections without a request do not lock out other clients, and are counted."""

    def idle() -> None:
        with connections(daemon.port, 1100) as opened:
            assert len(opened) == 1100
            time.sleep(2)

    before = daemon.value("ollama_probe_http_connections_rejected_total")
    watch = attack(daemon, "1,100 idle connections", idle)

    assert watch.longest_seconds < LONGEST_SECONDS
    assert daemon.value("ollama_probe_http_connections_rejected_total") - before >= 1100 - 128
    assert "asyncio" not in daemon.log


def test_clients_that_never_read(daemon: Attacked) -> None:
    """200 clients that ask for the page and do not read it: no copy of the page for each."""

    def ask() -> None:
        with connections(daemon.port, 200, SCRAPE):
            time.sleep(2)

    before = daemon.peak_bytes
    watch = attack(daemon, "200 clients that never read", ask)

    assert watch.longest_seconds < LONGEST_SECONDS
    assert daemon.peak_bytes - before < 60 * MEBIBYTE


def test_slow_heads(daemon: Attacked) -> None:
    """500 clients that send their headers byte by byte do not lock out other clients."""

    def slow() -> None:
        with connections(daemon.port, 500, SCRAPE[:-2] + b"X: ") as opened:
            drip(opened, 2)

    assert attack(daemon, "500 slow heads", slow).longest_seconds < LONGEST_SECONDS


@pytest.mark.parametrize("path", ["/metrics?name[]=x{}", "/metrics", "/", "/-/healthy"])
def test_floods(daemon: Attacked, path: str) -> None:
    """16 clients that ask as fast as they can do not make others wait, nor the health check."""
    slowest = 0.0

    def run() -> None:
        nonlocal slowest
        with Watch(daemon.port, "/-/healthy") as health:
            assert flood(daemon.port, 16, path.format, 2) > 0
        slowest = health.longest_seconds

    watch = attack(daemon, f"16 clients on {path}", run)

    assert watch.longest_seconds < LONGEST_SECONDS
    assert slowest < LONGEST_SECONDS


def test_few_file_descriptors(tmp_path: Path) -> None:
    """Where connections could use up all file descriptors, some are kept, and the log stays short."""
    with attacked_daemon(tmp_path, nofile=64) as daemon:

        def idle() -> None:
            with connections(daemon.port, 200):
                time.sleep(3)

        watch = attack(daemon, "200 idle connections at 64 file descriptors", idle)

        assert watch.longest_seconds < 2 * LONGEST_SECONDS
        assert len(daemon.log) < 5000
        assert daemon.stop() < STOP_SECONDS


def test_no_file_descriptors(tmp_path: Path) -> None:
    """Without any file descriptor left, one message is logged, and connections are accepted again afterwards."""
    with attacked_daemon(tmp_path, nofile=1024) as daemon:
        # As if probes used the others: from now on the process may open two more.
        used = 16
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (used, 1024))
        with connections(daemon.port, 60):
            time.sleep(3)
        errors = [line for line in daemon.log.splitlines() if "logger=asyncio" in line]
        assert len(errors) == 1
        assert "Too many open files" in errors[0]
        assert "Traceback" not in errors[0]

        time.sleep(1.2)  # asyncio tries again every second
        assert get(daemon.port, "/metrics")[0] == 200
        assert daemon.stop() < STOP_SECONDS
