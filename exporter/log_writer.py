"""The thread that writes log lines, so that a pipe that is not read, or a slow disk, blocks nothing else."""

from __future__ import annotations

import os
import threading
import time
from queue import SimpleQueue

LINES_MAX = 10_000
BYTES_MAX = 4 * 2**20
CLOSE_SECONDS = 0.5
"""Maximum wait at the end of the program for lines that have not been written."""
_RETRY_SECONDS = 0.05


class LogWriter:
    """Writes whole lines to a file descriptor from a daemon thread, in the order in which they are put.

    Lines that do not fit in the queue, and those that cannot be written, are dropped and counted. `put` never blocks.
    One thread may call it at a time: the lock of a logging handler ensures that.

    The queue is a `SimpleQueue`, which takes no Python lock: a finalizer that logs while the garbage collector runs
    inside `put` or inside the thread cannot deadlock.
    """

    def __init__(self, descriptor: int | None, *, lines_max: int = LINES_MAX, bytes_max: int = BYTES_MAX) -> None:
        """Start the thread. Without a descriptor, as when standard error is closed, every line is dropped."""
        self._descriptor = descriptor
        self._lines_max = lines_max
        self._bytes_max = bytes_max
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        # Each counter is changed by one thread only, so that none needs a lock.
        self._bytes_put = 0
        self._bytes_taken = 0
        self._dropped_before_queue = 0
        self._dropped_after_queue = 0
        self._line_is_incomplete = False
        self._thread = threading.Thread(target=self._write_lines, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """The number of lines that were dropped."""
        return self._dropped_before_queue + self._dropped_after_queue

    def put(self, line: bytes) -> None:
        """Queue a line, which ends with a newline, or drop it."""
        queued_bytes = self._bytes_put - self._bytes_taken + len(line)
        if self._descriptor is None or queued_bytes > self._bytes_max or self._queue.qsize() >= self._lines_max:
            self._dropped_before_queue += 1
            return
        self._bytes_put += len(line)
        self._queue.put(line)

    def drop(self) -> None:
        """Count a message that could not be made into a line."""
        self._dropped_before_queue += 1

    def flush(self, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """Wait until all lines have been written, or for the timeout."""
        deadline = time.monotonic() + timeout_seconds
        while self._bytes_taken < self._bytes_put and time.monotonic() < deadline:
            time.sleep(0.001)

    def close(self) -> None:
        """End the thread after the lines in the queue; wait for it at most `CLOSE_SECONDS`."""
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _write_lines(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                self._write(line)
            except OSError:  # no reader, no space, or closed: the next line may succeed
                self._dropped_after_queue += 1
            self._bytes_taken += len(line)

    def _write(self, line: bytes) -> None:
        assert self._descriptor is not None  # noqa: S101 - `put` queues nothing without one
        unwritten = b"\n" + line if self._line_is_incomplete else line
        while unwritten:
            try:
                count = os.write(self._descriptor, unwritten)
            except BlockingIOError:  # another process made the shared descriptor non-blocking
                time.sleep(_RETRY_SECONDS)
                continue
            unwritten = unwritten[count:]
            self._line_is_incomplete = bool(unwritten)
