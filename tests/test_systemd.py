"""Notifications to systemd, received on a socket as systemd opens it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemons import daemon, target

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine
from exporter.systemd import ServiceNotifier

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets on this platform")
WATCHDOG_SECONDS = 0.1


class Manager:
    """A service manager's side of the socket."""

    def __init__(self, address: str) -> None:
        self.environ = {"NOTIFY_SOCKET": address.replace("\0", "@"), "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6))}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(0)

    def received(self) -> list[str]:
        """Return the notifications since the last call."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(1000).decode())
            except BlockingIOError:
                return found

    async def wait_for(self, count: int) -> list[str]:
        """Return the next notifications, at least this many."""
        found: list[str] = []
        async with asyncio.timeout(60):
            while len(found) < count:
                found += self.received()
                await asyncio.sleep(0.01)
        return found


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """Return a manager that listens on a path, and one on an abstract address."""
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("abstract addresses exist on Linux only")
    found = Manager(str(tmp_path / "notify") if request.param == "path" else f"\0otpe-{os.getpid()}-{id(request)}")
    with found.socket:
        yield found


async def test_watchdog_is_fed_until_the_service_stops(manager: Manager) -> None:
    """READY comes first, WATCHDOG regularly, STOPPING last."""
    notifier = ServiceNotifier(manager.environ)
    assert manager.received() == []
    notifier.ready()
    notifications = await manager.wait_for(4)
    notifier.stopping()
    await asyncio.sleep(2 * WATCHDOG_SECONDS)

    assert notifications[0] == "READY=1"
    assert set(notifications[1:]) == {"WATCHDOG=1"}
    assert manager.received()[-1] == "STOPPING=1"


async def test_blocked_loop_does_not_feed_the_watchdog(manager: Manager) -> None:
    """While the event loop is blocked, nothing is sent; afterwards it is fed again."""
    notifier = ServiceNotifier(manager.environ)
    notifier.ready()
    manager.received()
    time.sleep(5 * WATCHDOG_SECONDS)  # noqa: ASYNC251 - it blocks the loop on purpose

    assert manager.received() == []
    assert await manager.wait_for(1) == ["WATCHDOG=1"]
    notifier.stopping()


@pytest.mark.parametrize("changes", [{"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_PID": "1"}], ids=str)
async def test_watchdog_of_another_process_is_not_fed(manager: Manager, changes: dict[str, str]) -> None:
    """Without a timeout for this process only READY and STOPPING are sent."""
    notifier = ServiceNotifier(manager.environ | changes)
    notifier.ready()
    await asyncio.sleep(WATCHDOG_SECONDS)
    notifier.stopping()

    assert manager.received() == ["READY=1", "STOPPING=1"]


async def test_missing_socket_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A manager that does not listen is a warning, not an error of the service."""
    ServiceNotifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()

    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_nothing_is_sent_without_systemd(caplog: pytest.LogCaptureFixture) -> None:
    """Without systemd nothing is sent and nothing is logged."""
    notifier = ServiceNotifier({"WATCHDOG_USEC": "1000"})
    notifier.ready()
    notifier.stopping()

    assert caplog.records == []


async def test_daemon_notifies(manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon notifies when it listens, feeds the watchdog, and notifies when it stops."""
    for name, value in manager.environ.items():
        monkeypatch.setenv(name, value)
    async with OllamaServer(ScriptedEngine()) as server, daemon(tmp_path, [target(server)]) as running:
        notifications = await manager.wait_for(3)
        assert await running.end() == 0

    assert notifications[:3] == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]
    assert manager.received()[-1] == "STOPPING=1"
