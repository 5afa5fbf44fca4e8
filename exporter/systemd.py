"""Notifications to systemd, for a unit with Type=notify and WatchdogSec. Without NOTIFY_SOCKET nothing happens.

The protocol: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping

from exporter.logs import get_logger

log = get_logger(__name__)


class ServiceNotifier:
    """Notifies systemd that the service is ready or stopping, and from the event loop that the loop is not blocked."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Read the address and the watchdog's timeout; nothing is sent yet."""
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path  # @: in Linux's abstract namespace
        self._interval_seconds = _watchdog_seconds(environ) / 2  # half the timeout, as the manual recommends
        self._timer: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """Notify that the start is complete, and from now on regularly that the event loop runs."""
        self._send("READY=1")
        if self._address and self._interval_seconds:
            self._feed_watchdog()

    def stopping(self) -> None:
        """Notify that the service is stopping. systemd then no longer expects notifications from the event loop."""
        if self._timer is not None:
            self._timer.cancel()
        self._send("STOPPING=1")

    def _feed_watchdog(self) -> None:
        self._send("WATCHDOG=1")
        self._timer = asyncio.get_running_loop().call_later(self._interval_seconds, self._feed_watchdog)

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(0)
                sender.sendto(message.encode(), self._address)
        except OSError as error:
            log.warning("cannot notify systemd", notification=message, error=str(error))


def _watchdog_seconds(environ: Mapping[str, str]) -> float:
    """Return the time after which systemd restarts a service that does not notify, 0 if it does not watch this one."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    try:
        return max(0, int(environ.get("WATCHDOG_USEC", "0"))) / 1e6
    except ValueError:
        return 0
