"""The room's one thread: a driver is not asked from two sides at once, and never from the event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class Worker:
    """Runs calls one after the other. Its thread is a daemon, so that a driver that hangs cannot hold up the exit."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._work, name="gpu", daemon=True).start()

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Have `function` called on the thread, after all that was submitted before."""
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - it is the caller's, whatever it is
                future.set_exception(error)

        self._calls.put(call)
        return future

    def close(self) -> None:
        """Let the thread end after what has been submitted; it is not waited for."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
