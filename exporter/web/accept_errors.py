"""Errors of accepting connections: asyncio logs a hundred a second with tracebacks while file descriptors are used up.

asyncio tries again after a second by itself, so nothing but the log needs care.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable

INTERVAL_SECONDS = 60
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class AcceptErrorFilter(logging.Filter):
    """Lets one message a minute pass, without its traceback; other messages are not changed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Let the first message pass."""
        super().__init__()
        self._clock = clock
        self._next = -float("inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the message is logged."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, OSError) or error.errno not in _OUT_OF_RESOURCES:
            return True
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + INTERVAL_SECONDS
        record.msg, record.args, record.exc_info = "failed to accept a connection, trying again every second", (), None
        record.fields = {"error": str(error)}
        return True
